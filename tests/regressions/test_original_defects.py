"""What goes wrong in the original, `pipeline.contrib.node_timeout`: a test a line."""

import asyncio
import copy
import os
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from node_timeout.app import NodeTimeout
from node_timeout.arming.tracker import Tracker
from node_timeout.dispatch.reconciler import Reconciler
from node_timeout.dispatch.scanner import Scanner
from node_timeout.domain.config_check import ConfigRules
from node_timeout.domain.errors import ExchangeUnavailableError, PoolUnavailableError
from node_timeout.domain.run import DueRun, ForeignRun, RunState
from node_timeout.domain.timeout_config import apply_configs, read_configs
from node_timeout.handling.attempt import Limits
from node_timeout.handling.routes import Routes
from node_timeout.handling.worker import Worker
from node_timeout.ports.ledger import Retention
from node_timeout.runtime.loop import Backoff
from node_timeout.settings import Settings
from node_timeout.stores.memory.exchange import MemoryExchange
from node_timeout.stores.redis.pool import RedisPool
from node_timeout.stores.sql.ledger import SqlLedger
from node_timeout.strategies.base import ForcedFailAndSkipStrategy, ForcedFailStrategy
from node_timeout.wire import dispatch
from tests.support import (
    ROOT,
    FakeEngine,
    absent,
    config,
    configure,
    due,
    foreign,
    left,
    run,
    started,
    tree_of,
    wait_until,
)

RULES = ConfigRules(actions=("forced_fail", "forced_fail_and_skip"), max_seconds=1e6)
GOOD = {"enable": True, "action": "forced_fail", "seconds": 10}
QUEUE = "dispatch"


class House:
    """Every room on real stores, with an engine that notes what is done to it."""

    def __init__(self, ledger: SqlLedger, pool: RedisPool, exchange: MemoryExchange) -> None:
        self.ledger, self.pool, self.exchange = ledger, pool, exchange
        self.engine = FakeEngine()
        self.tracker = Tracker(ledger=ledger, pool=pool)

    def scanner(self) -> Scanner:
        return Scanner(
            shard=self.pool.shards[0],
            exchange=self.exchange,
            queue=QUEUE,
            batch_size=100,
            lease_seconds=5,
            scan_interval=1,
            shutdown_timeout=1,
        )

    def worker(self) -> Worker:
        return Worker(
            ledger=self.ledger,
            pool=self.pool,
            exchange=self.exchange,
            engine=self.engine,
            strategies={
                "forced_fail": ForcedFailStrategy(self.engine),
                "forced_fail_and_skip": ForcedFailAndSkipStrategy(self.engine),
            },
            routes=Routes(dispatch_queue=QUEUE),
            queues=[QUEUE],
            limits=Limits(
                concurrency=50,
                strategy_timeout=5,
                max_attempts=3,
                retry=Backoff(first=0.001, longest=0.001),
                shutdown_timeout=5,
            ),
        )

    async def overdue(self, *node_ids: str, action: str = "forced_fail") -> None:
        """Nodes that run in the engine, their deadlines a second ago."""
        await configure(self.ledger, *(config(node_id, 1, action) for node_id in node_ids))
        self.engine.start(*map(run, node_ids))
        runs = [run(node_id) for node_id in node_ids]
        await self.pool.arm(await self.ledger.arm(started(runs), await self.pool.now() - 2))

    async def work_off(self) -> None:
        """Scan and handle until nothing is due."""
        worker, scanner = self.worker(), self.scanner()
        async with self.exchange.consume({QUEUE: 100}) as consumer:
            while (await self.pool.counts()).overdue:
                scanning = asyncio.create_task(scanner.once())
                while not scanning.done():
                    working = asyncio.create_task(worker.once(consumer))
                    await asyncio.wait({scanning, working}, return_when=asyncio.FIRST_COMPLETED)
                    # Idle, it is cut off; a call that is cut off would leave its connection open.
                    await wait_until(lambda: working.done() or not worker._in_hand)  # noqa: B023
                    working.cancel()
                    await asyncio.gather(working, return_exceptions=True)
                await scanning

    async def states(self, *node_ids: str) -> list[RunState]:
        return [row.state for node_id in node_ids for row in await self.ledger.rows(node_id)]


@pytest.fixture
async def house(
    ledger: SqlLedger, pool: RedisPool, memory_exchange: MemoryExchange
) -> AsyncIterator[House]:
    house = House(ledger, pool, memory_exchange)
    yield house
    await house.tracker.close()


