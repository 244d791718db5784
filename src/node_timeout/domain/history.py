"""What the history says of a run: nothing of its plain course, a line of everything else. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from node_timeout.domain.run import (
    HistoryEntry,
    HistoryKind,
    LedgerRow,
    NodeRun,
    Outcome,
    RunState,
    StoppedBy,
)


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
