"""Instants in the calendar, for people and for other programs."""

from datetime import UTC, datetime


def utc(seconds: float) -> datetime | None:
    """The instant, given in Unix seconds, in UTC.

    None if the calendar has no such instant: NaN, infinity, a year beyond 9999.
    """
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, ValueError, OSError):
        return None