def test_02_applying_returns_the_changed_copy_and_leaves_its_input_alone() -> None:
    tree = {"activities": {"a": {"type": "ServiceActivity"}}}
    before = copy.deepcopy(tree)
    applied = apply_configs(tree, {"a": GOOD}, RULES)
    assert (len(read_configs("r", applied, RULES).enabled), tree) == (1, before)


async def test_03_forced_fail_and_skip_skips(house: House) -> None:
    await house.overdue("a", action="forced_fail_and_skip")
    await house.work_off()
    assert house.engine.skipped == [run("a")]


def test_04_seconds_as_text_are_not_dropped() -> None:
    assert len(read_configs("r", tree_of("a", seconds="10"), RULES).enabled) == 1


@pytest.mark.parametrize("seconds", [-5, True])
def test_05_negative_and_boolean_seconds_are_refused(seconds: Any) -> None:
    with pytest.raises(ValueError, match="not a number above 0"):
        read_configs("r", tree_of("a", seconds=seconds), RULES)


def test_06_an_unknown_action_is_refused_when_it_is_configured() -> None:
    with pytest.raises(ValueError, match="action 'forced_fial' is unknown, did you mean"):
        read_configs("r", tree_of("a", action="forced_fial"), RULES)


async def test_07_creating_configs_again_updates_them(ledger: SqlLedger) -> None:
    await configure(ledger, config("a", 1))
    await configure(ledger, config("a", 2))
    assert (await ledger.configs([(ROOT, "a")]))[ROOT, "a"].timeout == 2


async def test_08_an_underscore_in_a_node_id_harms_nobody(house: House) -> None:
    await house.overdue("plain", "with_an_underscore", "_", "third")
    await house.work_off()
    assert len(house.engine.failed) == 4


async def test_09_two_scanners_dispatch_each_node_once(house: House) -> None:
    names = [f"n{i}" for i in range(500)]
    await house.overdue(*names)
    claims = await asyncio.gather(*(house.pool.shards[0].claim(100, 5) for _ in range(10)))
    claimed = [each.member for claim in claims for each in claim.members]
    assert sorted(claimed) == sorted(run(name).run_id for name in names)


async def test_10_what_a_killed_worker_was_running_comes_again(house: House) -> None:
    await house.overdue("a")
    now = await house.pool.now()
    claim = await house.pool.shards[0].claim(1, 5)
    await house.pool.shards[0].finish([each.member for each in claim.members], claim.lease)
    await house.ledger.take([due("a", now)], now=now, lease_seconds=-30, max_attempts=3)
    assert await house.states("a") == [RunState.EXECUTING], "its worker is gone"
    await _reconcile(house)
    await house.work_off()
    assert house.engine.failed == [run("a")]


async def test_11_a_message_that_comes_again_repeats_no_strategy(house: House) -> None:
    await house.overdue("a", "b")
    body = dispatch.encode([due(name, 1.0) for name in ("a", "b")])
    async with house.exchange.consume({QUEUE: 10}) as consumer:
        for _ in range(2):
            publishing = asyncio.create_task(house.exchange.publish(QUEUE, body, 10))
            await asyncio.sleep(0)
            await house.worker().once(consumer)
            await publishing
            house.engine.versions = {(ROOT, "a"): "v1", (ROOT, "b"): "v1"}
    assert len(house.engine.failed) == 2


@pytest.mark.parametrize("is_foreign", [False, True])
async def test_12_a_burst_is_cut_into_messages_of_bounded_size(
    house: House, *, is_foreign: bool
) -> None:
    """Also one that an engine has put into the pool itself."""
    now = await house.pool.now()
    long = [f"{'n' * 120}{i}" for i in range(2000)]
    if is_foreign:
        await house.pool.give_back({foreign(name).member: now for name in long})
    else:
        await house.pool.arm([due(name, now) for name in long])
    claim = await house.pool.shards[0].claim(100, 5)
    claimed = [
        ForeignRun.parse(each.member, now) if is_foreign else DueRun(run_id=each.member, due_at=now)
        for each in claim.members
    ]
    assert len(claimed) == 100
    assert len(dispatch.encode(claimed)) < 64 * 1024


