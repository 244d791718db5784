"""The history of a run: it omits the plain course and has one line per other event. Pure."""

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
    """Kinds of events outside a run's plain course."""

    FAILED = "failed"
    """An attempt failed; the run is retried."""
    PUT_BACK = "put_back"
    """Not attempted: the worker stopped, the circuit was open, or no slot was free in time."""
    TAKEN_OVER = "taken_over"
    """Another worker took the run from a worker whose lease ran out."""
    LATE_RESULT = "late_result"
    """A result came after the lease had ended, and was not recorded."""
    PAUSED = "paused"
    RESUMED = "resumed"
    """The run started again after it was cancelled or found stale, or its pause has ended."""
    EXTENDED = "extended"
    """The deadline was moved to a later or an earlier instant."""
    RECONFIGURED = "reconfigured"
    """The run follows its node's config as it was stored at that instant."""
    FIRED = "fired"
    """The run was made due at once."""
    DIED = "died"
    CANCELLED = "cancelled"
    """A person or a program cancelled the run, not the engine."""
    REPLAYED = "replayed"


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryEntry:
    """One line of a run's history. A run that ends at its first attempt, or leaves in time, has no
    history.
    """

    run_id: str
    at: float
    kind: HistoryKind
    attempt: int = 0
    actor: str | None = None
    """Who ordered the change; set only for changes."""
    detail: str | None = None
    """The error, or the change and its reason."""
    idempotency_key: str | None = None
    """The caller's key for a change, so that it is made only once."""


def of_start(before: LedgerRow, after: LedgerRow, now: float) -> HistoryEntry | None:
    """The entry if a closed run is armed again; None if the row only remembered that it left."""
    if after.state is not RunState.ARMED or before.state is RunState.ARMED:
        return None
    if before.deadline is None:
        return None
    return HistoryEntry(
        run_id=after.run_id, at=now, kind=HistoryKind.RESUMED, detail=f"was {before.state}"
    )


def of_pauses(paused: Iterable[NodeRun], now: float) -> list[HistoryEntry]:
    """One line for each run that the engine has paused."""
    return [
        HistoryEntry(run_id=run.run_id, at=now, kind=HistoryKind.PAUSED, detail="by the engine")
        for run in paused
    ]


def of_taking(
    abandoned: Iterable[LedgerRow], given_up: Iterable[LedgerRow], now: float
) -> list[HistoryEntry]:
    """The entries of runs whose worker has vanished: taken over by another worker, or dead."""
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
    """The entry for an outcome that was recorded."""
    if outcome.extend_by is not None:
        return _entry(outcome, HistoryKind.EXTENDED, now)
    if outcome.state is RunState.ARMED:
        return _entry(outcome, HistoryKind.FAILED if outcome.called else HistoryKind.PUT_BACK, now)
    return _entry(outcome, HistoryKind.DIED, now) if outcome.state is RunState.DEAD else None


def of_late_result(outcome: Outcome, now: float) -> HistoryEntry:
    """The entry for an outcome that came after the lease had ended, and was not recorded."""
    return _entry(outcome, HistoryKind.LATE_RESULT, now)


def plain_end(row: LedgerRow) -> float | None:
    """When the run ended (Unix seconds), if the history has no line for that end; else None."""
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
