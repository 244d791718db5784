"""The life cycle of a run, as pure functions: row + event + now → the new row.

    ──start──▶ armed ──take──▶ executing ──conclude──▶ handled | stale | dead
                │  ▲               │  ▲ └──(lease over)── take, by another worker
                │  └───conclude────┘  │      (a retry)
              leave ◀── leave, ahead of the deadline
                ▼
            cancelled ──start──▶ armed, with the time it had left       (so does stale)
            armed ──pause──▶ paused ──resume, or start──▶ armed, with the time it had left
            dead ──replay──▶ armed, due now

This module and `leaving` hold all rules about late, doubled and crossing events, about the time
left after a suspension, and about attempts and leases; `changes` holds the rules for changes. No
other module has such rules. Adapters load rows, call these functions, and store the result. If an
adapter has a faster path, a test proves that it does the same.

``now`` and all instants are Unix seconds by the clock of Redis, except ``started_at`` and
``happened_at``, which are by the engine's clock.
"""

from __future__ import annotations

from dataclasses import replace

from node_timeout.domain.events import NodeStarted
from node_timeout.domain.run import (
    ForeignRun,
    LedgerRow,
    Outcome,
    RunState,
    StoppedBy,
)
from node_timeout.domain.taking import Dropped, GivenUp, Later, Lease, Taken
from node_timeout.domain.timeout_config import TimeoutConfig

LOOK_AGAIN_SECONDS = 60.0
"""Seconds until the next attempt at a run that restarted while a worker found it stale."""


# Start


def start(
    row: LedgerRow | None, event: NodeStarted, config: TimeoutConfig | None, now: float
) -> LedgerRow | None:
    """The new row when its node enters RUNNING; None: there is nothing to store.

    An armed run keeps its deadline. If a run left, was found stale or was paused by the engine
    before it was seen running, it continues with the time it had left. Other closed runs stay
    closed. A run that an operator has paused or cancelled stays so.
    """
    if row is None:
        return None if config is None else _opened(event, config, now)
    if may_start_again(row.state, row.stopped_by):
        return _resumed(row, event, config, now)
    if row.state not in (RunState.ARMED, RunState.EXECUTING, RunState.PAUSED):
        return None
    newer = event.happened_at is not None and (row.started_at or 0.0) < event.happened_at
    changed = row
    if newer:  # a `NodeLeft` event older than this start is then recognised as late
        changed = replace(changed, started_at=event.happened_at)
    if row.state is RunState.EXECUTING and (newer or event.happened_at is None):
        # If a worker is about to find the run stale, it asked the engine too early.
        changed = replace(changed, revision=row.revision + 1)
    return None if changed is row else changed


def may_start_again(state: str, stopped_by: str | None) -> bool:
    """Whether a start reopens a paused or closed run: only if the engine itself stopped it."""
    return state == RunState.STALE or stopped_by == StoppedBy.ENGINE


def _opened(event: NodeStarted, config: TimeoutConfig, now: float) -> LedgerRow:
    deadline = event.counts_from(now) + config.timeout
    run = event.run
    return LedgerRow(
        root_pipeline_id=run.root_pipeline_id,
        node_id=run.node_id,
        version=run.version,
        action=config.action,
        timeout=config.timeout,
        payload_json=config.payload_json,
        trace=event.trace,
        state=RunState.ARMED,
        started_at=event.started_at(now),
        deadline=deadline,
        next_at=deadline,
    )


def _resumed(
    row: LedgerRow, event: NodeStarted, config: TimeoutConfig | None, now: float
) -> LedgerRow | None:
    seen_at = event.started_at(now) if event.seen_at is None else event.seen_at
    closed_at = row.finished_at or row.paused_at or 0.0
    # A row becomes stale only after the engine was asked, at its deadline or later.
    too_early = row.deadline if row.state is RunState.STALE and row.deadline else closed_at
    if seen_at < too_early:
        return None
    if row.action is not None and row.deadline is not None:
        deadline = row.deadline + max(0.0, seen_at - closed_at)
    elif config is not None:  # so far it was only known that the run left
        deadline = event.counts_from(now) + config.timeout
        row = replace(
            row,
            action=config.action,
            timeout=config.timeout,
            payload_json=config.payload_json,
        )
    else:
        return None
    return replace(
        row,
        trace=event.trace or row.trace,
        state=RunState.ARMED,
        started_at=seen_at,
        deadline=deadline,
        next_at=deadline,
        paused_at=None,
        stopped_by=None,
        lease_until=None,
        lease_owner=None,
        attempts=0,
        finished_at=None,
    )


