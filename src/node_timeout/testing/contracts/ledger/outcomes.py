"""Outcomes of attempts in the ledger and in the history."""

import pytest

from node_timeout.domain.changes import Cancel, Replay
from node_timeout.domain.history import HistoryKind
from node_timeout.domain.run import Outcome, RunState
from node_timeout.ports.ledger import Ledger
from node_timeout.testing.contracts.ledger.acts import (
    LEASE,
    NOW,
    change,
    record,
    states,
    take,
)
from node_timeout.testing.words import (
    config,
    configure,
    due,
    id_of,
    left,
    run,
    started,
)


async def test_the_history_tells_what_was_not_plain(ledger: Ledger) -> None:
    await configure(ledger, *(config(name, 2) for name in ("plain", "tried", "left", "by hand")))
    names = ("plain", "tried", "left", "by hand")
    await ledger.arm(started([run(name) for name in names]), NOW)
    await ledger.disarm(left(["left"]), NOW + 1)
    await change(ledger, Cancel(), run("by hand"), reason="a test")
    await record(ledger, await take(ledger, run("plain")), RunState.HANDLED)
    taking = await take(ledger, run("tried"))
    await record(ledger, taking, RunState.ARMED, due_at=NOW + 20)
    again = await take(ledger, run("tried"), now=NOW + 21)
    assert await record(ledger, taking, RunState.HANDLED) == 0, "too late"
    assert await record(ledger, taking, RunState.STALE) == 0, "too late"
    unused = Outcome(
        node=again.taken[0], state=RunState.ARMED, message="no slot", due_at=NOW + 30, called=False
    )
    await ledger.record([unused], owner=again.owner, now=NOW + 22)
    vanished = await take(ledger, run("tried"), now=NOW + 31)
    over = await take(ledger, run("tried"), now=vanished.lease_until + 1)
    await record(ledger, over, RunState.DEAD)
    why = {"actor": "bob", "reason": "try it"}
    await change(ledger, Replay(), run("tried"), now=NOW + 200, **why)
    told = [
        (entry.kind, entry.attempt, entry.actor, entry.detail)
        for entry in await ledger.history([id_of("tried")])
    ]
    assert told == [
        (HistoryKind.FAILED, 1, None, "so it went"),
        (HistoryKind.LATE_RESULT, 1, None, "so it went"),
        (HistoryKind.LATE_RESULT, 1, None, "so it went"),
        (HistoryKind.PUT_BACK, 2, None, "no slot"),
        (HistoryKind.TAKEN_OVER, 3, None, None),
        (HistoryKind.DIED, 3, None, "so it went"),
        (HistoryKind.REPLAYED, 0, "bob", "try it"),
    ]
    (entry,) = await ledger.history([id_of("by hand")])
    assert (entry.kind, entry.actor, entry.detail) == (HistoryKind.CANCELLED, "ann", "a test")
    assert await ledger.history([id_of("plain"), id_of("left")]) == []
    await ledger.arm(started([run("left")]), NOW + 2)
    assert [entry.kind for entry in await ledger.history([id_of("left")])] == [HistoryKind.RESUMED]


@pytest.mark.parametrize("state", [RunState.HANDLED, RunState.STALE, RunState.DEAD])
async def test_an_outcome_closes_the_run(ledger: Ledger, state: RunState) -> None:
    await configure(ledger, config("a", 2))
    await ledger.arm(started([run("a")]), NOW)
    assert await record(ledger, await take(ledger, run("a")), state) == 1
    (row,) = await ledger.rows("a")
    assert (row.state, row.message, row.next_at) == (state, "so it went", None)
    assert (row.lease_until, row.lease_owner) == (None, None)
    assert row.finished_at == NOW + 11


async def test_a_retry_is_armed_again_with_its_attempts(ledger: Ledger) -> None:
    await configure(ledger, config("a", 2))
    await ledger.arm(started([run("a")]), NOW)
    await record(ledger, await take(ledger, run("a")), RunState.ARMED, NOW + 20)
    assert (await take(ledger, run("a"))).later == (due("a", NOW + 20),)
    taking = await take(ledger, run("a"), now=NOW + 21)
    assert [node.attempt for node in taking.taken] == [2]


