"""Starts and leavings in the ledger, also late, repeated and concurrent ones."""

import itertools

import pytest

from node_timeout.domain.changes import Cancel, Verdict
from node_timeout.domain.events import NodeStarted
from node_timeout.domain.run import RunState
from node_timeout.ports.ledger import Ledger
from node_timeout.testing.contracts.ledger.acts import (
    LEASE,
    NOW,
    change,
    outcome,
    record,
    states,
    take,
)
from node_timeout.testing.words import (
    config,
    configure,
    due,
    gone,
    id_of,
    left,
    run,
    started,
)


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

    async def cancel(version: str) -> Verdict:
        return (await change(ledger, Cancel(), run("a", version), now=NOW + 10)).verdict

    assert await cancel("unknown") is Verdict.MISSING
    assert await cancel("v2") is Verdict.DONE
    assert await cancel("v2") is Verdict.CLOSED
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
    """Suspended at its deadline, after a worker asked the engine and before it writes."""
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
    """The start of the version that left is unknown: only the clocks tell which came first."""
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
        assert set(armed) == {due("carried", NOW + 3), due("stored", NOW + 10)}
    assert await ledger.configs([("root", "carried")]) == {}
    assert await ledger.actions([id_of("carried"), id_of("stored"), id_of("nobody")]) == {
        id_of("carried"): "page_operator",
        id_of("stored"): "forced_fail",
    }
    (taken,) = (await take(ledger, run("carried"))).taken
    assert (taken.action, taken.root_pipeline_id) == ("page_operator", "root")
    await ledger.disarm(left(["stored"]), NOW)
    assert await ledger.arm(events, NOW + 1) != [], "resumed"


async def test_a_run_found_stale_and_then_resumed_is_armed_again(ledger: Ledger) -> None:
    """It was suspended while its message was in flight."""
    await configure(ledger, config("a", 2))
    await ledger.arm(started([run("a")]), NOW)
    await record(ledger, await take(ledger, run("a")), RunState.STALE)
    (resumed,) = await ledger.arm(started([run("a")]), NOW + 100)
    assert resumed.due_at <= NOW + 100, "it had no time left"
    assert [node.attempt for node in (await take(ledger, run("a"), now=NOW + 101)).taken] == [1]


async def test_leavings_of_many_nodes_touch_no_other_pair_of_root_and_id(
    ledger: Ledger,
) -> None:
    for root in ("r1", "r2"):
        configs = [config(name, root=root) for name in ("a", "b")]
        await ledger.save_configs(configs, [])
        await ledger.arm(started([run(name, root=root) for name in ("a", "b")]), NOW)
    disarming = await ledger.disarm([gone("a", root="r1"), gone("b", root="r2")], NOW + 1)
    assert set(disarming.cancelled) == {run("a", root="r1"), run("b", root="r2")}
    pairs = [("r1", "a"), ("r2", "b"), ("r3", "a")]
    assert set(await ledger.configs(pairs)) == {*pairs[:2]}


async def test_nodes_of_one_id_in_several_roots_have_lives_of_their_own(
    ledger: Ledger,
) -> None:
    await configure(ledger, config("a", 2))
    await ledger.save_configs([config("a", 5, "page_operator", root="other")], [])
    both = [run("a", root="root"), run("a", root="other")]
    armed = await ledger.arm(started(both), NOW)
    assert {each.run_id: each.due_at for each in armed} == {
        both[0].run_id: NOW + 2,
        both[1].run_id: NOW + 5,
    }
    await ledger.save_configs([], [("other", "a")])
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
    await ledger.save_configs([], [("root", "b")])
    ids = [id_of("a"), id_of("b")]
    assert await ledger.actions(ids) == dict.fromkeys(ids, "forced_fail")
    taking = await take(ledger, run("a"), run("b"))
    assert {(node.action, node.root_pipeline_id) for node in taking.taken} == {
        ("forced_fail", "root")
    }


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


async def test_ids_are_compared_letter_by_letter(ledger: Ledger) -> None:
    await configure(ledger, config("node"), config("Node"), config("nöde"))
    await ledger.arm(started([run("node"), run("Node"), run("nöde"), run("node", "V1")]), NOW)
    assert len(await ledger.open_runs(None, 10)) == 4
    assert (await ledger.disarm(left(["Node"]), NOW)).cancelled == (run("Node"),)


async def test_what_a_person_has_cancelled_is_not_missed(ledger: Ledger) -> None:
    """But a run that left by its engine is: it may have started again without an event."""
    await configure(ledger, config("engine", 100), config("person", 100))
    runs = [run("engine"), run("person")]
    await ledger.arm(started(runs), NOW)
    await ledger.disarm([gone("engine")], NOW + 1)
    await change(ledger, Cancel(), run("person"), reason="wrong")
    assert await ledger.untracked([*runs, run("new")]) == [run("engine"), run("new")]
