"""What holds of every change of every run, whatever its state."""

from dataclasses import replace

import pytest
from hypothesis import given

from node_timeout.domain.changes import (
    Cancel,
    Discard,
    Extend,
    Fire,
    Pause,
    Reconfigure,
    Replay,
    Resume,
    Verdict,
    follows,
)
from node_timeout.domain.lifecycle import take
from node_timeout.domain.orders import Order, judge
from node_timeout.domain.run import LedgerRow, RunState, StoppedBy
from node_timeout.domain.taking import Lease, Taken
from tests.lives import INSTANTS, orders, rows
from tests.unit.test_lifecycle import CLOSED, is_sound


@given(rows(), orders(), INSTANTS)
def test_a_verdict_is_true(row: LedgerRow, order: Order, now: float) -> None:
    judged = judge(order, row, now)
    new = judged.row
    assert new is not None
    assert is_sound(new)
    if judged.verdict is not Verdict.DONE:
        assert (new, judged.entry) == (row, None), "what is refused changes nothing"
    about_dead = isinstance(order.change, Replay | Discard)
    match judged.verdict:
        case Verdict.DONE:
            assert row.state in ((RunState.DEAD,) if about_dead else (RunState.ARMED, "paused"))
        case Verdict.EXECUTING:
            assert row.state is RunState.EXECUTING or (row.lease_until or 0.0) > now
            assert not about_dead
        case Verdict.CLOSED:
            assert row.state in CLOSED
            assert not about_dead
        case Verdict.NOT_DEAD:
            assert row.state is not RunState.DEAD
        case Verdict.NOT_PAUSED:
            assert isinstance(order.change, Resume)
            assert row.state is RunState.ARMED
        case Verdict.REVISION:
            assert order.if_revision != row.revision
        case Verdict.OVER_CAP:
            assert isinstance(order.change, Extend | Reconfigure)
        case Verdict.UNCHANGED | Verdict.NO_CONFIG:
            assert isinstance(order.change, Reconfigure)
            config = order.change.configs.get(row.node)
            is_followed = config is not None and follows(row, config)
            assert is_followed == (judged.verdict is Verdict.UNCHANGED)


@given(rows(), orders(), INSTANTS)
def test_a_change_counts_up_and_is_told(row: LedgerRow, order: Order, now: float) -> None:
    judged = judge(order, row, now)
    if judged.entry is None:
        assert judged.row == row
        return
    assert judged.row is not None
    assert judged.row.revision == row.revision + 1
    assert (judged.entry.run_id, judged.entry.at, judged.entry.actor) == (row.run_id, now, "ann")
    assert judged.entry.idempotency_key == order.idempotency_key
    if order.reason:
        assert judged.entry.detail is not None
        assert judged.entry.detail.endswith(order.reason)
    if order.idempotency_key:
        again = judge(order, judged.row, now + 1, order.change.kind)
        assert (again.verdict, again.row, again.entry) == (Verdict.DONE, judged.row, None)
        other = Fire() if isinstance(order.change, Extend) else Extend(by=1.0)
        judged = judge(replace(order, change=other), judged.row, now + 1, order.change.kind)
        assert (judged.verdict, judged.entry) == (Verdict.KEY_USED, None)


@given(rows(), orders(), INSTANTS)
def test_what_was_acknowledged_holds(row: LedgerRow, order: Order, now: float) -> None:
    """No worker gets the run before the instant that the change has named."""
    judged = judge(order, row, now)
    if (
        judged.verdict is not Verdict.DONE
        or judged.row is None
        or isinstance(order.change, Discard)
    ):
        return
    lease = Lease(owner="mine", until=now + 100)

    def is_taken(at: float) -> bool:
        assert judged.row is not None
        return isinstance(take(judged.row, lease, at, max_attempts=9, ahead_seconds=0.0), Taken)

    match order.change:
        case Pause() | Cancel():
            assert not is_taken(now + 1e9)
        case Fire() | Replay():
            assert is_taken(now)
        case Resume() | Extend() | Reconfigure():
            if judged.row.state is RunState.ARMED:
                at = judged.row.deadline or 0.0
                assert not is_taken(at - 0.001)
                assert is_taken(at)
                assert at >= min(now, row.deadline or 0.0) or isinstance(order.change, Resume)


@given(rows(), INSTANTS, INSTANTS)
def test_more_time_is_later_and_less_time_earlier(
    row: LedgerRow, now: float, seconds: float
) -> None:
    if row.state not in (RunState.ARMED, RunState.PAUSED) or (row.lease_until or 0.0) > now:
        return
    clock = now if row.paused_at is None else row.paused_at
    assert row.deadline is not None
    for by in (seconds, -seconds):
        order = Order(change=Extend(by=by), actor="ann", max_seconds=1e9)
        new = judge(order, row, now).row
        assert new is not None
        assert new.deadline is not None
        if by > 0:
            assert new.deadline == max(row.deadline, clock) + by
        else:
            assert new.deadline <= row.deadline
            assert new.deadline >= min(row.deadline, clock)
            assert (new.extended or 0.0) <= (row.extended or 0.0)


@given(rows(), orders(), INSTANTS)
def test_a_run_follows_the_config_that_it_is_given(
    row: LedgerRow, order: Order, now: float
) -> None:
    judged = judge(order, row, now)
    if judged.verdict is not Verdict.DONE or not isinstance(order.change, Reconfigure):
        return
    (config,), new = order.change.configs.values(), judged.row
    assert new is not None
    assert (new.action, new.timeout, new.payload_json) == (
        config.action,
        config.timeout,
        config.payload_json,
    )
    # However the deadline was cut, the time of the run is told by its timeout and what was added.
    time_of = [(each.timeout or 0.0) + (each.extended or 0.0) for each in (row, new)]
    assert (new.deadline or 0.0) - (row.deadline or 0.0) == time_of[1] - time_of[0]
    clock = now if row.paused_at is None else row.paused_at
    wanted = (row.deadline or 0.0) + config.timeout - (row.timeout or 0.0)
    if wanted > clock or config.timeout >= (row.timeout or 0.0):
        assert new.deadline == wanted
        assert (new.extended or 0.0) == (row.extended or 0.0), "what was added stays"
    again = judge(replace(order, idempotency_key=None, if_revision=None), new, now)
    assert (again.verdict, again.entry) == (Verdict.UNCHANGED, None)


@given(rows(), INSTANTS, INSTANTS)
def test_a_pause_and_its_end_leave_the_time_that_was_left(
    row: LedgerRow, now: float, gap: float
) -> None:
    if row.state is not RunState.ARMED:
        return
    order = Order(change=Pause(), actor="ann", max_seconds=1e9)
    paused = judge(order, row, now).row
    assert paused is not None
    assert paused.stopped_by is StoppedBy.OPERATOR
    resumed = judge(replace(order, change=Resume()), paused, now + gap).row
    assert resumed is not None
    assert row.deadline is not None
    assert resumed.deadline == row.deadline + gap
    assert resumed.extended == row.extended, "a pause is no extension"


@pytest.mark.parametrize("row", [None])
def test_an_unknown_run_is_missing(row: LedgerRow | None) -> None:
    order = Order(change=Fire(), actor="ann", max_seconds=1.0)
    judged = judge(order, row, 0.0)
    assert (judged.verdict, judged.row, judged.entry) == (Verdict.MISSING, None, None)
