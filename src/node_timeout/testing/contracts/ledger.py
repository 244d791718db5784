"""What every ledger does. A suite for pytest: give it a fixture ``ledger``, an empty one.

from node_timeout.testing.contracts.ledger import *
"""

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import astuple, replace
from typing import Any

import pytest

from node_timeout.domain.events import NodeStarted
from node_timeout.domain.run import DueRun, HistoryKind, NodeRun, Outcome, RunState, TimedOutNode
from node_timeout.ports.directory import RunFilter
from node_timeout.ports.ledger import DeadRuns, Ledger, Retention, Taking
from node_timeout.testing.words import (
    config,
    configure,
    due,
    foreign,
    gone,
    id_of,
    left,
    names_of,
    run,
    started,
)

NOW = 1_795_448_948.419_445_3
LEASE = 60.0


async def take(ledger: Ledger, *runs: NodeRun, now: float = NOW + 10) -> Taking:
    wanted = [DueRun(run_id=each.run_id, due_at=NOW) for each in runs]
    return await ledger.take(wanted, now=now, lease_seconds=LEASE, max_attempts=3)


async def states(ledger: Ledger, node_id: str) -> dict[str, RunState]:
    return {row.version: row.state for row in await ledger.rows(node_id)}


def outcome(node: TimedOutNode, state: RunState, due_at: float | None = None) -> Outcome:
    return Outcome(node=node, state=state, message="so it went", due_at=due_at)


async def record(
    ledger: Ledger, taking: Taking, state: RunState, due_at: float | None = None
) -> int:
    outcomes = [outcome(node, state, due_at) for node in taking.taken]
    return await ledger.record(outcomes, owner=taking.owner, now=NOW + 11)


async def test_configs_are_stored_updated_and_removed(ledger: Ledger) -> None:
    await configure(ledger, config("a", 1.5), config("b"), config("B"))
    await configure(ledger, config("a", 2.5, "forced_fail_and_skip"))
    stored = await ledger.configs([("root", name) for name in ("a", "b", "B", "missing")])
    assert stored["root", "a"] == config("a", 2.5, "forced_fail_and_skip")
    assert set(stored) == {("root", "a"), ("root", "b"), ("root", "B")}
    await ledger.save_configs("root", [], ["a"])
    await ledger.save_configs("another root", [], ["b"])
    assert set(await ledger.configs(list(stored))) == {("root", "b"), ("root", "B")}


async def test_the_configs_of_a_root_end_some_time_after_it(ledger: Ledger) -> None:
    await configure(ledger, *(config(name) for name in "abc"))
    await ledger.save_configs("other", [config("a", root="other")], [])
    assert await ledger.end_root("root", NOW + 10) == 3
    assert await ledger.end_root("root", NOW + 99) == 0, "it ends once"
    assert await ledger.purge_configs(NOW + 9, 10) == 0
    await configure(ledger, config("b"))
    assert [await ledger.purge_configs(NOW + 11, 1) for _ in range(3)] == [1, 1, 0]
    assert await ledger.configured(None, 9) == [("other", "a"), ("root", "b")], "stored again"
    assert (await ledger.forget_root("root"), await ledger.forget_root("root")) == (1, 0)
    assert await ledger.configured(None, 9) == [("other", "a")]


async def test_thousands_of_configs_are_one_transaction(ledger: Ledger) -> None:
    await configure(ledger, *(config(f"n{i}") for i in range(1201)))
    assert len(await ledger.configs([("root", f"n{i}") for i in range(1201)])) == 1201


async def test_only_nodes_with_a_config_are_armed(ledger: Ledger) -> None:
    await configure(ledger, config("a", 2.25))
    armed = await ledger.arm(started([run("a"), run("stranger")]), NOW)
    assert armed == [due("a", NOW + 2.25)]
    assert await ledger.rows("stranger") == []
    assert await ledger.arm(started([]), NOW) == []


async def test_arming_again_keeps_the_deadline(ledger: Ledger) -> None:
    await configure(ledger, config("a"))
    first = await ledger.arm(started([run("a")]), NOW)
    assert await ledger.arm(started([run("a")]), NOW + 5) == first