def adopt(foreign: ForeignRun, config: TimeoutConfig) -> LedgerRow:
    """The row of a run that an engine has put into the pool itself."""
    deadline = foreign.due_at
    return LedgerRow(
        root_pipeline_id=config.root_pipeline_id,
        node_id=foreign.node_id,
        version=foreign.version,
        action=config.action,
        timeout=config.timeout,
        payload_json=config.payload_json,
        state=RunState.ARMED,
        deadline=deadline,
        next_at=deadline,
    )


# Take


def take(
    row: LedgerRow, lease: Lease, now: float, *, max_attempts: int, ahead_seconds: float
) -> Taken | Later | Dropped | GivenUp:
    """Decide what becomes of a run that a worker asks for.

    A run whose deadline comes within ``ahead_seconds`` is taken too; a retry is not.
    """
    abandoned = row.state is RunState.EXECUTING
    if abandoned:
        if row.lease_owner == lease.owner:
            return Taken(row, is_repeated=True)
        if (row.lease_until or 0.0) > now:
            return Later(row.lease_until or now)
    elif row.state is not RunState.ARMED or row.next_at is None:
        return Dropped(row.state)
    elif row.next_at > (now + ahead_seconds if is_first_try(row) else now):
        return Later(row.next_at)
    if abandoned and row.attempts >= max_attempts:
        why = f"gave up after {row.attempts} attempts: the last worker vanished"
        return GivenUp(_dead(row, why, now))
    taken = replace(
        row,
        state=RunState.EXECUTING,
        next_at=None,
        lease_until=lease.until,
        lease_owner=lease.owner,
        attempts=row.attempts + 1,
    )
    return Taken(taken, was_abandoned=abandoned)


def is_first_try(row: LedgerRow) -> bool:
    """Whether the run waits for its deadline, not for a retry."""
    return row.next_at == row.deadline


def _dead(row: LedgerRow, message: str, now: float) -> LedgerRow:
    return replace(
        row,
        state=RunState.DEAD,
        next_at=None,
        lease_until=None,
        lease_owner=None,
        finished_at=now,
        message=message,
    )


# Conclude


def conclude(row: LedgerRow, outcome: Outcome, owner: str, now: float) -> LedgerRow | None:
    """The row after an attempt's outcome; None: the outcome came too late and is not recorded.

    If a run was cancelled or paused while the worker held it, only ``handled`` is recorded.
    """
    if row.lease_owner != owner:
        return None
    done = outcome.state is RunState.HANDLED
    was_stopped = row.state in (RunState.CANCELLED, RunState.PAUSED)
    if row.state is not RunState.EXECUTING and not (done and was_stopped):
        return None
    free = replace(row, lease_until=None, lease_owner=None)
    if outcome.state is RunState.STALE and row.revision != outcome.node.revision:
        # The run restarted after it was taken: the engine was asked too early.
        return replace(free, state=RunState.ARMED, next_at=now + LOOK_AGAIN_SECONDS, message=None)
    if outcome.state is RunState.ARMED:
        if outcome.extend_by is not None:
            return _extended(free, outcome, now)
        return replace(
            free,
            state=RunState.ARMED,
            next_at=outcome.due_at,
            attempts=row.attempts if outcome.called else row.attempts - 1,
            message=outcome.message,
        )
    return replace(
        free,
        state=outcome.state,
        next_at=None,
        paused_at=None,
        stopped_by=None,
        finished_at=now,
        message=outcome.message,
    )


def _extended(row: LedgerRow, outcome: Outcome, now: float) -> LedgerRow:
    """The strategy has given the run more time."""
    deadline = now if outcome.due_at is None else outcome.due_at
    moved = deadline - (deadline if row.deadline is None else row.deadline)
    return replace(
        row,
        state=RunState.ARMED,
        deadline=deadline,
        next_at=deadline,
        extended=(row.extended or 0.0) + moved,
        attempts=0,
        revision=row.revision + 1,
        message=outcome.message,
    )