async def test_each_outcome_of_a_batch_keeps_its_own_words_and_its_own_time(
    ledger: Ledger,
) -> None:
    """Outcomes of all states in one batch, equal and different, for one node and for many."""
    runs = [run(f"n{i}", f"v{i % 2}") for i in range(40)] + [run("n0", "v9"), run("o'n_1", "v_1")]
    await configure(
        ledger, *(config(each.node_id, 2) for each in {r.node_id: r for r in runs}.values())
    )
    await ledger.arm(started(runs), NOW)
    taking = await take(ledger, *runs)
    assert len(taking.taken) == len(runs)
    written = {}
    for number, node in enumerate(taking.taken):
        state = (RunState.ARMED, RunState.HANDLED, RunState.DEAD, RunState.STALE)[number % 4]
        due_at = NOW + 20 + number / 7 if state is RunState.ARMED else None
        text = "" if number % 3 else f"{number} 'said' \\ %s 节点"
        outcome = Outcome(
            node=node, state=state, message=text, due_at=due_at, called=number % 8 != 0
        )
        written[node.run] = outcome
    assert await ledger.record([*written.values()], owner=taking.owner, now=NOW + 11) == len(runs)
    for each, outcome in written.items():
        (row,) = [row for row in await ledger.rows(each.node_id) if row.version == each.version]
        finished_at = None if outcome.state is RunState.ARMED else NOW + 11
        assert (row.state, row.message, row.next_at, row.finished_at, row.attempts) == (
            outcome.state,
            outcome.message,
            outcome.due_at,
            finished_at,
            1 if outcome.called or outcome.state is RunState.STALE else 0,
        )


async def test_a_run_put_back_unused_has_lost_no_attempt(ledger: Ledger) -> None:
    await configure(ledger, config("a", 2))
    await ledger.arm(started([run("a")]), NOW)
    taking = await take(ledger, run("a"))
    unused = Outcome(node=taking.taken[0], state=RunState.ARMED, due_at=NOW, called=False)
    assert await ledger.record([unused], owner=taking.owner, now=NOW) == 1
    assert [node.attempt for node in (await take(ledger, run("a"))).taken] == [1]


async def test_a_worker_that_struck_while_a_disarming_was_under_way_tells_the_truth(
    ledger: Ledger,
) -> None:
    await configure(ledger, config("a", 2))
    await ledger.arm(started([run("a")]), NOW)
    taking = await ledger.take(
        [due("a", NOW)], now=NOW + 1, lease_seconds=LEASE, max_attempts=3, ahead_seconds=1
    )
    await ledger.disarm(left(["a"]), NOW + 1.9)
    assert await record(ledger, taking, RunState.HANDLED) == 1
    assert await states(ledger, "a") == {"v1": RunState.HANDLED}


async def test_a_run_cancelled_under_a_workers_hands_is_its_own_still(ledger: Ledger) -> None:
    await configure(ledger, config("a", 2), config("b", 2))
    await ledger.arm(started([run("a"), run("b")]), NOW)
    taking = await ledger.take(
        [due(name, NOW) for name in "ab"],
        now=NOW + 1,
        lease_seconds=LEASE,
        max_attempts=3,
        ahead_seconds=1,
    )
    await ledger.disarm(left(["a"]), NOW + 1.5)
    renewed = await ledger.renew([id_of("a"), id_of("b")], [taking.owner], NOW + 999)
    assert renewed == {id_of("a"), id_of("b")}


async def test_every_ending_message_is_kept(ledger: Ledger) -> None:
    await configure(ledger, config("a", 2), config("b", 2))
    await ledger.arm(started([run("a"), run("b")]), NOW)
    taking = await take(ledger, run("a"), run("b"))
    outcomes = [
        Outcome(node=node, state=RunState.HANDLED, message=f"{node.node_id} 已跳过 🙂")
        for node in taking.taken
    ]
    assert await ledger.record(outcomes, owner=taking.owner, now=NOW) == 2
    assert [row.message for row in await ledger.rows("b")] == ["b 已跳过 🙂"]