async def test_disarming_cancels_every_armed_version(ledger: Ledger) -> None:
    await configure(ledger, config("a"), config("b"))
    await ledger.arm(started([run("a", "v1"), run("a", "v2"), run("b")]), NOW)
    cancelled = (await ledger.disarm(left(["a", "nobody"]), NOW + 1)).cancelled
    assert set(cancelled) == {run("a", "v1"), run("a", "v2")}
    assert await states(ledger, "a") == {"v1": RunState.CANCELLED, "v2": RunState.CANCELLED}
    assert await states(ledger, "b") == {"v1": RunState.ARMED}
    assert (await ledger.disarm(left([]), NOW)).cancelled == ()


@pytest.mark.parametrize("remember", [False, True])
async def test_each_leaving_of_a_batch_counts_in_any_order(ledger: Ledger, remember: bool) -> None:
    for number, order in enumerate(itertools.permutations(["v1", "v2", "v2", "v3"])):
        node = f"n{number}"
        await configure(ledger, config(node))
        for i, version in enumerate(("v1", "v2", "v4")):
            await ledger.arm(started([run(node, version)], NOW + i), NOW)
        events = [gone(node, version, happened_at=NOW + 9, remember=remember) for version in order]
        disarming = await ledger.disarm(events, NOW + 10)
        assert {run(node, "v1"), run(node, "v2")} <= set(disarming.cancelled)
        found = await states(ledger, node)
        assert {found["v1"], found["v2"]} == {RunState.CANCELLED}
        assert ("v3" in found) is remember


async def test_a_node_that_left_as_a_newer_version_leaves_nothing_older_armed(
    ledger: Ledger,
) -> None:
    await configure(ledger, config("a"), config("b"))
    for name in ("a", "b"):
        await ledger.arm(started([run(name, "v1")], NOW), NOW)
        await ledger.arm(started([run(name, "v2")], NOW + 1), NOW)
    disarming = await ledger.disarm([*left(["a"], "v2"), *left(["a"], "v1")], NOW + 2)
    assert set(disarming.cancelled) == {run("a", "v1"), run("a", "v2")}
    await ledger.disarm([*left(["b"], "v1"), *left(["b"], "v1")], NOW + 2)
    assert await states(ledger, "b") == {"v1": RunState.CANCELLED, "v2": RunState.ARMED}


async def test_exactly_one_version_can_be_cancelled(ledger: Ledger) -> None:
    await configure(ledger, config("a"))
    for i, version in enumerate(("v1", "v2", "v3")):
        await ledger.arm(started([run("a", version)], NOW + i), NOW)

    async def cancel(version: str) -> tuple[NodeRun, ...]:
        event = gone("a", version, only_version=True)
        return (await ledger.disarm([event], NOW + 10)).cancelled

    assert await cancel("unknown") == ()
    assert await cancel("v2") == (run("a", "v2"),)
    assert await cancel("v2") == ()
    assert await states(ledger, "a") == {
        "v1": RunState.ARMED,
        "v2": RunState.CANCELLED,
        "v3": RunState.ARMED,
    }


async def test_a_resumed_run_has_the_time_it_had_left(ledger: Ledger) -> None:
    await configure(ledger, config("a", 10))
    await ledger.arm(started([run("a")]), NOW)
    await ledger.disarm(left(["a"]), NOW + 4)
    resumed = await ledger.arm(started([run("a")]), NOW + 100)
    assert resumed[0].due_at == pytest.approx(NOW + 106)
    (row,) = await ledger.rows("a")
    assert row.deadline == row.next_at
    assert row.finished_at is None


async def test_the_deadline_counts_from_when_it_happened(ledger: Ledger) -> None:
    await configure(ledger, config("a", 10), config("b", 10))
    (late,) = await ledger.arm(started([run("a")], happened_at=NOW - 4), NOW)
    assert late.due_at == NOW + 6
    (early,) = await ledger.arm(started([run("b")], happened_at=NOW + 4), NOW)
    assert early.due_at == NOW + 10, "an engine's clock may be ahead"


