"""Two checkouts in turn: is this one faster or slower than the other?

Run: python -m benchmarks.compare ../before --only 'burst of 10,000|arm' [--rounds 5] [--on mariadb]

Each side is a checkout with its own environment (`make dev`), and runs the workload as it has it.
Prints a Markdown table: medians, lowest and highest round in brackets, and the ratio of medians.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

from benchmarks.figures import figures
from benchmarks.run import BOTH, ROOT, WORKLOADS, Result, Workload, run_side
from benchmarks.stores import Servers


def compare(workload: Workload, database: str, sides: dict[str, Path], rounds: int) -> None:
    """Print a line for each figure."""
    command = [workload.command, *workload.options.split()]
    found: dict[str, list[Result]] = {side: [] for side in sides}
    with (
        tempfile.TemporaryDirectory() as directory,
        Servers(Path(directory), database).running() as servers,
    ):
        for _ in range(rounds):
            for side, checkout in sides.items():
                python = str(checkout / ".venv" / "bin" / "python")
                stores = servers.fresh().to_json()
                for result in run_side("ours", command, stores, checkout=checkout, python=python):
                    found[side].append(figures(result))
    for figure in sorted(found["after"][0]):
        values = {side: [float(each[figure]) for each in found[side]] for side in sides}
        before, after = (statistics.median(values[side]) for side in ("before", "after"))
        ratio = f"{after / before:.2f}" if before else "–"
        cells = " | ".join(shown(values[side]) for side in ("before", "after"))
        print(f"| {workload.name} | {database} | {figure} | {cells} | {ratio} |", flush=True)


def shown(values: list[float]) -> str:
    return f"{statistics.median(values):.4g} ({min(values):.4g} … {max(values):.4g})"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("--only", required=True, help="workloads, by the beginning of their names")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--on", choices=BOTH, help="one database; else all")
    options = parser.parse_args()
    sides = {"before": options.before.resolve(), "after": ROOT}
    print("| workload | database | figure | before | after | after / before |")
    print("|---|---|---|---:|---:|---:|")
    for workload in WORKLOADS:
        if "ours" in workload.sides and workload.name.startswith(tuple(options.only.split("|"))):
            for database in workload.databases:
                if options.on in (None, database):
                    compare(workload, database, sides, options.rounds)


if __name__ == "__main__":
    main()
