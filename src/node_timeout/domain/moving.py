"""How the deadline of an armed or a paused run moves. Pure."""

from __future__ import annotations

from dataclasses import replace

from node_timeout.domain.instants import instant_text
from node_timeout.domain.run import LedgerRow, RunState


def not_past(row: LedgerRow, deadline: float, now: float) -> float:
    """The new deadline. If it has passed: now, or the old deadline if that has passed as well."""
    clock = clock_of(row, now)
    if deadline > clock:
        return deadline
    return clock if row.deadline is None else min(row.deadline, clock)


def with_deadline(row: LedgerRow, deadline: float) -> tuple[LedgerRow, str]:
    """The run with this deadline and all its attempts, and the text for its history."""
    if row.state is RunState.PAUSED:
        left = f"{deadline - (row.paused_at or 0.0):.15g} s are left"
        return replace(row, deadline=deadline, attempts=0), left
    return armed_until(row, deadline), f"the deadline is {instant_text(deadline)}"


def armed_until(row: LedgerRow, deadline: float) -> LedgerRow:
    """The run, armed with this deadline and with all its attempts."""
    armed = replace(not_waiting(row), state=RunState.ARMED, attempts=0)
    return replace(armed, deadline=deadline, next_at=deadline, lease_until=None, lease_owner=None)


def not_waiting(row: LedgerRow) -> LedgerRow:
    return replace(row, next_at=None, paused_at=None, stopped_by=None)


def time_left(row: LedgerRow, now: float) -> float:
    """Seconds to the deadline, negative after it; for a paused run counted from its pause."""
    clock = clock_of(row, now)
    return (clock if row.deadline is None else row.deadline) - clock


def clock_of(row: LedgerRow, now: float) -> float:
    """The run's current instant: now, or the instant of its pause."""
    return now if row.paused_at is None else row.paused_at