async def test_a_run_that_starts_again_now_while_it_is_found_stale_is_looked_at_again(
    ledger: Ledger,
) -> None:
    await configure(ledger, config("a", 2))
    await ledger.arm(started([run("a")]), NOW)
    taking = await take(ledger, run("a"))
    assert await ledger.arm(started([run("a")]), NOW + 10) == []
    assert await record(ledger, taking, RunState.STALE) == 1
    assert await states(ledger, "a") == {"v1": RunState.ARMED}


async def test_a_run_resumed_while_it_is_found_stale_is_looked_at_again(ledger: Ledger) -> None:
    """Suspended at its deadline: a worker has asked the engine, and has not written yet."""
    await configure(ledger, config("a", 2), config("b", 2))
    await ledger.arm(started([run("a"), run("b")], happened_at=NOW), NOW)
    taking = await take(ledger, run("a"), run("b"))
    assert await ledger.arm(started([run("a")], happened_at=NOW + 10.1), NOW + 10.1) == []
    outcomes = [outcome(node, RunState.STALE) for node in taking.taken]
    assert await ledger.record(outcomes, owner=taking.owner, now=NOW + 11) == 2
    assert await states(ledger, "a") == {"v1": RunState.ARMED}
    assert await states(ledger, "b") == {"v1": RunState.STALE}
    again = started([run("b")], happened_at=NOW + 10.1)
    assert len(await ledger.arm(again, NOW + 12)) == 1, "recorded late, resumed before"


async def test_a_second_leaving_counts_against_a_late_start(ledger: Ledger) -> None:
    await configure(ledger, config("a", 10))
    await ledger.arm(started([run("a")], happened_at=NOW), NOW)
    for instant in (NOW + 3, NOW + 7):
        await ledger.disarm(left(["a"], "v1", happened_at=instant), NOW + 8)
    assert await ledger.arm(started([run("a")], happened_at=NOW + 6), NOW + 9) == []


async def test_hosts_whose_clocks_differ_a_little_cost_no_deadline(ledger: Ledger) -> None:
    """The start of the version that left is not known: only clocks tell which came first."""
    await configure(ledger, config("a", 10))
    await ledger.arm(started([run("a", "v2")], happened_at=NOW - 0.1), NOW)
    await ledger.disarm(left(["a"], "v1", happened_at=NOW), NOW)
    assert await states(ledger, "a") == {"v2": RunState.ARMED}


async def test_a_run_whose_engine_is_ahead_can_be_cancelled_by_hand(ledger: Ledger) -> None:
    await configure(ledger, config("a", 10))
    await ledger.arm(started([run("a")], happened_at=NOW + 100), NOW)
    assert (await ledger.disarm(left(["a"]), NOW + 1)).cancelled == (run("a"),)


async def test_a_late_leaving_cancels_no_newer_run(ledger: Ledger) -> None:
    await configure(ledger, config("a", 10))
    await ledger.arm(started([run("a", "v1")]), NOW)
    await ledger.arm(started([run("a", "v2")]), NOW + 5)
    disarming = await ledger.disarm(left(["a"], happened_at=NOW + 4), NOW + 6)
    assert disarming.cancelled == (run("a", "v1"),)
    assert disarming.kept == (run("a", "v2"),)
    assert await states(ledger, "a") == {"v1": RunState.CANCELLED, "v2": RunState.ARMED}


async def test_a_start_older_than_the_leaving_arms_nothing(ledger: Ledger) -> None:
    await configure(ledger, config("a", 10))
    await ledger.arm(started([run("a")]), NOW)
    await ledger.disarm(left(["a"]), NOW + 4)
    assert await ledger.arm(started([run("a")], happened_at=NOW), NOW + 5) == []
    assert await states(ledger, "a") == {"v1": RunState.CANCELLED}


async def test_a_closed_run_that_the_engine_still_runs_is_armed_again(ledger: Ledger) -> None:
    await configure(ledger, config("a", 10))
    await ledger.arm(started([run("a")]), NOW)
    await ledger.disarm(left(["a"]), NOW + 4)
    assert await ledger.untracked([run("a"), run("b")]) == [run("a"), run("b")]
    seen = NodeStarted.of(run("a"), happened_at=NOW, seen_at=NOW + 20)
    assert await ledger.arm([seen], NOW + 20) == [due("a", NOW + 26)]
    assert await ledger.untracked([run("a"), run("b")]) == [run("b")]


