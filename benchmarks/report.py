"""The report of a run of the benchmark: Markdown and plots from its JSON lines.

Run: python -m benchmarks.report RESULTS.jsonl [MORE.jsonl …] --to DIRECTORY

Figures are medians over the rounds, with the lowest and the highest beside them.
"""

import argparse
import json
import statistics
from collections import defaultdict
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt

from benchmarks.figures import figures

mpl.use("Agg")

Result = dict[str, Any]
NAMES = {
    "ours": "node-timeout",
    "embedded": "node-timeout dev (SQLite, Valkey, no broker)",
    "original": "pipeline.contrib.node_timeout",
    "celery_eta": "Celery eta",
    "arq_jobs": "arq deferred",
    "rabbit_ttl": "RabbitMQ TTL + dead letters",
    "floor": "bare loops (the floor)",
}
ABOUT = """\
Written by `make bench`; what it means is in [performance](../explanation/performance.md).

All servers and all processes share one machine, so only ratios within one run say much. Figures are
medians; the lowest and the highest round stand in brackets."""


def read(paths: Iterable[Path]) -> tuple[Result, list[Result]]:
    """The machine, and every round."""
    about: Result = {}
    rounds: list[Result] = []
    for path in paths:
        for line in path.read_text("utf-8").splitlines():
            entry = json.loads(line)
            if "machine" in entry:
                about = about or entry["machine"]
            else:
                rounds.append(entry)
    return about, rounds


def shown(value: float) -> str:
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def tables(rounds: list[Result]) -> str:
    """A table for each workload and database: a line a figure, a column a side."""
    groups: dict[tuple[str, str], dict[str, list[Result]]] = defaultdict(lambda: defaultdict(list))
    commands: dict[tuple[str, str], tuple[str, str]] = {}
    """With the day."""
    loud: dict[tuple[str, str], list[float]] = defaultdict(list)
    for entry in rounds:
        key = (entry["workload"], entry["database"])
        groups[key][entry["side"]].append(figures(entry["result"]))
        commands.setdefault(key, (entry["command"], entry["date"]))
        if "yardstick_seconds" in entry:
            loud[key].append(entry["yardstick_seconds"])
    parts: list[str] = []
    for (workload, database), sides in groups.items():
        names = list(dict.fromkeys(name for each in sides.values() for r in each for name in r))
        count = max(len(each) for each in sides.values())
        command, date = commands[workload, database]
        about = f"`{command}`, rounds: {count}, {date}"
        if seconds := loud[workload, database]:
            about += f", ten million additions in {statistics.median(seconds):.2f} s"
        lines = [
            f"### {workload}, {database}",
            "",
            about,
            "",
            "| | " + " | ".join(NAMES[side] for side in sides) + " |",
            "|---|" + "---:|" * len(sides),
        ]
        for name in names:
            cells = []
            for each in sides.values():
                values = [r[name] for r in each if name in r]
                cell = shown(statistics.median(values)) if values else "–"
                if len(values) > 1:
                    cell += f" ({shown(min(values))} … {shown(max(values))})"
                cells.append(cell)
            lines.append(f"| {name.replace('_', ' ')} | " + " | ".join(cells) + " |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def plot_lateness(rounds: list[Result], path: Path) -> None:
    _, axes = plt.subplots(figsize=(8, 4))
    for side, name in NAMES.items():
        late = [
            value * 1000
            for entry in rounds
            if entry["workload"] in ("lateness", "lateness, alternatives") and entry["side"] == side
            for value in entry["result"]["lateness"]
        ]
        if late:
            edges = [10 ** (i / 10 - 1) for i in range(45)]
            axes.hist(late, bins=edges, histtype="step", label=name, density=False)
    axes.set(
        xscale="log",
        xlabel="strategy called after its deadline, ms",
        ylabel="deadlines",
        title="1,000 deadlines over 30 s",
    )
    axes.legend()
    plt.savefig(path, dpi=110, bbox_inches="tight")
    plt.close()


def plot_storm(rounds: list[Result], path: Path) -> None:
    """A line for the first round on each database."""
    storms: dict[str, Result] = {}
    for entry in rounds:
        if entry["workload"].startswith("storm"):
            storms.setdefault(entry["database"], entry["result"])
    if not storms:
        return
    _, axes = plt.subplots(figsize=(8, 4))
    for database, result in storms.items():
        curve = result["curve"]
        points = curve[:: max(1, len(curve) // 40)]
        axes.step(
            [each[0] for each in points[1:]],
            [(b[1] - a[1]) / (b[0] - a[0]) for a, b in pairwise(points)],
            label=database,
        )
    nodes = next(iter(storms.values()))["nodes"]
    axes.set(
        xlabel="seconds",
        ylabel="nodes a second",
        ylim=(0, None),
        title=f"{nodes:,} overdue at the start",
    )
    axes.legend()
    plt.savefig(path, dpi=110, bbox_inches="tight")
    plt.close()


def plot_pool(rounds: list[Result], path: Path) -> None:
    pools = [entry["result"] for entry in rounds if entry["workload"].startswith("pool of")]
    if not pools:
        return
    costs = {
        f"{size:,}": statistics.median(1e6 / each[f"nodes_per_second_{size}"] for each in pools)
        for size in (10_000, 5_000_000)
    }
    _, axes = plt.subplots(figsize=(5, 4))
    axes.bar(list(costs), list(costs.values()), width=0.5)
    axes.set(
        xlabel="members of the pool", ylabel="µs a node", title="Burst of 10,000, empty strategy"
    )
    plt.savefig(path, dpi=110, bbox_inches="tight")
    plt.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--to", type=Path, required=True)
    options = parser.parse_args()
    about, rounds = read(options.results)
    options.to.mkdir(parents=True, exist_ok=True)
    text = [
        "# Report of the benchmark",
        "",
        ABOUT,
        "",
        *(f"- {name.replace('_', ' ')}: {value}" for name, value in about.items()),
        "",
        "![lateness](lateness.png)",
        "",
        "![storm](storm.png)",
        "",
        "![pool](pool.png)",
        "",
        tables(rounds),
        "",
    ]
    (options.to / "report.md").write_text("\n".join(text), "utf-8")
    kept = [{**entry, "result": figures(entry["result"])} for entry in rounds]
    (options.to / "results.json").write_text(
        json.dumps({"machine": about, "rounds": kept}, indent=1) + "\n", "utf-8"
    )
    plot_lateness(rounds, options.to / "lateness.png")
    plot_storm(rounds, options.to / "storm.png")
    plot_pool(rounds, options.to / "pool.png")


if __name__ == "__main__":
    main()
