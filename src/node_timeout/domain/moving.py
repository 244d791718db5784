"""How a deadline moves: of a run that is armed, and of one whose time stands still. Pure."""

from __future__ import annotations

from dataclasses import replace

from node_timeout.domain.instants import instant_text
from node_timeout.domain.run import LedgerRow, RunState


def not_past(row: LedgerRow, deadline: float, now: float) -> float:
    """The new deadline; now if it has passed, or the old one if that has passed as well."""
    clock = clock_of(row, now)
    if deadline > clock:
        return deadline
    return clock if row.deadline is None else min(row.deadline, clock)


def with_deadline(row: LedgerRow, deadline: float) -> tuple[LedgerRow, str]:
    """A run with this deadline and all its attempts, and what its history says of it."""
    if row.state is RunState.PAUSED:
        left = f"{deadline - (row.paused_at or 0.0):.15g} s are left"
        return replace(row, deadline=deadline, attempts=0), left
    return armed_until(row, deadline), f"the deadline is {instant_text(deadline)}"


def armed_until(row: LedgerRow, deadline: float) -> LedgerRow:
    """Armed with this deadline, and with all its attempts."""
    armed = replace(not_waiting(row), state=RunState.ARMED, attempts=0)
    return replace(armed, deadline=deadline, next_at=deadline, lease_until=None, lease_owner=None)


def not_waiting(row: LedgerRow) -> LedgerRow:
    return replace(row, next_at=None, paused_at=None, stopped_by=None)


def time_left(row: LedgerRow, now: float) -> float:
    """Seconds to the deadline, less than none behind it; of a paused run from its pause on."""
    clock = clock_of(row, now)
    return (clock if row.deadline is None else row.deadline) - clock


def clock_of(row: LedgerRow, now: float) -> float:
    """The instant at which the run's time stands."""
    return now if row.paused_at is None else row.paused_at