async def test_a_config_that_an_event_carries_counts_for_its_run(ledger: Ledger) -> None:
    await configure(ledger, config("stored", 10))
    events = [
        NodeStarted.of(run(name), config=config(name, 3, "page_operator"))
        for name in ("carried", "stored")
    ]
    for _ in range(2):
        armed = await ledger.arm(events, NOW)
        assert set(map(astuple, armed)) == {
            (id_of("carried"), NOW + 3),
            (id_of("stored"), NOW + 10),
        }
    assert await ledger.configs([("root", "carried")]) == {}
    assert await ledger.actions([id_of("carried"), id_of("stored"), id_of("nobody")]) == {
        id_of("carried"): "page_operator",
        id_of("stored"): "forced_fail",
    }
    (taken,) = (await take(ledger, run("carried"))).taken
    assert (taken.action, taken.root_pipeline_id) == ("page_operator", "root")
    await ledger.disarm(left(["stored"]), NOW)
    assert await ledger.arm(events, NOW + 1) != [], "resumed"


async def test_configured_nodes_come_in_pages(ledger: Ledger) -> None:
    await configure(ledger, *(config(name) for name in "abc"))
    await ledger.save_configs("another", [config("z", root="another")], [])
    assert await ledger.configured(None, 2) == [("another", "z"), ("root", "a")]
    assert await ledger.configured(("root", "a"), 9) == [("root", "b"), ("root", "c")]
    await ledger.end_root("root", NOW)
    assert await ledger.configured(None, 9) == [("another", "z")], "nothing runs there any more"


async def test_added_configs_leave_stored_ones_alone(ledger: Ledger) -> None:
    await configure(ledger, config("a", 1))
    assert await ledger.add_configs([config("a", 2), config("b", 2)]) == 1
    assert await ledger.add_configs([config("b", 3)]) == 0
    stored = await ledger.configs([("root", "a"), ("root", "b")])
    assert {name: each.timeout for (_, name), each in stored.items()} == {"a": 1, "b": 2}


async def test_a_run_found_stale_and_then_resumed_is_armed_again(ledger: Ledger) -> None:
    """It was suspended while its message was under way."""
    await configure(ledger, config("a", 2))
    await ledger.arm(started([run("a")]), NOW)
    await record(ledger, await take(ledger, run("a")), RunState.STALE)
    (resumed,) = await ledger.arm(started([run("a")]), NOW + 100)
    assert resumed.due_at <= NOW + 100, "it had no time left"
    assert [node.attempt for node in (await take(ledger, run("a"), now=NOW + 101)).taken] == [1]


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


async def test_the_roots_of_a_node_are_told(ledger: Ledger) -> None:
    await configure(ledger, config("a"), config("both"))
    for root in ("other", "z"):
        await ledger.save_configs(root, [config("both", root=root)], [])
    roots = await ledger.roots(["a", "both", "nobody"])
    assert roots == {"a": ("root",), "both": ("other", "z")}
    for name, root in (("a", "gone"), ("carried", "one"), ("closed", "one")):
        event = NodeStarted.of(run(name, root=root), config=config(name, root=root))
        await ledger.arm([event], NOW)
    await ledger.disarm([gone("closed", root="one")], NOW)
    roots = await ledger.roots(["a", "carried", "closed"], of_open_runs=True)
    assert roots == {"a": ("gone", "root"), "carried": ("one",)}
    assert await ledger.roots(["a", "carried"]) == {"a": ("root",)}
    await ledger.end_root("z", NOW)
    assert await ledger.roots(["both"]) == {"both": ("other", "root")}, "z has ended"
    for root in ("root", "other"):
        await ledger.end_root(root, NOW)
    assert await ledger.roots(["both"]) == {"both": ("other", "z")}, "all have"


