"""What holds of the life of every run, whatever happens in whatever order."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from node_timeout.domain.events import NodeLeft, NodeStarted
from node_timeout.domain.leaving import leave, remembered
from node_timeout.domain.lifecycle import conclude, is_first_try, start, take
from node_timeout.domain.run import LedgerRow, NodeRun, Outcome, RunState, StoppedBy
from node_timeout.domain.taking import Dropped, GivenUp, Later, Lease, Taken
from tests.lives import INSTANTS, config_of, leavings, outcomes, rows, starts

LEASE = Lease(owner="mine", until=100.0)
CLOSED = (RunState.HANDLED, RunState.STALE, RunState.CANCELLED, RunState.DEAD)
STOPPED = (RunState.CANCELLED, RunState.PAUSED)
CONFIG = config_of("a", 5.0)


def is_sound(row: LedgerRow) -> bool:
    """Each field says what it is for, and nothing else."""
    return (
        (row.next_at is not None) == (row.state is RunState.ARMED)
        and (row.paused_at is not None) == (row.state is RunState.PAUSED)
        and (row.stopped_by is not None) == (row.state in STOPPED)
        and (row.finished_at is not None) == (row.state in CLOSED)
        and (row.lease_owner is None) == (row.lease_until is None)
        and (row.lease_owner is None or row.state in (RunState.EXECUTING, *STOPPED))
        and (row.state is not RunState.EXECUTING or row.lease_owner is not None)
        and row.attempts >= 0
    )


@given(rows(), INSTANTS, st.sampled_from([0.0, 1.0]), st.integers(min_value=1, max_value=3))
def test_nothing_is_taken_early_twice_or_too_often(
    row: LedgerRow, now: float, ahead: float, most: int
) -> None:
    match take(row, LEASE, now, max_attempts=most, ahead_seconds=ahead):
        case Taken(new, was_abandoned):
            assert is_sound(new)
            assert new.lease_owner == LEASE.owner
            assert new.attempts == row.attempts + 1
            if was_abandoned:
                assert row.lease_until is not None
                assert row.lease_until <= now
                assert row.attempts < most
            else:
                assert row.state is RunState.ARMED
                assert row.next_at is not None
                assert row.next_at <= now + (ahead if is_first_try(row) else 0.0)
            again = take(new, LEASE, now, max_attempts=most, ahead_seconds=ahead)
            assert again == Taken(new, is_repeated=True)
            other = take(new, replace(LEASE, owner="x"), now, max_attempts=9, ahead_seconds=ahead)
            assert other == Later(LEASE.until)
        case Later(at):
            assert at > now
        case GivenUp(new):
            assert is_sound(new)
            assert new.state is RunState.DEAD
            assert row.state is not RunState.ARMED or row.action is None
        case Dropped(state):
            assert state in (*CLOSED, RunState.PAUSED)


@given(rows(), st.data(), INSTANTS)
def test_only_who_has_the_lease_records(row: LedgerRow, data: st.DataObject, now: float) -> None:
    outcome: Outcome = data.draw(outcomes(row))
    new = conclude(row, outcome, "me", now)
    if row.lease_owner != "me":
        assert new is None
    if new is None:
        assert row.lease_owner != "me" or row.state in STOPPED
        return
    assert is_sound(new)
    assert new.lease_owner is None
    if row.state in STOPPED:
        assert outcome.state is new.state is RunState.HANDLED
    if outcome.state is RunState.STALE and row.revision != outcome.node.revision:
        assert new.state is RunState.ARMED, "it started again: it is looked at once more"
    else:
        assert new.state is outcome.state
    if outcome.extend_by is not None and new.state is RunState.ARMED:
        assert new.deadline == new.next_at == outcome.due_at
        assert (new.attempts, new.revision) == (0, row.revision + 1)
    else:
        unused = outcome.state is RunState.ARMED and not outcome.called
        assert new.attempts == row.attempts - unused
    assert conclude(new, outcome, "me", now) is None, "a second time it changes nothing"


@given(rows(), starts(), INSTANTS, st.booleans())
def test_a_start_opens_what_is_not_over(
    row: LedgerRow, event: NodeStarted, now: float, configured: bool
) -> None:
    new = start(row, event, CONFIG if configured else None, now)
    if row.state in (RunState.HANDLED, RunState.DEAD):
        assert new is None
    if new is None:
        return
    assert is_sound(new)
    if row.state is RunState.ARMED:
        assert (new.deadline, new.next_at) == (row.deadline, row.next_at), "it keeps its deadline"
    if row.state in (RunState.CANCELLED, RunState.STALE):
        assert row.stopped_by is not StoppedBy.OPERATOR, "what somebody has cancelled stays so"
        assert new.state is RunState.ARMED
        assert row.finished_at is not None
        assert new.deadline is not None
        if row.deadline is not None:
            assert new.action == row.action
            assert new.deadline >= row.deadline, "no time is lost"
            started_at = new.started_at or 0.0
            assert new.deadline - started_at == row.deadline - row.finished_at or (
                started_at < row.finished_at
            ), "it has the time that it had left"
    if row.stopped_by is StoppedBy.OPERATOR:
        assert new == replace(row, started_at=event.happened_at), "only its start is noted"
    elif row.state is RunState.PAUSED:
        assert new.state is RunState.ARMED
        assert row.paused_at is not None
        assert row.deadline is not None
        assert (new.deadline or 0.0) - (new.started_at or 0.0) == row.deadline - row.paused_at


@given(starts(), INSTANTS)
def test_a_second_start_of_an_armed_run_changes_nothing(event: NodeStarted, now: float) -> None:
    opened = start(None, event, CONFIG, now)
    assert opened is not None
    assert is_sound(opened)
    assert opened.deadline is not None
    assert opened.deadline <= now + CONFIG.timeout, "no clock of an engine makes it later"
    assert start(opened, event, CONFIG, now) is None
    assert start(None, event, None, now) is None


@given(st.data(), INSTANTS)
def test_leavings_count_in_any_order_and_once(data: st.DataObject, now: float) -> None:
    node = {
        NodeRun(root_pipeline_id="root", node_id="a", version=version): data.draw(
            rows("a", version)
        )
        for version in ("v1", "v2")
    }
    events = data.draw(st.lists(leavings(), min_size=1, max_size=4))
    found = leave(node, events, now)
    turned = leave(node, data.draw(st.permutations(events)), now)
    assert found == turned
    assert found == leave(node, [*events, *events], now)
    assert {row.state for row in found.changed} <= {RunState.CANCELLED, RunState.PAUSED}
    for row in found.changed:
        assert is_sound(row)
        if row.state is RunState.PAUSED:
            assert row.run in found.paused
            assert row.stopped_by is StoppedBy.ENGINE
    for run in found.kept:
        row = node[run]
        exact = all(event.is_pause for event in events)
        assert exact or row.started_at is not None, "what has no start is over"
    after = {**node, **{row.run: row for row in found.changed}}
    again = leave(after, events, now)
    assert (again.cancelled, again.paused) == ((), ())


@given(st.lists(leavings(), max_size=4), INSTANTS)
def test_what_is_kept_in_mind_is_each_unknown_run_once(events: list[NodeLeft], now: float) -> None:
    kept = remembered(events, {}, now)
    assert len({row.run for row in kept}) == len(kept)
    for row in kept:
        assert is_sound(row)
        assert row.deadline is None