async def test_13_while_the_broker_is_down_nothing_piles_up(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def down() -> None:
        raise ExchangeUnavailableError("RabbitMQ: down")

    await house.overdue("a")
    monkeypatch.setattr(house.exchange, "ensure", down)
    for _ in range(20):
        with pytest.raises(ExchangeUnavailableError):
            await house.scanner().once()
    assert len(await house.ledger.rows("a")) == 1
    assert await house.exchange.depths() == {}


async def test_14_records_are_deleted_after_their_retention(house: House) -> None:
    await house.overdue("a")
    await house.work_off()
    retention = Retention(handled_seconds=10, cancelled_seconds=10, dead_seconds=1e9)
    now = await house.pool.now() + 60
    runs = await house.ledger.purgeable(now, retention, 10)
    assert await house.ledger.purge(runs, now, retention) == 1


async def test_15_a_deadline_does_not_know_of_local_time(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    await configure(house.ledger, config("before", 7200), config("after", 7200))
    await house.tracker.nodes_started(started([run("before")]))
    monkeypatch.setenv("TZ", "Asia/Shanghai" if os.environ.get("TZ") != "Asia/Shanghai" else "UTC")
    time.tzset()
    await house.tracker.nodes_started(started([run("after")]))
    monkeypatch.undo()
    time.tzset()
    first, second = [(await house.ledger.rows(name))[0] for name in ("before", "after")]
    assert second.deadline == pytest.approx(first.deadline, abs=5)


async def test_16_a_node_that_is_no_longer_running_is_left_alone(house: House) -> None:
    await house.overdue("a")
    del house.engine.versions[ROOT, "a"]
    await house.work_off()
    assert (house.engine.failed, await house.states("a")) == ([], [RunState.STALE])


async def test_17_a_strategy_that_raises_is_tried_again(house: House) -> None:
    await house.overdue("a")
    house.engine.errors = [RuntimeError("once"), RuntimeError("twice")]
    while await house.states("a") != [RunState.HANDLED]:
        await house.work_off()
    assert house.engine.failed == [run("a")]


async def test_18_a_node_that_starts_while_redis_is_down_is_armed_later(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def down(*_: Any) -> int:
        raise PoolUnavailableError("Redis: down")

    await configure(house.ledger, config("a", 100))
    with monkeypatch.context() as patch:
        patch.setattr(house.pool, "arm", down)
        await house.tracker.nodes_started(started([run("a")]))
    await _reconcile(house)
    assert await absent(house.pool, [run("a").run_id]) == []


async def test_19_a_node_failed_by_hand_leaves_nothing_behind(house: House) -> None:
    """The engine had refreshed the version before it told."""
    await configure(house.ledger, config("a", 100))
    await house.tracker.nodes_started(started([run("a", "v1")]))
    await house.tracker.nodes_left(left(["a"], "v2"))
    assert (await house.pool.counts()).armed == 0


async def test_21_suspend_and_resume_does_not_give_the_full_time_again(house: House) -> None:
    await configure(house.ledger, config("a", 100))
    await house.ledger.arm(started([run("a")]), 1000.0)
    await house.ledger.disarm(left(["a"]), 1002.0)
    resumed = await house.ledger.arm(started([run("a")]), 1002.0)
    assert resumed == [due("a", 1100.0)]


async def test_22_a_node_retried_between_check_and_act_is_not_failed(house: House) -> None:
    await house.overdue("a")
    asked = house.engine.is_running

    async def retried_meanwhile(node: Any) -> bool:
        answer = await asked(node)
        house.engine.versions[ROOT, "a"] = "v2"
        return answer

    house.engine.is_running = retried_meanwhile  # type: ignore[method-assign]
    await house.work_off()
    assert (house.engine.failed, house.engine.versions) == ([], {(ROOT, "a"): "v2"})


async def test_23_the_documented_commands_and_settings_work() -> None:
    """A worker without options consumes every queue it should; the documents name real settings."""
    settings = Settings(
        engine="dry_run",
        dispatch_queue="due",
        handle_queue="handle",
        events_queue="events",
        amqp_url="amqp://127.0.0.1:1/",
    )
    async with NodeTimeout(settings) as app:
        assert list(app.wiring.worker()._prefetches()) == ["due", "handle"]
        assert set(app.wiring.worker_services(())) == {"worker", "listener"}
        assert set(app.wiring.worker_services(["events"])) == {"listener"}
    documents = Path(__file__).parents[2] / "docs" / "reference" / "settings.md"
    documented = set(re.findall(r"`NODE_TIMEOUT_([A-Z_]+)` \|", documents.read_text("utf-8")))
    assert documented == {name.upper() for name in Settings.model_fields}


async def _reconcile(house: House) -> None:
    reconciler = Reconciler(
        exchange=MemoryExchange(),
        queues=[],
        ledger=house.ledger,
        pool=house.pool,
        name="test",
        lease_seconds=5,
        redispatch_after=60,
        sweep_pause=0,
        retention=Retention(handled_seconds=1000, cancelled_seconds=1000, dead_seconds=1e9),
    )
    while not (await reconciler.once()).swept:
        pass