async def test_leavings_of_many_nodes_touch_no_other_pair_of_root_and_id(
    ledger: Ledger,
) -> None:
    for root in ("r1", "r2"):
        configs = [config(name, root=root) for name in ("a", "b")]
        await ledger.save_configs(root, configs, [])
        await ledger.arm(started([run(name, root=root) for name in ("a", "b")]), NOW)
    disarming = await ledger.disarm([gone("a", root="r1"), gone("b", root="r2")], NOW + 1)
    assert set(disarming.cancelled) == {run("a", root="r1"), run("b", root="r2")}
    pairs = [("r1", "a"), ("r2", "b"), ("r3", "a")]
    assert set(await ledger.configs(pairs)) == {*pairs[:2]}


async def test_nodes_of_one_id_in_several_roots_have_lives_of_their_own(
    ledger: Ledger,
) -> None:
    await configure(ledger, config("a", 2))
    await ledger.save_configs("other", [config("a", 5, "page_operator", root="other")], [])
    both = [run("a", root="root"), run("a", root="other")]
    armed = await ledger.arm(started(both), NOW)
    assert {each.run_id: each.due_at for each in armed} == {
        both[0].run_id: NOW + 2,
        both[1].run_id: NOW + 5,
    }
    await ledger.save_configs("other", [], ["a"])
    assert set(await ledger.configs([run.node for run in both])) == {("root", "a")}
    assert (await ledger.disarm([gone("a", root="other")], NOW + 1)).cancelled == (both[1],)
    assert (await take(ledger, *both)).taken[0].run == both[0]
    assert {row.root_pipeline_id: row.state for row in await ledger.rows("a")} == {
        "root": RunState.EXECUTING,
        "other": RunState.CANCELLED,
    }
    assert [row.root_pipeline_id for row in await ledger.rows("a", "other")] == ["other"]
    assert {row.run for row in await ledger.rows_of([both[1].run_id])} == {both[1]}


async def test_a_run_keeps_the_action_that_it_started_with(ledger: Ledger) -> None:
    await configure(ledger, config("a", 2), config("b", 2))
    await ledger.arm(started([run("a"), run("b")]), NOW)
    await configure(ledger, config("a", 2, "forced_fail_and_skip"))
    await ledger.save_configs("root", [], ["b"])
    ids = [id_of("a"), id_of("b")]
    assert await ledger.actions(ids) == dict.fromkeys(ids, "forced_fail")
    taking = await take(ledger, run("a"), run("b"))
    assert {(node.action, node.root_pipeline_id) for node in taking.taken} == {
        ("forced_fail", "root")
    }


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
    order = DeadRuns(until=NOW + 999, node_id="tried", actor="bob", reason="try it")
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


async def test_the_history_goes_with_its_run(ledger: Ledger) -> None:
    await configure(ledger, config("a"), config("b"))
    await ledger.arm(started([run("a"), run("b")]), NOW)
    for name in "ab":
        await ledger.disarm([gone(name, actor="ann")], NOW + 1)
    retention = Retention(handled_seconds=1, cancelled_seconds=1, dead_seconds=1e9)
    assert await ledger.purge([id_of("a")], NOW + 9, retention) == 1
    assert await ledger.history([id_of("a")]) == []
    assert len(await ledger.history([id_of("b")])) == 1


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


async def test_disarming_leaves_an_executing_run_to_its_worker(ledger: Ledger) -> None:
    await configure(ledger, config("a", 2))
    await ledger.arm(started([run("a")]), NOW)
    taking = await take(ledger, run("a"))
    assert (await ledger.disarm(left(["a"]), NOW + 10)).cancelled == ()
    assert await ledger.owners([id_of("a"), id_of("b")]) == {id_of("a"): taking.owner}
    assert await record(ledger, taking, RunState.HANDLED) == 1
    assert await ledger.owners([id_of("a")]) == {}


