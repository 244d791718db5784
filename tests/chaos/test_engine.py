"""Fault 7: an engine that fails, hangs, succeeds late, has finished already, or moves on."""

import asyncio

import pytest
from nt_chaos import OVERLOADED

from node_timeout.domain.run import RunState, TimedOutNode
from node_timeout.handling.attempt import Limits
from node_timeout.handling.routes import Routes
from node_timeout.handling.worker import Worker
from node_timeout.runtime.loop import Backoff, Health
from node_timeout.stores.memory.exchange import MemoryExchange
from node_timeout.stores.redis.pool import RedisPool
from node_timeout.stores.sql.ledger import SqlLedger
from node_timeout.strategies.base import ForcedFailStrategy
from node_timeout.wire import dispatch
from tests.chaos.history import Event, Kind, check, summary
from tests.chaos.house import House, scaled
from tests.chaos.results import Row
from tests.support import FakeEngine, config, configure, due, run, started

OVERLOADED_SECONDS = 5.0
FAULTS = {
    "hangs": "the first two attempts of each node hang beyond their time limit",
    "hangs_after": "each call acts, and then hangs beyond its time limit",
}


@pytest.mark.parametrize("action", FAULTS)
async def test_the_engine_fails(house: House, action: str) -> None:
    await house.spawn("scan")
    await house.spawn("worker")
    count = scaled(50, 1000)
    house.row.of(fault=f"engine: {action}", tried=FAULTS[action], times=count)
    runs = await house.arm(count, lambda: 0.3 + house.random.random(), action=action)
    verdict = await house.verdict()
    assert verdict.effects == len(runs)


async def test_the_engine_is_overloaded(house: House) -> None:
    """It says later to everybody for a while, and then recovers."""
    times = scaled(1, 3)
    house.row.of(
        fault="engine: overloaded",
        tried=f"it says later for {OVERLOADED_SECONDS:g} s, under load",
        times=times,
    )
    await house.spawn("scan")
    await house.spawn("worker")
    async with house.steadily(per_second=100, action="overloaded"):
        for _ in range(times):
            with house.outage():
                await house.engine.set(OVERLOADED, "1")
                await asyncio.sleep(OVERLOADED_SECONDS)
                await house.engine.delete(OVERLOADED)
            await asyncio.sleep(scaled(1, 10))
    # The circuit stays open for longer and longer while the engine fails.
    await house.verdict(late_seconds=15)


async def test_the_engine_has_finished_already(house: House) -> None:
    """Nodes ended without a word: asked, the engine says so, and nothing is done."""
    await house.spawn("scan")
    await house.spawn("worker")
    count = scaled(200, 5000)
    house.row.of(
        fault="engine: finished already",
        tried="half of the nodes ended without a word",
        times=count // 2,
    )
    runs = await house.arm(count, 0.5)
    ended = house.random.sample(runs, count // 2)
    await house.history.record("disarming", ended)
    await house.engine.hdel("engine:running", *(each.node_id for each in ended))
    await house.verdict(late_seconds=5)
    states = {row.run: row.state for row in await house.rows()}
    done = {event.run for event in await house.events() if event.kind == "effect"}
    assert all(states[each] is RunState.STALE for each in set(ended) - done)
    assert done >= set(runs) - set(ended)


class MovingEngine(FakeEngine):
    """Moves every other node on to its next version between the check and the act."""

    async def is_running(self, node: TimedOutNode) -> bool:
        was_running = await super().is_running(node)
        if was_running and int(node.node_id[1:]) % 2:
            self.versions[node.run.node] = "v2"
        return was_running


async def test_the_version_moves_between_the_check_and_the_act(
    ledger: SqlLedger, pool: RedisPool, memory_exchange: MemoryExchange, row: Row
) -> None:
    rounds = scaled(1_000, 10_000)
    row.of(
        fault="engine: the version moves between check and act",
        tried="every other node is tried again at that very instant",
        times=rounds,
    )
    runs = [run(f"n{i}") for i in range(2 * rounds)]
    await configure(ledger, *(config(each.node_id, 0.001) for each in runs))
    await ledger.arm(started(runs), await pool.now() - 10)
    engine = MovingEngine(runs)
    history = [
        Event(kind=kind, at=0.0, process="test", run=each)
        for each in runs
        for kind in (Kind.ARMING, Kind.ARMED)
    ]
    engine.acted = lambda node: history.append(
        Event(kind=Kind.EFFECT, at=1.0, process="test", run=node.run)
    )
    worker = Worker(
        ledger=ledger,
        pool=pool,
        exchange=memory_exchange,
        engine=engine,
        strategies={"forced_fail": ForcedFailStrategy(engine)},
        routes=Routes(dispatch_queue="dispatch"),
        queues=["dispatch"],
        limits=Limits(
            concurrency=64,
            strategy_timeout=30,
            max_attempts=3,
            retry=Backoff(),
            shutdown_timeout=5,
        ),
    )
    stop = asyncio.Event()
    working = asyncio.create_task(worker.run(stop, Health(name="worker")))
    publishing = [
        memory_exchange.publish(
            "dispatch", dispatch.encode([due(each.node_id, 1.0) for each in some]), 60
        )
        for some in (runs[i : i + 100] for i in range(0, 2 * rounds, 100))
    ]
    await asyncio.gather(*publishing)
    stop.set()
    await working
    moved = [each for i, each in enumerate(runs) if i % 2]
    stayed = [each for i, each in enumerate(runs) if not i % 2]
    history += [Event(kind=Kind.DISARMING, at=0.5, process="test", run=each) for each in moved]
    found = [ledger_row for each in runs for ledger_row in await ledger.rows(each.node_id)]
    verdict = check(history, found, shared_clock=False)
    row.judged(verdict)
    assert not verdict.violations, summary(verdict.violations)
    assert sorted(engine.failed, key=str) == sorted(stayed, key=str)
    assert engine.versions == {each.node: "v2" for each in moved}
    for each, state in ((moved[0], RunState.STALE), (stayed[0], RunState.HANDLED)):
        assert [each.state for each in await ledger.rows(each.node_id)] == [state]
    counts = await ledger.counts(await pool.now())
    assert counts.last_hour == {RunState.STALE: len(moved), RunState.HANDLED: len(stayed)}
