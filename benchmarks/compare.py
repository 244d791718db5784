"""Two checkouts in turn: is this one faster or slower than the other?

Run: python -m benchmarks.compare ../before [--only 'burst|scan'] [--rounds 5] [--on mariadb]

Each side is a checkout with its own environment (`make dev`), and runs the workload as it has it.
Prints a Markdown table: medians, lowest and highest round in brackets, and the ratio of medians.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

from benchmarks.run import ROOT, Result, run_side
from benchmarks.stores import Servers

# Command and options, and the figure that counts of its result; more is better but for what ends
# in a unit of time.
WORKLOADS = {
    "burst of 10,000": ("burst --count 10000 --strategy rpush", ("nodes_per_second",)),
    "burst, empty strategy": ("burst --count 10000 --strategy empty", ("nodes_per_second",)),
    "scanner alone": ("scan --count 100000", ("nodes_per_second",)),
    "lateness": ("lateness --count 1000 --seconds 30", ("p50_ms", "p99_ms")),
    "arming": ("arm --count 1000", ()),
}


def run(checkout: Path, command: str, stores: str) -> Result:
    python = str(checkout / ".venv" / "bin" / "python")
    (result,) = run_side("ours", command.split(), stores, checkout=checkout, python=python)
    return result


def shown(values: list[float]) -> str:
    return f"{statistics.median(values):.4g} ({min(values):.4g} … {max(values):.4g})"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("--only", default="", help="workloads, by the beginning of their names")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--on", default="postgresql|mariadb")
    options = parser.parse_args()
    sides = {"before": options.before.resolve(), "after": ROOT}
    print("| workload | database | figure | before | after | after / before |")
    print("|---|---|---|---:|---:|---:|")
    for name, (command, figures) in WORKLOADS.items():
        if options.only and not name.startswith(tuple(options.only.split("|"))):
            continue
        for database in options.on.split("|"):
            found: dict[str, list[Result]] = {side: [] for side in sides}
            with (
                tempfile.TemporaryDirectory() as directory,
                Servers(Path(directory), database).running() as servers,
            ):
                for _ in range(options.rounds):
                    for side, checkout in sides.items():
                        found[side].append(run(checkout, command, servers.fresh().to_json()))
            for figure in figures or sorted(found["after"][0]):
                values = {
                    side: [float(each[figure]) for each in results]
                    for side, results in found.items()
                }
                ratio = statistics.median(values["after"]) / statistics.median(values["before"])
                print(
                    f"| {name} | {database} | {figure} | {shown(values['before'])} "
                    f"| {shown(values['after'])} | {ratio:.2f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
