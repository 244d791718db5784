"""The whole way of a deadline with no server at all: what `node_timeout.testing` is for."""

import asyncio

from node_timeout import NodeStarted, RunState
from node_timeout.arming.tracker import Tracker
from node_timeout.dispatch.reconciler import Reconciler
from node_timeout.dispatch.scanner import Scanner
from node_timeout.domain.events import NodeLeft
from node_timeout.handling.attempt import Limits
from node_timeout.handling.routes import Routes
from node_timeout.handling.worker import Worker
from node_timeout.ports.ledger import Retention
from node_timeout.runtime.loop import Backoff
from node_timeout.settings import Settings
from node_timeout.strategies.base import load_strategies
from node_timeout.testing import FakeClock, FakeEngine, MemoryExchange, MemoryLedger, MemoryPool
from node_timeout.testing.words import config, configure, run

HOUR = 3600.0
QUEUE = "dispatch"


class House:
    """Scanner, reconciler and worker over stores in memory, and a clock that stands still."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.ledger, self.exchange = MemoryLedger(), MemoryExchange()
        self.pool = MemoryPool(self.clock)
        self.engine = FakeEngine()
        self.tracker = Tracker(ledger=self.ledger, pool=self.pool)
        self.scanner = Scanner(
            shard=self.pool.shards[0],
            exchange=self.exchange,
            queue=QUEUE,
            batch_size=10,
            lease_seconds=15,
            scan_interval=1,
            shutdown_timeout=1,
        )
        self.reconciler = Reconciler(
            ledger=self.ledger,
            pool=self.pool,
            exchange=self.exchange,
            queues=[QUEUE],
            name="one",
            lease_seconds=15,
            redispatch_after=150,
            sweep_pause=0,
            retention=Retention(handled_seconds=60, cancelled_seconds=60, dead_seconds=60),
        )
        self.worker = Worker(
            ledger=self.ledger,
            pool=self.pool,
            exchange=self.exchange,
            engine=self.engine,
            strategies=load_strategies({}, self.engine, Settings()),
            routes=Routes(dispatch_queue=QUEUE),
            queues=[QUEUE],
            limits=Limits(
                concurrency=4,
                strategy_timeout=5,
                max_attempts=3,
                retry=Backoff(first=10, longest=10, random=lambda: 1.0),
                shutdown_timeout=5,
                lease_seconds=30,
                retention=60,
            ),
        )

    async def start(self, *node_ids: str) -> int:
        runs = [run(node_id) for node_id in node_ids]
        self.engine.start(*runs)
        return await self.tracker.nodes_started([NodeStarted.of(each) for each in runs])

    async def turn(self) -> int:
        """What is due is dispatched and dealt with; return how many were published."""
        async with self.exchange.consume({QUEUE: 1}) as consumer:
            working = asyncio.create_task(self.worker.once(consumer))
            report = await self.scanner.once()
            if not report.claimed:
                working.cancel()
            await asyncio.wait({working})
        return report.published

    async def state(self, node_id: str) -> RunState:
        (row,) = await self.ledger.rows(node_id)
        return row.state


async def test_a_deadline_of_an_hour_takes_no_time() -> None:
    house = House()
    await configure(house.ledger, config("hangs", HOUR), config("leaves", HOUR))
    assert await house.start("hangs", "leaves", "unwatched") == 2
    house.clock.advance(HOUR - 1)
    assert await house.turn() == 0
    left = NodeLeft(node_id="leaves", root_pipeline_id="root")
    assert await house.tracker.nodes_left([left]) == 1
    house.clock.advance(1)
    assert await house.turn() == 1
    assert house.engine.failed == [run("hangs")]
    assert await house.state("hangs") is RunState.HANDLED
    assert await house.state("leaves") is RunState.CANCELLED
    assert house.pool.scores == {}


async def test_a_loss_of_the_pool_is_made_up_for_and_rows_have_an_end() -> None:
    house = House()
    await configure(house.ledger, config("a", HOUR))
    await house.start("a")
    await house.reconciler.once()
    house.pool.lose_data()
    house.clock.advance(HOUR)
    assert await house.turn() == 0, "nobody knows of it"
    report = await house.reconciler.once()
    assert (report.data_lost, report.rearmed) == (True, 1)
    assert await house.turn() == 1
    house.clock.advance(HOUR)
    assert (await house.reconciler.once()).purged == 1


async def test_a_pool_that_has_lost_its_data_is_told_its_ledger_again() -> None:
    pool = MemoryPool()
    await pool.mark_ledger("x")
    pool.lose_data()
    assert await pool.ledger_id() is None
    await pool.mark_reconciled()
    assert await pool.ledger_id() == "x"


async def test_a_failed_attempt_is_made_again() -> None:
    house = House()
    await configure(house.ledger, config("a", HOUR))
    await house.start("a")
    house.engine.errors = [ConnectionError("the engine is down")]
    house.clock.advance(HOUR)
    assert await house.turn() == 1
    assert await house.state("a") is RunState.ARMED
    assert await house.turn() == 0, "its next try is ten seconds away"
    house.clock.advance(10)
    assert await house.turn() == 1
    assert house.engine.failed == [run("a")]