async def test_disarming_ahead_of_the_deadline_wins_over_a_worker(ledger: Ledger) -> None:
    await configure(ledger, config("a", 2), config("b", 3))
    await ledger.arm(started([run("a"), run("b")]), NOW)
    both = [due(name, NOW) for name in ("a", "b")]
    taking = await ledger.take(
        both, now=NOW + 1, lease_seconds=LEASE, max_attempts=3, ahead_seconds=1
    )
    assert [node.run for node in taking.taken] == [run("a")]
    assert taking.later == (due("b", NOW + 3),)
    assert await ledger.owners([id_of("a"), id_of("b")]) == {id_of("a"): taking.owner}
    assert (await ledger.disarm(left(["a"]), NOW + 1.5)).cancelled == (run("a"),)
    assert await ledger.owners([id_of("a")]) == {}
    again = await ledger.take(both[:1], now=NOW + 2, lease_seconds=LEASE, max_attempts=3)
    assert again.dropped == {RunState.CANCELLED: 1}
    for state in (RunState.STALE, RunState.ARMED, RunState.DEAD):
        assert await record(ledger, taking, state, due_at=NOW + 9) == 0
    assert await states(ledger, "a") == {"v1": RunState.CANCELLED}
    armed = await ledger.arm(started([run("a")]), NOW + 2)
    assert [each.run_id for each in armed] == [id_of("a")]
    assert await record(ledger, taking, RunState.HANDLED) == 0, "a later life of it"


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


async def test_open_runs_come_in_key_order_and_in_pages(ledger: Ledger) -> None:
    names = ["c", "a", "B", "b", "d"]
    await configure(ledger, *(config(name, 5) for name in names), config("first", 1))
    await ledger.arm(started([run(name) for name in [*names, "first"]]), NOW)
    found: list[DueRun] = []
    page: Sequence[DueRun] = ()
    while page := await ledger.open_runs(found[-1] if found else None, 2):
        found += page
    assert found[0].run_id == id_of("first")
    assert set(names_of(found[1:], names)) == set(names)
    assert [each.run_id for each in found[1:]] == sorted(each.run_id for each in found[1:])
    assert len(found) == 6
    assert found == await ledger.open_runs(None, 10)
    assert await ledger.open_runs(None, 10, NOW + 1) == found[:1]
    assert await ledger.open_runs(found[0], 10, NOW + 5) == found[1:]


async def test_expired_leases_are_found(ledger: Ledger) -> None:
    await configure(ledger, config("a", 2))
    await ledger.arm(started([run("a")]), NOW)
    lease = (await take(ledger, run("a"))).lease_until
    assert await ledger.expired_runs(lease, 10) == []
    assert await ledger.expired_runs(lease + 1, 10) == [due("a", lease)]


async def test_expired_leases_come_in_pages(ledger: Ledger) -> None:
    names = [f"n{i}" for i in range(5)]
    await configure(ledger, *(config(name, 2) for name in names))
    await ledger.arm(started([run(name) for name in names]), NOW)
    await take(ledger, *(run(name) for name in names))
    found: list[DueRun] = []
    while page := await ledger.expired_runs(NOW + 999, 2, found[-1] if found else None):
        found += page
    assert sorted(names_of(found, names)) == names


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


async def test_retention_deletes_each_kind_in_its_time(ledger: Ledger) -> None:
    for name in ("handled", "stale", "dead", "cancelled", "armed"):
        await configure(ledger, config(name, 2))
        await ledger.arm(started([run(name)]), NOW)
    for name in ("handled", "stale", "dead"):
        await record(ledger, await take(ledger, run(name)), RunState(name))
    await ledger.disarm(left(["cancelled"]), NOW)
    retention = Retention(handled_seconds=1000, cancelled_seconds=100, dead_seconds=1e9)
    assert await purge(ledger, NOW + 50, retention) == 0
    assert await purge(ledger, NOW + 200, retention) == 1
    assert await ledger.rows("cancelled") == []
    assert await purge(ledger, NOW + 2000, retention) == 2
    assert await states(ledger, "dead") == {"v1": RunState.DEAD}
    short = replace(retention, dead_seconds=3000)
    assert [await purge(ledger, NOW + after, short) for after in (2900, 3100)] == [0, 1]
    assert await states(ledger, "armed") == {"v1": RunState.ARMED}


