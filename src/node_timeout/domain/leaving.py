"""Decides which runs of a node its `NodeLeft` events close. Pure, as `lifecycle`.

Events may come twice, late, or in the wrong order. Instants and versions decide, not the order of
arrival.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from node_timeout.domain.events import NodeLeft
from node_timeout.domain.run import LedgerRow, NodeRun, RunState, StoppedBy
from node_timeout.older_python import dataclass

SKEW_SECONDS = 5.0
"""How far the clocks of an engine's hosts may be apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaving:
    """What the `NodeLeft` events of one node do to its runs."""

    changed: tuple[LedgerRow, ...]
    """The rows to store."""
    cancelled: tuple[NodeRun, ...]
    """The runs that were open and are now cancelled."""
    kept: tuple[NodeRun, ...]
    """Still open: they started after the node left, so the event came late."""
    paused: tuple[NodeRun, ...] = ()
    """The runs that were open and are now paused."""


def leave(rows: Mapping[NodeRun, LedgerRow], events: Sequence[NodeLeft], now: float) -> Leaving:
    """Apply every `NodeLeft` event of one node to every run of it.

    A run that a worker has taken ahead of its deadline is cancelled or paused too. Its lease stays,
    so that the worker's result is recorded if the worker has acted meanwhile.
    """
    changed: list[LedgerRow] = []
    cancelled: list[NodeRun] = []
    kept: list[NodeRun] = []
    paused: list[NodeRun] = []
    for run, row in rows.items():
        own = [event.left_at(now) for event in events if event.run == run]
        has_left = row.state is RunState.CANCELLED and row.stopped_by is StoppedBy.ENGINE
        if has_left and own and (row.finished_at or 0.0) < max(own):
            changed.append(replace(row, finished_at=max(own)))  # the run has left again
        if not is_open(row, now):
            continue
        over = [event for event in events if _is_over(run, row, event, rows, now)]
        if not over:
            kept.append(run)
            continue
        # An event that names the run has the most exact instant.
        named = [event for event in over if event.run == run] or over
        left_at = max(event.left_at(now) for event in named)
        if not all(event.is_pause for event in over):
            changed.append(_cancelled(row, left_at))
            cancelled.append(run)
        elif row.state is not RunState.PAUSED:
            changed.append(paused_row(row, StoppedBy.ENGINE, left_at))
            paused.append(run)
    return Leaving(
        changed=tuple(changed), cancelled=tuple(cancelled), kept=tuple(kept), paused=tuple(paused)
    )


def _cancelled(row: LedgerRow, left_at: float) -> LedgerRow:
    paused_at = row.paused_at
    if paused_at is not None and row.deadline is not None:  # a pause uses up none of the run's time
        row = replace(row, deadline=row.deadline + max(0.0, left_at - paused_at))
    return replace(
        row,
        state=RunState.CANCELLED,
        next_at=None,
        paused_at=None,
        stopped_by=StoppedBy.ENGINE,
        finished_at=left_at,
    )


def paused_row(row: LedgerRow, by: StoppedBy, at: float) -> LedgerRow:
    """The row of a run that is paused from instant ``at`` on."""
    return replace(
        row,
        state=RunState.PAUSED,
        next_at=None,
        paused_at=at,
        stopped_by=by,
    )


def remembered(
    events: Iterable[NodeLeft], rows: Mapping[NodeRun, LedgerRow], now: float
) -> list[LedgerRow]:
    """Cancelled rows for events whose run is unknown: its start may come later."""
    instants: dict[NodeRun, float] = {}
    for event in events:
        run = event.run
        if run is not None and run not in rows and event.remember:
            instants[run] = max(event.left_at(now), instants.get(run, 0.0))
    return [
        LedgerRow(
            root_pipeline_id=run.root_pipeline_id,
            node_id=run.node_id,
            version=run.version,
            state=RunState.CANCELLED,
            stopped_by=StoppedBy.ENGINE,
            finished_at=instant,
        )
        for run, instant in instants.items()
    ]


def is_open(row: LedgerRow, now: float) -> bool:
    """Whether the run is armed or paused, or taken ahead of its deadline."""
    taken_ahead = row.state is RunState.EXECUTING and (row.deadline or 0.0) > now
    return row.state in (RunState.ARMED, RunState.PAUSED) or taken_ahead


def _is_over(
    run: NodeRun, row: LedgerRow, event: NodeLeft, rows: Mapping[NodeRun, LedgerRow], now: float
) -> bool:
    """True if this run is the one that left, or an older one."""
    named = event.run
    if event.is_pause and named != run:
        return False
    if row.started_at is None:
        return True
    if named in (None, run):
        # An event without an instant means now, whatever the engine's clock said before.
        return event.happened_at is None or row.started_at <= event.happened_at
    named_row = rows.get(named) if named else None
    if named_row is not None and named_row.started_at is not None:
        return row.started_at < named_row.started_at
    # Only instants show which version came first, and the clocks of two hosts may differ.
    tolerance = 0.0 if event.happened_at is None else SKEW_SECONDS
    return row.started_at < event.left_at(now) - tolerance
