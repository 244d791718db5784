"""What the history says of a run: nothing of its plain course, a line of everything else. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from node_timeout.domain.run import (
    LedgerRow,
    NodeRun,
    Outcome,
    RunState,
    StoppedBy,
)
from node_timeout.older_python import StrEnum, dataclass


class HistoryKind(StrEnum):
    """What happened to a run beyond its plain course."""

    FAILED = "failed"
    """An attempt failed; it is tried again."""
    PUT_BACK = "put_back"
    """Not attempted: the worker stopped, the circuit was open, or its turn did not come."""
    TAKEN_OVER = "taken_over"
    """From a worker whose lease ran out."""
    LATE_RESULT = "late_result"
    """A result came after the lease, and was not recorded."""
    PAUSED = "paused"
    RESUMED = "resumed"
    """It started again after it was cancelled or found stale; or its pause has ended."""
    EXTENDED = "extended"
    """Its deadline was moved, to a later or an earlier instant."""
    RECONFIGURED = "reconfigured"
    """It follows its node's config as that was stored then."""
    FIRED = "fired"
    """It was made due at once."""
    DIED = "died"
    CANCELLED = "cancelled"
    """By a person or a program, not by the engine."""
    REPLAYED = "replayed"


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryEntry:
    """One line of a run's history. A run that ends at its first try or leaves in time has none."""

    run_id: str
    at: float
    kind: HistoryKind
    attempt: int = 0
    actor: str | None = None
    """Who asked for it: of changes only."""
    detail: str | None = None
    """The error, or what was changed and the reason."""
    idempotency_key: str | None = None
    """What the caller named a change, so that it is made once."""


def of_start(before: LedgerRow, after: LedgerRow, now: float) -> HistoryEntry | None:
    """A closed run is armed again; not if only its leaving had been known."""
    if after.state is not RunState.ARMED or before.state is RunState.ARMED:
        return None
    if before.deadline is None:
        return None
    return HistoryEntry(
        run_id=after.run_id, at=now, kind=HistoryKind.RESUMED, detail=f"was {before.state}"
    )


def of_pauses(paused: Iterable[NodeRun], now: float) -> list[HistoryEntry]:
    """A line of each run that the engine has paused."""
    return [
        HistoryEntry(run_id=run.run_id, at=now, kind=HistoryKind.PAUSED, detail="by the engine")
        for run in paused
    ]


def of_taking(
    abandoned: Iterable[LedgerRow], given_up: Iterable[LedgerRow], now: float
) -> list[HistoryEntry]:
    """Runs whose worker has vanished: taken over by another, or dead."""
    taken_over = [
        HistoryEntry(run_id=row.run_id, at=now, kind=HistoryKind.TAKEN_OVER, attempt=row.attempts)
        for row in abandoned
    ]
    died = [
        HistoryEntry(
            run_id=row.run_id,
            at=now,
            kind=HistoryKind.DIED,
            attempt=row.attempts,
            detail=row.message,
        )
        for row in given_up
    ]
    return taken_over + died


def of_outcome(outcome: Outcome, now: float) -> HistoryEntry | None:
    """Of one that was recorded."""
    if outcome.extend_by is not None:
        return _entry(outcome, HistoryKind.EXTENDED, now)
    if outcome.state is RunState.ARMED:
        return _entry(outcome, HistoryKind.FAILED if outcome.called else HistoryKind.PUT_BACK, now)
    return _entry(outcome, HistoryKind.DIED, now) if outcome.state is RunState.DEAD else None


def of_late_result(outcome: Outcome, now: float) -> HistoryEntry:
    """Of one that came after the lease, and was not recorded."""
    return _entry(outcome, HistoryKind.LATE_RESULT, now)


def plain_end(row: LedgerRow) -> float | None:
    """When the run ended, Unix seconds, if it did so without a line of its own; else None."""
    by_engine = row.state is RunState.CANCELLED and row.stopped_by is StoppedBy.ENGINE
    is_plain = by_engine or row.state in (RunState.HANDLED, RunState.STALE)
    return row.finished_at if is_plain else None


def _entry(outcome: Outcome, kind: HistoryKind, now: float) -> HistoryEntry:
    return HistoryEntry(
        run_id=outcome.node.run_id,
        at=now,
        kind=kind,
        attempt=outcome.node.attempt,
        detail=outcome.message or None,
    )
