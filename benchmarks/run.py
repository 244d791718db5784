"""Every workload on every side, round by round in turn; then the report.

Run: make bench     (or: python -m benchmarks.run [--only 'idle|storm'] [--rounds 5] [--on mariadb])

All servers and processes share this machine, so what counts are ratios of figures from one run. The
sides alternate, each round in a new database, but for what takes minutes to fill. Writes a line of
JSON for each round, which `benchmarks.report` turns into Markdown and plots.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.stores import Servers

ROOT = Path(__file__).parents[1]
OURS = sys.executable
OTHERS = str(ROOT / ".venv-bench" / "bin" / "python")
BOTH = ("postgresql", "mariadb")
EMBEDDED = ("embedded",)
POSTGRESQL = ("postgresql",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What each side is asked to do; ``sides`` is module → further options."""

    name: str
    command: str
    options: str
    sides: dict[str, str]
    databases: tuple[str, ...] = POSTGRESQL
    fill_once: bool = False
    """Filling takes minutes: the side makes all rounds itself, on what it has filled once."""


ALONE = {"ours": ""}
WORKLOADS = [
    Workload(
        name="burst of 10,000",
        command="burst",
        options="--count 10000 --strategy rpush",
        sides={"ours": "", "original": ""},
        databases=BOTH,
    ),
    Workload(
        name="burst, empty strategy",
        command="burst",
        options="--count 10000 --strategy empty",
        sides={"ours": "", "original": "", "floor": ""},
        databases=BOTH,
    ),
    Workload(
        name="burst, alternatives",
        command="burst",
        options="--count 10000 --strategy rpush",
        sides={"celery_eta": "", "arq_jobs": "", "rabbit_ttl": ""},
    ),
    Workload(
        name="burst of 100,000",
        command="burst",
        options="--count 100000 --strategy rpush",
        sides=ALONE,
        databases=BOTH,
    ),
    *(
        Workload(
            name=f"burst of 10,000, {strategy} strategy, embedded",
            command="burst",
            options=f"--count 10000 --strategy {strategy}",
            sides={"embedded": ""},
            databases=EMBEDDED,
        )
        for strategy in ("rpush", "empty")
    ),
    Workload(
        name="scanner alone",
        command="scan",
        options="--count 100000",
        sides={"ours": "", "floor": ""},
    ),
    Workload(name="claim alone", command="claim", options="--count 100000", sides={"floor": ""}),
    Workload(
        name="lateness",
        command="lateness",
        options="--count 1000 --seconds 30",
        sides={"ours": "", "original": ""},
    ),
    Workload(
        name="lateness, alternatives",
        command="lateness",
        options="--count 1000 --seconds 30",
        sides={"celery_eta": "", "arq_jobs": "", "rabbit_ttl": ""},
    ),
    Workload(
        name="lateness, embedded",
        command="lateness",
        options="--count 1000 --seconds 30",
        sides={"embedded": ""},
        databases=EMBEDDED,
    ),
    Workload(
        name="lateness on MariaDB",
        command="lateness",
        options="--count 1000 --seconds 30",
        sides=ALONE,
        databases=("mariadb",),
    ),
    Workload(
        name="steady 1,000 a second",
        command="lateness",
        options="--count 60000 --seconds 60",
        sides=ALONE,
        databases=BOTH,
    ),
    Workload(
        name="arm",
        command="arm",
        options="--count 3000",
        sides={"ours": "", "original": ""},
        databases=BOTH,
    ),
    Workload(
        name="pool of 10,000 and of 5,000,000",
        command="pools",
        options="--count 10000 --others 5000000 --strategy empty",
        sides=ALONE,
        fill_once=True,
    ),
    Workload(
        name="idle, 1,000,000 armed",
        command="idle",
        options="--count 1000000 --seconds 60",
        sides={"ours": "", "original": ""},
    ),
    Workload(
        name="idle, 1,000,000 armed, on MariaDB",
        command="idle",
        options="--count 1000000 --seconds 60",
        sides=ALONE,
        databases=("mariadb",),
        fill_once=True,
    ),
    Workload(
        name="idle, 5,000,000 in the pool",
        command="idle",
        options="--others 5000000 --seconds 30",
        sides=ALONE,
        fill_once=True,
    ),
    *(
        Workload(
            name=f"slow strategies, {workers} workers",
            command="slow",
            options=f"--count {workers * 4000} --workers {workers} --concurrency 16",
            sides=ALONE,
            databases=BOTH,
        )
        for workers in (1, 2, 4)
    ),
    *(
        Workload(
            name=f"slow strategies, concurrency {concurrency}",
            command="slow",
            options=f"--count {concurrency * 200} --workers 1 --concurrency {concurrency}",
            sides=ALONE,
            databases=BOTH,
        )
        for concurrency in (32, 64)
    ),
    Workload(
        name="storm of 1,000,000",
        command="storm",
        options="--count 1000000",
        sides=ALONE,
        databases=BOTH,
    ),
]
Result = dict[str, Any]


