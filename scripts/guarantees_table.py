"""Writes the table of `make chaos-long` into the documents, from the results of that run.

Run from the root of the checkout: python scripts/guarantees_table.py RESULTS
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
    ),
    DOCUMENTS[1]: ("故障", "做法", "次数", "截止时间数", "丢失", "重复", "恢复用时"),
}


def recovered(seconds: float) -> str:
    """From the end of the fault to the last effect that had waited for it."""
    return "during the fault" if seconds <= 0 else f"{seconds:.1f} s"


def row_of(result: dict[str, Any]) -> str:
    cells = (
        result["fault"],
        result["tried"],
        f"{result['times']:,}",
        f"{result['deadlines']:,}",
        result["lost"],
        result["twice"],
        recovered(result["recovery_seconds"]) if result["had_outage"] else "–",
    )
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def table(results: list[dict[str, Any]], head: tuple[str, ...]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|---|---|---:|---:|---:|---:|---|"]
    return "\n".join([*lines, *map(row_of, sorted(results, key=lambda each: str(each["fault"])))])


def main(path: str) -> None:
    results = [json.loads(line) for line in Path(path).read_text("utf-8").splitlines()]
    deadlines = sum(result["deadlines"] for result in results)
    machine = f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"
    about = f"`make chaos-long`, {datetime.now(UTC):%Y-%m-%d}, {machine}: "
    about += f"{sum(result['times'] for result in results):,} faults, {deadlines:,} deadlines."
    for name in DOCUMENTS:
        document = ROOT / name
        text = f"{about}\n\n{table(results, HEADS[name])}"
        document.write_text(written(document.read_text("utf-8"), "guarantees", text), "utf-8")
        sys.stdout.write(f"written: {name}\n")


if __name__ == "__main__":
    main(sys.argv[1])
