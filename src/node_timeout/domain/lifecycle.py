"""The life of a run, as pure functions: row + event + now → what the row becomes.

    ──start──▶ armed ──take──▶ executing ──conclude──▶ handled | stale | dead
                │  ▲               │  ▲ └──(lease over)── take, by another worker
                │  └───conclude────┘  │      (it is tried again)
              leave ◀── leave, ahead of the deadline
                ▼
            cancelled ──start──▶ armed, with the time it had left       (so does stale)
            armed ──pause──▶ paused ──resume, or start──▶ armed, with the time it had left
            dead ──replay──▶ armed, due now

All rules about late, doubled and crossing events, about the time left after a suspension, about
attempts and leases stand here and in `leaving`, those about what a person changes in `changes`, and
nowhere else. Adapters load rows, call, and store. Where an adapter has a faster way, a test shows
that it does the same.

``now`` and all instants are Unix seconds by the clock of Redis, but ``started_at`` and
``happened_at``, which are by the engine's.
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
"""When a run that started again while it was found stale is looked at once more."""


# Start


def start(
    row: LedgerRow | None, event: NodeStarted, config: TimeoutConfig | None, now: float
) -> LedgerRow | None:
    """What a row becomes when its node enters RUNNING; None: nothing is to be stored.

    A run that is armed keeps its deadline. One that left, was found stale or was paused by the
    engine before it was seen running goes on with the time it had left. Other closed runs stay
    closed, and what an operator has paused or cancelled stays so.
    """
    if row is None:
        return None if config is None else _opened(event, config, now)
    if may_start_again(row.state, row.stopped_by):
        return _resumed(row, event, config, now)
    if row.state not in (RunState.ARMED, RunState.EXECUTING, RunState.PAUSED):
        return None
    newer = event.happened_at is not None and (row.started_at or 0.0) < event.happened_at
    changed = row
    if newer:  # a leaving before it has come late
        changed = replace(changed, started_at=event.happened_at)
    if row.state is RunState.EXECUTING and (newer or event.happened_at is None):
        # A worker that is about to find the run stale has asked too early.
        changed = replace(changed, revision=row.revision + 1)
    return None if changed is row else changed


def may_start_again(state: str, stopped_by: str | None) -> bool:
    """Of a run that is paused or closed: by its engine's word, so that goes for more of it."""
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
    elif config is not None:  # only its leaving was known of so far
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

    One whose deadline (not a later try) comes within ``ahead_seconds`` is taken too.
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
    """It waits for its deadline, not for a later try."""
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
    """What a row becomes by an attempt's outcome; None: it came too late and is not recorded.

    A run cancelled or paused under the worker's hands says what the worker did, if it did it.
    """
    if row.lease_owner != owner:
        return None
    done = outcome.state is RunState.HANDLED
    was_stopped = row.state in (RunState.CANCELLED, RunState.PAUSED)
    if row.state is not RunState.EXECUTING and not (done and was_stopped):
        return None
    free = replace(row, lease_until=None, lease_owner=None)
    if outcome.state is RunState.STALE and row.revision != outcome.node.revision:
        # It started again since it was taken: the engine was asked too early.
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