def run_side(
    module: str,
    command: list[str],
    stores: str,
    *,
    checkout: Path = ROOT,
    python: str | None = None,
) -> list[Result]:
    """The result of each round that the side made, with the code of this checkout."""
    if python is None:
        python = OURS if module in ("ours", "embedded", "floor") else OTHERS
    done = subprocess.run(
        [python, "-m", f"benchmarks.sides.{module}", *command],
        env={**os.environ, "BENCH_STORES": stores},
        cwd=checkout,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{module} {' '.join(command)}:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    results: Result | list[Result] = json.loads(done.stdout.splitlines()[-1])
    return results if isinstance(results, list) else [results]


def run_workload(workload: Workload, rounds: int, out: Path, on: str | None = None) -> None:
    """Append a line for each round, side and database."""
    for database in (each for each in workload.databases if on in (None, each)):
        with (
            tempfile.TemporaryDirectory() as directory,
            Servers(Path(directory), database).running() as servers,
        ):
            for number in range(1 if workload.fill_once else rounds):
                for module, more in workload.sides.items():
                    command = [workload.command, *workload.options.split(), *more.split()]
                    if workload.fill_once:
                        command += ["--rounds", str(rounds)]
                    machine_seconds = yardstick()
                    results = run_side(module, command, servers.fresh().to_json())
                    for round_, result in enumerate(results, number):
                        shown = {k: v for k, v in result.items() if not isinstance(v, list)}
                        print(f"{workload.name} | {database} | {module} | {shown}", flush=True)
                        line = {
                            "workload": workload.name,
                            "database": database,
                            "side": module,
                            "round": round_,
                            "date": time.strftime("%Y-%m-%d", time.gmtime()),
                            "command": " ".join(command),
                            "yardstick_seconds": machine_seconds,
                            "result": result,
                        }
                        with out.open("a", encoding="utf-8") as file:
                            file.write(json.dumps(line) + "\n")


def yardstick() -> float:
    """How loud the machine is just now: seconds for ten million additions."""
    began, total = time.perf_counter(), 0
    for number in range(1_000_000):
        total += number
    return 10 * (time.perf_counter() - began)


def machine() -> Result:
    """What the figures were taken on."""
    versions = {
        name: subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
        for name, command in {
            "Redis": ["redis-server", "--version"],
            "RabbitMQ": ["dpkg-query", "-W", "-f", "${Version}", "rabbitmq-server"],
            "PostgreSQL": ["psql", "--version"],
            "MariaDB": ["mariadb", "--version"],
        }.items()
    }
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return {
        "cores": os.cpu_count(),
        "processor": model,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "load_before": os.getloadavg()[0],
        **versions,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--only", default="", help="workloads, by the beginning of their names: idle|storm"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--on", choices=[*BOTH, *EMBEDDED], help="one database; else all")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "bench" / "results.jsonl")
    options = parser.parse_args()
    chosen = [
        each
        for each in WORKLOADS
        if not options.only or each.name.startswith(tuple(options.only.split("|")))
    ]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({"machine": machine(), "rounds": options.rounds}) + "\n")
    for workload in chosen:
        run_workload(workload, options.rounds, options.out, options.on)
    print(f"written: {options.out}")


if __name__ == "__main__":
    main()
