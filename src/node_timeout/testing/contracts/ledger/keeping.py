"""Upkeep and queries of the ledger: sweeps, retention, replays, pages, counts."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from node_timeout.domain.changes import Cancel
from node_timeout.domain.run import DueRun, RunState
from node_timeout.ports.directory import Names, RunFilter
from node_timeout.ports.ledger import Ledger, Retention
from node_timeout.testing.contracts.ledger.acts import (
    LEASE,
    NOW,
    change,
    purge,
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
    names_of,
    run,
    started,
)


async def test_the_history_goes_with_its_run(ledger: Ledger) -> None:
    await configure(ledger, config("a"), config("b"))
    await ledger.arm(started([run("a"), run("b")]), NOW)
    for name in "ab":
        await change(ledger, Cancel(), run(name))
    retention = Retention(handled_seconds=1, cancelled_seconds=1, dead_seconds=1)
    assert await ledger.purge([id_of("a")], NOW + 9, retention) == 1
    assert await ledger.history([id_of("a")]) == []
    assert len(await ledger.history([id_of("b")])) == 1


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


async def test_a_run_that_started_again_is_not_purged(ledger: Ledger) -> None:
    await configure(ledger, config("a"), config("b"))
    await ledger.arm(started([run("a"), run("b")], NOW), NOW)
    await ledger.disarm(left(["a", "b"]), NOW + 1)
    retention = Retention(handled_seconds=1, cancelled_seconds=1, dead_seconds=1e9)
    runs = await ledger.purgeable(NOW + 9, retention, 10)
    await ledger.arm(started([run("a")], NOW + 8), NOW + 9)
    assert await ledger.purge(runs, NOW + 9, retention) == 1
    assert await states(ledger, "a") == {"v1": RunState.ARMED}


async def test_runs_of_a_state_are_counted_and_found_by_their_end(ledger: Ledger) -> None:
    for name in ("a", "b", "c"):
        await configure(ledger, config(name, 2))
        await ledger.arm(started([run(name)]), NOW)
    for name in ("a", "b"):
        await record(ledger, await take(ledger, run(name)), RunState.DEAD)
    counted = await ledger.count([RunState.DEAD, RunState.ARMED, RunState.PAUSED])
    assert counted == {RunState.DEAD: 2, RunState.ARMED: 1, RunState.PAUSED: 0}
    dead = RunFilter(state=RunState.DEAD)
    for until, found in ((NOW + 10, 0), (NOW + 99, 2)):
        assert len((await ledger.find(replace(dead, finished_by=until), 9)).rows) == found


async def test_runs_are_found_page_by_page_oldest_first(ledger: Ledger) -> None:
    await configure(ledger, *(config(name, 10 + i) for i, name in enumerate("abcd")))
    await ledger.save_configs([config("a", 5, "page_operator", root="other")], [])
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


async def test_names_are_found_by_how_they_begin(ledger: Ledger) -> None:
    names = ["deploy", "deploy-2", "deploy_2", "Deploy", "depl\u00f6y", "deploy\U0001f680", "x"]
    runs = [run(name, version, root=f"of {name}") for name in names for version in ("v1", "v2")]
    await configure(ledger, *(config(name, root=f"of {name}") for name in names))
    await ledger.arm(started(runs), NOW)
    found = await ledger.names("deploy", 10)
    assert found.nodes == ("deploy", "deploy-2", "deploy_2", "deploy\U0001f680")
    assert found.root_pipelines == ()
    assert (await ledger.names("of d", 2)).root_pipelines == ("of deploy", "of deploy-2")
    assert (await ledger.names("depl", 9)).nodes[-1] == "depl\u00f6y"
    assert await ledger.names("z%_", 9) == Names(nodes=(), root_pipelines=())
