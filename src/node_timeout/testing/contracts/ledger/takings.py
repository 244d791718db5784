"""Taking due runs in the ledger and holding them: leases, attempts, adoption."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from node_timeout.domain.run import DueRun, RunState, TimedOutNode
from node_timeout.ports.ledger import Ledger, Taking
from node_timeout.testing.contracts.ledger.acts import (
    LEASE,
    NOW,
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

TRACE = f"00-{'1' * 32}-{'2' * 16}-01"


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
            started_at=NOW,
            seconds=2.0,
        ),
    )
    (row,) = await ledger.rows("a")
    assert (row.state, row.next_at, row.attempts) == (RunState.EXECUTING, None, 1)
    assert (row.lease_until, row.lease_owner) == (NOW + 10 + LEASE, taking.owner)


async def test_what_a_run_started_with_is_what_its_strategy_is_given(ledger: Ledger) -> None:
    """Even if the config changes meanwhile, and whether it was armed alone or with others."""
    names = ["alone", "first", "second", "suspended"]
    before = [config(name, 2, payload={"task": name, "why": "慢"}) for name in names]
    await configure(ledger, *before)
    await ledger.disarm([gone("suspended", "v1", remember=True)], NOW - 9)
    for some in (names[:1], names[1:]):
        starts = started(map(run, some), NOW - 1)
        await ledger.arm([replace(each, trace=TRACE) for each in starts], NOW)
    await configure(ledger, *(config(name, 99, payload="later") for name in names))
    taking = await take(ledger, *map(run, names))
    assert [node.payload for node in sorted(taking.taken, key=lambda each: each.node_id)] == [
        {"task": name, "why": "慢"} for name in names
    ]
    given = {(node.seconds, node.started_at, node.trace) for node in taking.taken}
    assert given == {(2.0, NOW - 1, TRACE)}
    for name in names:
        (row,) = await ledger.rows(name)
        assert (row.timeout, row.deadline) == (2.0, NOW + 1)


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
    await ledger.save_configs([config("b", root="other"), config("both", root="other")], [])
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


async def test_a_later_try_is_not_taken_ahead(ledger: Ledger) -> None:
    await configure(ledger, config("a", 2))
    await ledger.arm(started([run("a")]), NOW)
    taking = await take(ledger, run("a"))
    await record(ledger, taking, RunState.ARMED, due_at=NOW + 20)
    again = await ledger.take(
        [due("a", NOW)], now=NOW + 19.9, lease_seconds=LEASE, max_attempts=3, ahead_seconds=0.5
    )
    assert again.taken == ()
    assert again.later == (due("a", NOW + 20.5),), "the claim, ahead by so much, is not too early"


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
