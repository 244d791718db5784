"""Writes the table of `make chaos-long` into the documents, from the results of that run.

Run from the root of the checkout: python scripts/guarantees_table.py RESULTS

It writes what there is, failures too, and exits with 1 if a test that was found failed, broke a
promise, or left no row.
"""

import json
import os
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from generate_tables import ROOT, written

DOCUMENTS = ("docs/explanation/guarantees.md", "docs/zh-CN/explanation/guarantees.md")
HEADS = {
    DOCUMENTS[0]: (
        "fault",
        "what was tried",
        "times",
        "deadlines",
        "lost",
        "twice",
        "recovered in",
        "outcome",
    ),
    DOCUMENTS[1]: ("故障", "做法", "次数", "截止时间数", "丢失", "重复", "恢复用时", "结果"),
}


def recovered(seconds: float) -> str:
    """From the end of the fault to the last effect that had waited for it."""
    return "during the fault" if seconds <= 0 else f"{seconds:.1f} s"


def outcome(result: dict[str, Any]) -> str:
    """With the promises that were broken, and how often."""
    counts = ", ".join(f"{name}: {count}" for name, count in sorted(result["violations"].items()))
    return f"{result['outcome']} ({counts})" if counts else str(result["outcome"])


def row_of(result: dict[str, Any]) -> str:
    cells = (
        result["fault"],
        result["tried"],
        f"{result['times']:,}",
        f"{result['deadlines']:,}",
        result["lost"],
        result["twice"],
        recovered(result["recovery_seconds"]) if result["had_outage"] else "–",
        outcome(result),
    )
    return "| " + " | ".join(str(cell).replace("|", "/") for cell in cells) + " |"


def missing_row(test: str) -> dict[str, Any]:
    """Of a test that was found, and never came to its end."""
    numbers = dict.fromkeys(("times", "deadlines", "lost", "twice", "recovery_seconds"), 0)
    words = {"test": test, "fault": test, "tried": "", "outcome": "MISSING"}
    return {**numbers, **words, "violations": {}, "had_outage": False}


def read(path: Path) -> list[dict[str, Any]]:
    """A row for each test that was found, the last one if it ran again."""
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    rows = {line["test"]: line for line in lines if "test" in line}
    expected = {
        line["expected"]: missing_row(line["expected"]) for line in lines if "expected" in line
    }
    return list({**expected, **rows}.values())


def table(results: list[dict[str, Any]], head: tuple[str, ...]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|---|---|---:|---:|---:|---:|---|---|"]
    ordered = sorted(results, key=lambda each: (str(each["fault"]), str(each["tried"])))
    return "\n".join([*lines, *map(row_of, ordered)])


def main(path: Path) -> int:
    results = read(path) if path.exists() else []
    if not results:
        sys.stderr.write(f"no results in {path.name}: no test was found\n")
        return 1
    bad = [result for result in results if result["outcome"] != "ok"]
    deadlines = sum(result["deadlines"] for result in results)
    machine = f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"
    about = f"`make chaos-long`, {datetime.now(UTC):%Y-%m-%d}, {machine}: "
    about += f"{sum(result['times'] for result in results):,} faults, {deadlines:,} deadlines, "
    about += f"{len(results)} tests, {len(bad)} of them failed."
    for name in DOCUMENTS:
        document = ROOT / name
        text = f"{about}\n\n{table(results, HEADS[name])}"
        document.write_text(written(document.read_text("utf-8"), "guarantees", text), "utf-8")
        sys.stdout.write(f"written: {name}\n")
    for result in bad:
        again = f", CHAOS_SEED={result['seed']}" if "seed" in result else ""
        sys.stderr.write(f"{outcome(result)}: {result['test']}{again}\n")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
