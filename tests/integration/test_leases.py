"""Leases are renewed while a worker works, and what cannot be renewed in time is stopped."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from node_timeout.domain.errors import LedgerUnavailableError
from node_timeout.domain.history import HistoryKind
from node_timeout.domain.run import DueRun, NodeRun, RunState, TimedOutNode
from node_timeout.runtime.loop import Health
from node_timeout.stores.memory.exchange import MemoryExchange
from node_timeout.stores.redis.pool import RedisPool
from node_timeout.stores.sql.ledger import SqlLedger
from node_timeout.wire import dispatch
from tests.integration.test_worker import QUEUE, Bench
from tests.support import id_of, run, wait_until

LEASE = 1.2


class Hanging:
    """A strategy that ends when it is let."""

    def __init__(self) -> None:
        self.began: list[str] = []
        self.stopped: list[str] = []
        self.go_on = asyncio.Event()

    async def __call__(self, node: TimedOutNode) -> None:
        self.began.append(node.node_id)
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.stopped.append(node.node_id)
            raise


@pytest.fixture
def hanging() -> Hanging:
    return Hanging()


@pytest.fixture
async def bench(
    pool: RedisPool, any_ledger: SqlLedger, memory_exchange: MemoryExchange, hanging: Hanging
) -> AsyncIterator[Bench]:
    """A worker that runs, with one message of three nodes that hang."""
    bench = Bench(pool, any_ledger, memory_exchange)
    bench.strategy("hang", hanging)
    stop = asyncio.Event()
    worker = bench.worker(strategy_timeout=60, lease_seconds=LEASE, shutdown_timeout=1)
    running = asyncio.create_task(worker.run(stop, Health(name="worker")))
    due = await bench.armed("a", "b", "c", action="hang")
    publishing = asyncio.create_task(memory_exchange.publish(QUEUE, dispatch.encode(due), 60))
    await wait_until(lambda: len(hanging.began) == 3)
    yield bench
    hanging.go_on.set()
    stop.set()
    await asyncio.wait_for(running, 20)
    publishing.cancel()
    await asyncio.gather(publishing, return_exceptions=True)


async def lease_of(bench: Bench, node_id: str) -> float:
    (row,) = await bench.ledger.rows(node_id)
    return row.lease_until or 0.0


async def test_a_strategy_may_take_longer_than_its_lease(bench: Bench, hanging: Hanging) -> None:
    first = await lease_of(bench, "a")

    async def is_long_over() -> bool:
        return await bench.pool.now() > first + LEASE

    await wait_until(is_long_over)
    due = [DueRun(run_id=run(name).run_id, due_at=1.0) for name in "abc"]
    other = await bench.ledger.take(
        due, now=await bench.pool.now(), lease_seconds=5, max_attempts=9
    )
    assert other.taken == (), "nobody else gets it meanwhile"
    hanging.go_on.set()

    async def all_handled() -> bool:
        return [(await bench.state(name))[0] for name in "abc"] == [RunState.HANDLED] * 3

    await wait_until(all_handled)
    assert len(hanging.began) == 3
    assert hanging.stopped == []
    assert await bench.ledger.history([id_of("a")]) == []


async def test_what_cannot_be_renewed_is_stopped_before_its_lease_ends(
    bench: Bench, hanging: Hanging, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def gone(*_: Any, **__: Any) -> set[NodeRun]:
        raise LedgerUnavailableError("database: gone")

    with monkeypatch.context() as outage:
        outage.setattr(bench.ledger, "renew", gone)
        lease_ends = await lease_of(bench, "a")
        await wait_until(lambda: len(hanging.stopped) == 3)
        assert await bench.pool.now() < lease_ends + LEASE, "a renewal may have crossed"

    async def is_armed_again() -> bool:
        return [(await bench.state(name))[0] for name in "abc"] == [RunState.ARMED] * 3

    await wait_until(is_armed_again)
    (entry,) = await bench.ledger.history([id_of("a")])
    assert entry.kind is HistoryKind.FAILED
    assert entry.detail == "the lease of its worker was lost before the strategy ended"


async def test_an_attempt_whose_row_is_anothers_is_stopped(bench: Bench, hanging: Hanging) -> None:
    """As after a freeze of this worker, or a step of Redis's clock."""
    due = [DueRun(run_id=run("a").run_id, due_at=1.0)]
    over = await lease_of(bench, "a") + 1000
    taking = await bench.ledger.take(due, now=over, lease_seconds=500, max_attempts=9)
    assert [node.node_id for node in taking.taken] == ["a"]
    await wait_until(lambda: hanging.stopped)
    assert hanging.stopped == ["a"], "its neighbours go on"

    async def is_noted() -> bool:
        kinds = [entry.kind for entry in await bench.ledger.history([id_of("a")])]
        return kinds == [HistoryKind.TAKEN_OVER, HistoryKind.LATE_RESULT]

    hanging.go_on.set()
    await wait_until(is_noted)
    assert (await bench.state("a"))[0] is RunState.EXECUTING
