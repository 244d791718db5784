"""How late runs ended: each run, and percentiles by minute. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from node_timeout.domain.run import LedgerRow

MINUTE = 60.0
MAX_ENDINGS = 5000
"""The most runs that are read."""
PERCENTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


def lateness_by_minute(rows: Sequence[LedgerRow]) -> dict[str, Any]:
    """``{"endings": [[finished_at, seconds late], …], "minutes": [{"minute", "count", "p50", "p95",
    "p99"}, …]}``, each in order of time; instants in Unix seconds.

    Lateness runs from the deadline until the strategy is done, retries included.
    """
    endings = sorted(
        (row.finished_at, max(0.0, row.finished_at - row.deadline))
        for row in rows
        if row.finished_at is not None and row.deadline is not None
    )
    minutes: dict[float, list[float]] = {}
    for at, late in endings:
        minutes.setdefault(at // MINUTE * MINUTE, []).append(late)
    return {
        "endings": [[round(at, 3), round(late, 6)] for at, late in endings],
        "minutes": [
            {"minute": minute, "count": len(found), **percentiles(found)}
            for minute, found in minutes.items()
        ],
    }


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """Percentiles by nearest rank; all are 0 if there are no values."""
    ordered = sorted(values)
    if not ordered:
        return dict.fromkeys(PERCENTILES, 0.0)
    last = len(ordered) - 1
    return {
        name: round(ordered[min(last, int(share * len(ordered)))], 6)
        for name, share in PERCENTILES.items()
    }