async def test_retention_deletes_in_bounded_batches(ledger: Ledger) -> None:
    names = [f"n{i}" for i in range(7)]
    await configure(ledger, *(config(name) for name in names))
    await ledger.arm(started([run(name) for name in names]), NOW)
    await ledger.disarm(left(names), NOW)
    retention = Retention(handled_seconds=1, cancelled_seconds=1, dead_seconds=1e9)
    assert [await purge(ledger, NOW + 9, retention, 3) for _ in range(4)] == [3, 3, 1, 0]


async def purge(ledger: Ledger, now: float, retention: Retention, limit: int = 10) -> int:
    return await ledger.purge(await ledger.purgeable(now, retention, limit), now, retention)


async def test_a_run_that_started_again_is_not_purged(ledger: Ledger) -> None:
    await configure(ledger, config("a"), config("b"))
    await ledger.arm(started([run("a"), run("b")], NOW), NOW)
    await ledger.disarm(left(["a", "b"]), NOW + 1)
    retention = Retention(handled_seconds=1, cancelled_seconds=1, dead_seconds=1e9)
    runs = await ledger.purgeable(NOW + 9, retention, 10)
    await ledger.arm(started([run("a")], NOW + 8), NOW + 9)
    assert await ledger.purge(runs, NOW + 9, retention) == 1
    assert await states(ledger, "a") == {"v1": RunState.ARMED}


async def test_dead_runs_are_replayed_by_node_by_root_or_all(ledger: Ledger) -> None:
    for name in ("a", "b", "c"):
        await configure(ledger, config(name, 2))
        await ledger.arm(started([run(name)]), NOW)
        await record(ledger, await take(ledger, run(name)), RunState.DEAD)
    assert await ledger.dead() == 3

    async def replay(now: float, limit: int = 10, **which: Any) -> list[str]:
        page = await ledger.replay(DeadRuns(**{"until": NOW + 99} | which), now, limit)
        assert {each.due_at for each in page.due} <= {now}
        return names_of(page.due, "abc")

    assert await replay(NOW, until=NOW + 10) == [], "they died after that"
    assert await replay(NOW, root_pipeline_id="other") == []
    assert await replay(NOW + 20, node_id="b") == ["b"]
    assert len(await replay(NOW, limit=1, root_pipeline_id="root")) == 1
    assert len(await replay(NOW)) == 1
    taking = await take(ledger, run("b"), now=NOW + 21)
    assert [node.attempt for node in taking.taken] == [1]


async def test_dead_runs_are_discarded_with_their_history(ledger: Ledger) -> None:
    for name in ("a", "b", "c", "alive"):
        await configure(ledger, config(name, 2))
        await ledger.arm(started([run(name)]), NOW)
    for name in ("a", "b", "c"):
        await record(ledger, await take(ledger, run(name)), RunState.DEAD)
    assert await ledger.discard(DeadRuns(until=NOW + 10), 10) == [], "they died after that"
    assert await ledger.discard(DeadRuns(until=NOW + 99, node_id="b"), 10) == [id_of("b")]
    assert (await ledger.rows("b"), await ledger.history([id_of("b")])) == ([], [])
    everything = DeadRuns(until=NOW + 99, root_pipeline_id="root")
    pages = [await ledger.discard(everything, 1) for _ in range(3)]
    assert [len(page) for page in pages] == [1, 1, 0]
    assert await ledger.rows("a") == await ledger.rows("c") == []
    assert await states(ledger, "alive") == {"v1": RunState.ARMED}


