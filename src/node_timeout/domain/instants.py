"""Calendar instants, and how late a run is, for people and for other programs."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Protocol


class Ending(Protocol):
    """A run with its deadline: a ledger row, or a Django model."""

    @property
    def state(self) -> str: ...

    @property
    def deadline(self) -> float | None: ...

    @property
    def finished_at(self) -> float | None: ...


def lateness(run: Ending, now: float) -> float | None:
    """Seconds from the deadline to the end of the run, or until now if it has not ended.

    None before the deadline, and for a run that is cancelled or paused.
    """
    if run.deadline is None or run.state in ("cancelled", "paused"):
        return None
    late = (now if run.finished_at is None else run.finished_at) - run.deadline
    return late if late > 0 else None


def utc(seconds: float) -> datetime | None:
    """The instant, given in Unix seconds, in UTC.

    None if the calendar has no such instant: NaN, infinity, a year beyond 9999.
    """
    try:
        return datetime.fromtimestamp(seconds, timezone.utc)
    except (OverflowError, ValueError, OSError):
        return None


def instant_text(seconds: float | None) -> str:
    """An instant for people: ISO 8601 in UTC, to the second; "none" for None."""
    if seconds is None:
        return "none"
    return iso(seconds, "seconds") or f"{seconds:g} (Unix seconds)"


def iso(seconds: float, precision: str = "milliseconds") -> str | None:
    """The instant as ISO 8601 in UTC; None if the calendar has no such instant."""
    instant = utc(seconds)
    return instant.isoformat(timespec=precision).replace("+00:00", "Z") if instant else None
