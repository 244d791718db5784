"""Nodes that came ahead of their deadline: held until then, and looked at once more."""

import asyncio

import pytest

from node_timeout.domain.errors import LedgerUnavailableError
from node_timeout.domain.run import DueRun, LedgerRow, NodeRun, RunState
from node_timeout.handling.recorder import WorkReport
from tests.integration.test_worker import Bench, bench
from tests.support import left, run, wait_until

__all__ = ["bench"]  # a fixture

AHEAD = 0.4


async def taken(bench: Bench, *node_ids: str) -> bool:
    rows = [row for node_id in node_ids for row in await bench.ledger.rows(node_id)]
    return all(row.state is RunState.EXECUTING for row in rows)


async def row_of(bench: Bench, node_id: str) -> LedgerRow:
    (row,) = await bench.ledger.rows(node_id)
    return row


def handling(bench: Bench, due: list[DueRun]) -> "asyncio.Task[object]":
    return asyncio.create_task(bench.handle(due, dispatch_ahead=AHEAD))


async def test_a_node_is_held_until_its_deadline_and_struck_then(bench: Bench) -> None:
    called_at: list[float] = []

    async def deal(_: object) -> None:
        called_at.append(await bench.pool.now())

    bench.strategy("forced_fail", deal)
    due = await bench.armed("a", "b", seconds=AHEAD / 2)
    work = handling(bench, due)
    await wait_until(lambda: taken(bench, "a", "b"))
    assert called_at == [], "taken, not struck"
    await work
    assert len(called_at) == 2
    assert all(0 <= each - due[0].due_at < 0.2 for each in called_at)


async def test_a_disarming_in_between_wins(bench: Bench) -> None:
    due = await bench.armed("a", "b", seconds=AHEAD / 2)
    work = handling(bench, due)
    await wait_until(lambda: taken(bench, "a", "b"))
    disarming = await bench.ledger.disarm(left(["a"]), await bench.pool.now())
    assert disarming.cancelled == (run("a"),)
    await work
    assert bench.engine.failed == [run("b")], "the engine says that a runs: the ledger knows better"
    assert [(await row_of(bench, name)).state for name in "ab"] == [
        RunState.CANCELLED,
        RunState.HANDLED,
    ]


async def test_without_the_ledgers_word_nothing_is_struck(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def owners(runs: list[NodeRun]) -> dict[NodeRun, str]:
        raise LedgerUnavailableError("database: gone")

    due = await bench.armed("a", seconds=AHEAD / 2)
    monkeypatch.setattr(bench.ledger, "owners", owners)
    await bench.handle(due, dispatch_ahead=AHEAD)
    row = await row_of(bench, "a")
    assert (row.state, row.attempts, row.message) == (RunState.ARMED, 0, "database: gone")
    assert row.next_at is not None
    assert row.next_at >= due[0].due_at
    assert bench.engine.failed == []


async def test_a_worker_that_must_end_puts_back_what_it_holds_for_its_deadline(
    bench: Bench,
) -> None:
    (due,) = await bench.armed("a", seconds=AHEAD)
    handler = bench.worker(dispatch_ahead=AHEAD)._handler
    taken = await handler._begin(*await handler._take([due], "me", WorkReport()), {})
    attempts = taken.attempts.values()
    await asyncio.sleep(0)  # they have begun
    for attempt in attempts:
        attempt.cancel()
    (outcome,) = [await attempt for attempt in attempts]
    assert outcome is not None
    assert (outcome.state, outcome.due_at, outcome.called) == (RunState.ARMED, due.due_at, False)


async def test_without_redis_clock_all_is_held_for_as_long_as_it_may_have_come_ahead(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unknown() -> None:
        return None

    due = await bench.armed("a")
    monkeypatch.setattr(bench.pool, "passed", unknown)
    began = asyncio.get_running_loop().time()
    await bench.handle(due, dispatch_ahead=AHEAD)
    assert bench.engine.failed == [run("a")]
    assert asyncio.get_running_loop().time() - began >= AHEAD
