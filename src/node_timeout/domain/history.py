"""What the history says of a run: nothing of its plain course, a line of everything else. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from node_timeout.domain.events import NodeLeft
from node_timeout.domain.run import (
    HistoryEntry,
    HistoryKind,
    LedgerRow,
    Node,
    NodeRun,
    Outcome,
    RunState,
)

CLOSED_BY_ENGINE = (RunState.CANCELLED, RunState.STALE)
"""Closed by its word, unless the history says who has cancelled it: the last of `TURNS` tells."""
TURNS = (HistoryKind.CANCELLED, HistoryKind.RESUMED)


def is_cancelled_by_hand(entries: Iterable[HistoryEntry]) -> bool:
    """Of a cancelled run, by its history in order."""
    turns = [entry.kind for entry in entries if entry.kind in TURNS]
    return bool(turns) and turns[-1] is HistoryKind.CANCELLED


def of_start(before: LedgerRow, after: LedgerRow, now: float) -> HistoryEntry | None:
    """A closed run is armed again; not if only its leaving had been known."""
    if after.state is not RunState.ARMED or before.state is RunState.ARMED:
        return None
    if before.deadline is None:
        return None
    return HistoryEntry(
        run_id=after.run_id, at=now, kind=HistoryKind.RESUMED, detail=f"was {before.state}"
    )


def of_leavings(
    cancelled: Iterable[NodeRun], events: Iterable[NodeLeft], now: float
) -> list[HistoryEntry]:
    """A line of each run that somebody other than the engine has cancelled."""
    by: dict[Node, NodeLeft] = {event.node: event for event in events if event.actor}
    return [
        HistoryEntry(
            run_id=run.run_id,
            at=now,
            kind=HistoryKind.CANCELLED,
            actor=by[run.node].actor,
            detail=by[run.node].reason,
        )
        for run in cancelled
        if run.node in by
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
    if outcome.state is RunState.ARMED:
        return _entry(outcome, HistoryKind.FAILED if outcome.called else HistoryKind.PUT_BACK, now)
    return _entry(outcome, HistoryKind.DIED, now) if outcome.state is RunState.DEAD else None


def of_late_result(outcome: Outcome, now: float) -> HistoryEntry:
    """Of one that came after the lease, and was not recorded."""
    return _entry(outcome, HistoryKind.LATE_RESULT, now)


def of_replay(row: LedgerRow, now: float, actor: str | None, reason: str | None) -> HistoryEntry:
    return HistoryEntry(
        run_id=row.run_id, at=now, kind=HistoryKind.REPLAYED, actor=actor, detail=reason
    )


def _entry(outcome: Outcome, kind: HistoryKind, now: float) -> HistoryEntry:
    return HistoryEntry(
        run_id=outcome.node.run_id,
        at=now,
        kind=kind,
        attempt=outcome.node.attempt,
        detail=outcome.message or None,
    )
