"""Taking due runs in the ledger, and what came of each attempt."""

import asyncio
from collections.abc import Sequence

import pytest

from node_timeout.domain.run import DueRun, HistoryKind, Outcome, RunState, TimedOutNode
from node_timeout.ports.ledger import Ledger, Taking
from node_timeout.testing.contracts.ledger.acts import (
    LEASE,
    NOW,
    died,
    record,
    states,
    take,
)
from node_timeout.testing.words import (
    config,
    configure,
    due,
    foreign,
    gone,
    id_of,
    left,
    run,
    started,
)


async def test_a_taking_whose_answer_was_lost_is_taken_again_by_the_same_worker(
    ledger: Ledger,
) -> None:
    await configure(ledger, config("a", 2))
    await ledger.arm(started([run("a")]), NOW)
    first, again = [
        await ledger.take(
            [due("a", NOW)],
            now=NOW + 10,
            lease_seconds=LEASE,
            max_attempts=3,
            owner="the same",
        )
        for _ in range(2)
    ]
    assert first == again
    (row,) = await ledger.rows("a")
    assert row.attempts == 1


async def test_taking_moves_due_runs_to_executing(ledger: Ledger) -> None:
    await configure(ledger, config("a", 2))
    await ledger.arm(started([run("a")]), NOW)
    taking = await take(ledger, run("a"))
    assert taking.taken == (
        TimedOutNode(
            node_id="a",
            version="v1",
            root_pipeline_id="root",
            action="forced_fail",
            deadline=NOW + 2,
            attempt=1,
        ),
    )
    (row,) = await ledger.rows("a")
    assert (row.state, row.next_at, row.attempts) == (RunState.EXECUTING, None, 1)
    assert (row.lease_until, row.lease_owner) == (NOW + 10 + LEASE, taking.owner)


async def test_a_run_is_taken_by_one_worker_only(ledger: Ledger) -> None:
    await configure(ledger, config("a", 2))
    await ledger.arm(started([run("a")]), NOW)
    first = await take(ledger, run("a"))
    second = await take(ledger, run("a"), now=NOW + 10.5)
    assert len(first.taken) == 1
    assert second.taken == ()
    assert second.later == (due("a", first.lease_until),)


async def test_takings_at_the_same_instant_share_nothing(ledger: Ledger) -> None:
    names = [f"n{i}" for i in range(60)]
    await configure(ledger, *(config(name, 2) for name in names))
    armed, unknown = names[:40], names[40:]
    await ledger.arm(started([run(name) for name in armed]), NOW)
    orders = [names, names[::-1], names[30:] + names[:30], [*unknown, *armed]]

    async def adopt_and_take(order: Sequence[str], now: float) -> Taking:
        await ledger.adopt([foreign(name) for name in order if name in unknown])
        return await take(ledger, *map(run, order), now=now)

    takings = await asyncio.gather(
        *(adopt_and_take(order, NOW + 10 + i) for i, order in enumerate(orders))
    )
    taken = [node.node_id for taking in takings for node in taking.taken]
    assert sorted(taken) == sorted(names)


async def test_a_run_that_is_not_due_is_left_for_later(ledger: Ledger) -> None:
    await configure(ledger, config("a", 100))
    await ledger.arm(started([run("a")]), NOW)
    taking = await take(ledger, run("a"))
    assert taking.later == (due("a", NOW + 100),)


async def test_each_run_of_a_batch_gets_what_it_would_get_alone(ledger: Ledger) -> None:
    names = ["due", "expired", "later", "left", "twice"]
    await configure(ledger, *(config(name, 2) for name in names), config("unknown"))
    await ledger.arm(started([run(name) for name in names]), NOW)
    await configure(ledger, config("later", 100))
    await ledger.arm(started([run("later", "v2")]), NOW)
    expired = await take(ledger, run("expired"), now=NOW + 3)
    await ledger.disarm(left(["left"]), NOW)
    runs = [run(name) for name in ("unknown", "twice", "twice", "stranger", "left", "expired")]
    taking = await take(ledger, *runs, run("due"), run("later", "v2"), now=expired.lease_until + 1)
    assert sorted((node.node_id, node.attempt) for node in taking.taken) == [
        ("due", 1),
        ("expired", 2),
        ("twice", 1),
    ]
    assert taking.later == (due("later", NOW + 100, "v2"),)
    assert taking.dropped == {RunState.CANCELLED: 1}
    assert {each.run_id for each in taking.unknown} == {id_of("unknown"), id_of("stranger")}
    assert taking.stolen == 1
    assert await record(ledger, taking, RunState.HANDLED) == 3


async def test_closed_runs_are_dropped(ledger: Ledger) -> None:
    await configure(ledger, config("a", 2), config("b", 2))
    await ledger.arm(started([run("a"), run("b")]), NOW)
    await ledger.disarm(left(["a"]), NOW)
    await record(ledger, await take(ledger, run("b")), RunState.HANDLED)
    taking = await take(ledger, run("a"), run("b"))
    assert taking.taken == ()
    assert taking.dropped == {RunState.CANCELLED: 1, RunState.HANDLED: 1}


async def test_a_run_that_the_engine_armed_itself_gets_a_row(ledger: Ledger) -> None:
    await configure(ledger, config("a"))
    await ledger.adopt([foreign("a", due_at=NOW - 3)])
    taking = await ledger.take([due("a", NOW - 3)], now=NOW, lease_seconds=LEASE, max_attempts=3)
    assert [(node.run, node.deadline) for node in taking.taken] == [(run("a"), NOW - 3)]


