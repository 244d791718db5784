"""The results of a chaos run: a line for each test, whatever became of it.

CHAOS_RESULTS names a file of JSON lines: ``{"expected": test}`` for each test that was found, and
a row for each that ran. `scripts/guarantees_table.py` holds one against the other.
"""

import json
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.history import Verdict


@dataclass(slots=True, kw_only=True)
class Row:
    """What a test tried, and what came of it; the fixture ``row`` writes it behind the test."""

    test: str
    seed: str
    fault: str = ""
    tried: str = ""
    times: int = 0
    """How often the fault struck."""
    deadlines: int = 0
    lost: int = 0
    twice: int = 0
    violations: Counter[str] = field(default_factory=Counter)
    """How many, by invariant."""
    had_outage: bool = False
    recovery_seconds: float = 0.0
    slowness: float = 1.0
    """Of the machine: see `Pace`."""
    is_judged: bool = False
    """A checker has spoken. A test that nobody judged has shown nothing."""

    def of(self, *, fault: str, tried: str, times: int) -> None:
        """Say what is tried, before it is: a test that fails is reported under this name."""
        self.fault, self.tried, self.times = fault, tried, times

    def judged(self, verdict: Verdict) -> None:
        """Take over what the checker found, violations too."""
        self.deadlines, self.lost, self.twice = verdict.due, verdict.lost, verdict.twice
        self.violations = Counter(each.invariant for each in verdict.violations)
        self.recovery_seconds = verdict.recovery_seconds
        self.is_judged = True

    def line(self, *, passed: bool) -> dict[str, Any]:
        passed = passed and self.is_judged and not self.violations
        return {
            "test": self.test,
            "seed": self.seed,
            "fault": self.fault or self.test,
            "tried": self.tried,
            "times": self.times,
            "deadlines": self.deadlines,
            "lost": self.lost,
            "twice": self.twice,
            "violations": dict(self.violations),
            "had_outage": self.had_outage,
            "recovery_seconds": self.recovery_seconds,
            "slowness": round(self.slowness, 2),
            "outcome": "ok" if passed else "FAILED",
        }


def write(lines: Iterable[dict[str, Any]]) -> None:
    """Add lines to the file of results, if one is wanted."""
    if path := os.environ.get("CHAOS_RESULTS"):
        with Path(path).open("a", encoding="utf-8") as file:
            for line in lines:
                file.write(f"{json.dumps(line)}\n")
                file.flush()