async def test_runs_are_found_page_by_page_oldest_first(ledger: Ledger) -> None:
    await configure(ledger, *(config(name, 10 + i) for i, name in enumerate("abcd")))
    await ledger.save_configs("other", [config("a", 5, "page_operator", root="other")], [])
    await ledger.arm(started([run(name) for name in "abcd"]), NOW)
    await ledger.arm(started([run("a", root="other"), run("b", "v2")]), NOW + 1)
    await ledger.disarm([gone("c")], NOW + 2)
    await take(ledger, run("a"), now=NOW + 11)

    async def found(limit: int = 10, **wanted: Any) -> list[str]:
        names: list[str] = []
        after = None
        while True:
            page = await ledger.find(RunFilter(**wanted), limit, after)
            names += [f"{row.root_pipeline_id}/{row.node_id}/{row.version}" for row in page.rows]
            if (after := page.after) is None:
                return names

    armed = ["other/a/v1", "root/b/v1", "root/b/v2", "root/d/v1"]
    for limit in (1, 2, 3, 10):
        assert await found(limit, state=RunState.ARMED) == armed
        assert await found(limit, node_id="a") == ["other/a/v1", "root/a/v1"]
    assert await found(state=RunState.EXECUTING) == ["root/a/v1"]
    assert await found(state=RunState.CANCELLED) == ["root/c/v1"]
    assert await found(due_by=NOW + 11) == armed[:2]
    assert await found(root_pipeline_id="other") == ["other/a/v1"]
    assert await found(2, root_pipeline_id="root", state=RunState.ARMED) == armed[1:]
    assert await found(state=RunState.ARMED, action="page_operator") == armed[:1]
    assert await found(node_id="b", root_pipeline_id="other") == []
    assert await found(state=RunState.DEAD) == []


async def test_counts_and_recent_outcomes(ledger: Ledger) -> None:
    for name in ("handled", "dead", "executing", "armed"):
        await configure(ledger, config(name, 2))
        await ledger.arm(started([run(name)]), NOW)
    await record(ledger, await take(ledger, run("handled")), RunState.HANDLED)
    await record(ledger, await take(ledger, run("dead")), RunState.DEAD)
    await take(ledger, run("executing"))
    counts = await ledger.counts(NOW + 30)
    assert (counts.armed, counts.overdue, counts.executing, counts.dead) == (1, 1, 1, 1)
    assert counts.last_hour == {RunState.HANDLED: 1, RunState.DEAD: 1}
    assert (await ledger.counts(NOW + 1)).overdue == 0
    assert len(await ledger.recent(10)) == 2
    assert len(await ledger.recent(1)) == 1


async def test_the_oldest_overdue_run_counts_from_its_deadline_next_try_or_lease(
    ledger: Ledger,
) -> None:
    async def oldest(after: float) -> float:
        return (await ledger.counts(NOW + after)).oldest_overdue_seconds

    assert await oldest(9) == 0
    await configure(ledger, config("a", 2), config("b", 1))
    await ledger.arm(started([run("a")]), NOW)
    assert await oldest(1) == 0
    assert await oldest(9) == pytest.approx(7)
    taking = await take(ledger, run("a"), now=NOW + 10)
    assert await oldest(LEASE) == 0, "a worker has it"
    assert await oldest(LEASE + 13) == pytest.approx(3), "its lease has run out"
    await record(ledger, taking, RunState.ARMED, due_at=NOW + 20)
    assert await oldest(19) == 0, "it waits for its next try"
    assert await oldest(25) == pytest.approx(5)
    await ledger.arm(started([run("b")]), NOW)
    assert await oldest(25) == pytest.approx(24)


async def test_ids_are_compared_letter_by_letter(ledger: Ledger) -> None:
    await configure(ledger, config("node"), config("Node"), config("nöde"))
    await ledger.arm(started([run("node"), run("Node"), run("nöde"), run("node", "V1")]), NOW)
    assert len(await ledger.open_runs(None, 10)) == 4
    assert (await ledger.disarm(left(["Node"]), NOW)).cancelled == (run("Node"),)


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


async def test_what_a_person_has_cancelled_is_not_missed(ledger: Ledger) -> None:
    """An engine that still runs it may say so by an event; a look alone does not undo it."""
    await configure(ledger, config("engine", 100), config("person", 100))
    runs = [run("engine"), run("person")]
    await ledger.arm(started(runs), NOW)
    await ledger.disarm([gone("engine"), gone("person", actor="me", reason="wrong")], NOW + 1)
    assert await ledger.untracked([*runs, run("new")]) == [run("engine"), run("new")]
    await ledger.arm(started([run("person")], happened_at=NOW + 2), NOW + 2)
    await ledger.disarm([gone("person")], NOW + 3)
    assert await ledger.untracked([run("person")]) == [run("person")], "the engine's own word"