async def test_a_run_that_the_ledger_does_not_know_is_told(ledger: Ledger) -> None:
    taking = await take(ledger, run("stranger"))
    assert (taking.taken, taking.unknown) == ((), (due("stranger", NOW),))
    assert await ledger.rows("stranger") == []


async def test_what_an_engine_has_put_into_the_pool_is_adopted(ledger: Ledger) -> None:
    await configure(ledger, config("a"), config("both"))
    await ledger.save_configs(
        "other", [config("b", root="other"), config("both", root="other")], []
    )
    await ledger.arm(started([run("a", "v2")]), NOW)
    names = [("a", "v1"), ("a", "v2"), ("b", "v1"), ("both", "v1"), ("nobody", "v1")]
    members = {name: foreign(*name, due_at=NOW + 1) for name in names}
    for _ in range(2):
        adoption = await ledger.adopt(list(members.values()))
        assert adoption.due == {
            members["a", "v1"]: due("a", NOW + 1),
            members["a", "v2"]: due("a", NOW + 1, "v2"),
            members["b", "v1"]: DueRun(run_id=id_of("b", root="other"), due_at=NOW + 1),
        }
        assert set(adoption.refused) == {members["both", "v1"], members["nobody", "v1"]}
    assert "'other' and 'root'" in adoption.refused[members["both", "v1"]]
    assert adoption.refused[members["nobody", "v1"]] == (
        "no timeout config is stored for node 'nobody'"
    )
    deadlines = {row.version: row.deadline for row in await ledger.rows("a")}
    assert deadlines == {"v1": NOW + 1, "v2": NOW + 10}
    assert [row.root_pipeline_id for row in await ledger.rows("b")] == ["other"]


async def test_what_is_adopted_ahead_of_its_deadline_keeps_it(ledger: Ledger) -> None:
    await configure(ledger, config("a"))
    adoption = await ledger.adopt([foreign("a", due_at=NOW + 0.05)])
    taking = await ledger.take(
        list(adoption.due.values()),
        now=NOW,
        lease_seconds=LEASE,
        max_attempts=1,
        ahead_seconds=0.1,
    )
    assert [node.deadline for node in taking.taken] == [NOW + 0.05]


async def test_the_history_tells_what_was_not_plain(ledger: Ledger) -> None:
    await configure(ledger, *(config(name, 2) for name in ("plain", "tried", "left", "by hand")))
    names = ("plain", "tried", "left", "by hand")
    await ledger.arm(started([run(name) for name in names]), NOW)
    await ledger.disarm(left(["left"]), NOW + 1)
    by_hand = gone("by hand", actor="ann", reason="a test")
    await ledger.disarm([by_hand], NOW + 1)
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
    order = died(NOW + 999, node_id="tried", actor="bob", reason="try it")
    await ledger.replay(order, NOW + 200, 10)
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
    """Of all states at once, alike and different, among runs of one node and of many."""
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


async def test_a_vanished_workers_run_is_taken_over_when_its_lease_is_over(
    ledger: Ledger,
) -> None:
    await configure(ledger, config("a", 2))
    await ledger.arm(started([run("a")]), NOW)
    vanished = await take(ledger, run("a"))
    after = vanished.lease_until + 1
    taking = await take(ledger, run("a"), now=after)
    assert (taking.stolen, [node.attempt for node in taking.taken]) == (1, [2])
    assert await record(ledger, vanished, RunState.HANDLED) == 0, "a late result changes nothing"
    assert await states(ledger, "a") == {"v1": RunState.EXECUTING}


async def test_a_run_whose_workers_keep_vanishing_is_given_up(ledger: Ledger) -> None:
    await configure(ledger, config("a", 2))
    await ledger.arm(started([run("a")]), NOW)
    now = NOW + 10
    for _ in range(3):
        now = (await take(ledger, run("a"), now=now)).lease_until + 1
    taking = await take(ledger, run("a"), now=now)
    assert taking.taken == ()
    assert [each.state for each in taking.given_up] == [RunState.DEAD]
    (row,) = await ledger.rows("a")
    assert row.message is not None
    assert "gave up after 3 attempts" in row.message


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


async def test_a_later_try_is_not_taken_ahead(ledger: Ledger) -> None:
    await configure(ledger, config("a", 2))
    await ledger.arm(started([run("a")]), NOW)
    taking = await take(ledger, run("a"))
    await record(ledger, taking, RunState.ARMED, due_at=NOW + 20)
    again = await ledger.take(
        [due("a", NOW)], now=NOW + 19.9, lease_seconds=LEASE, max_attempts=3, ahead_seconds=0.5
    )
    assert (again.taken, again.later) == ((), (due("a", NOW + 20),))


async def test_a_lease_is_renewed_by_its_owner_only(ledger: Ledger) -> None:
    names = ["a", "b", "c", "d"]
    await configure(ledger, *(config(name, 2) for name in names))
    await ledger.arm(started([run(name) for name in names]), NOW)
    mine, other = await take(ledger, run("a"), run("b")), await take(ledger, run("c"))
    chosen = [id_of(name) for name in names]
    until = mine.lease_until + 99
    assert await ledger.renew(chosen, [mine.owner], until) == {id_of("a"), id_of("b")}
    assert [row.lease_until for name in "abc" for row in await ledger.rows(name)] == [
        until,
        until,
        other.lease_until,
    ]
    assert await ledger.renew(chosen[:3], [mine.owner, other.owner], until) == set(chosen[:3])
    assert (await take(ledger, run("a"), now=until - 1)).taken == ()
    assert await record(ledger, mine, RunState.HANDLED) == 2
    assert await ledger.renew(chosen, [mine.owner], until) == set()


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
