"""Canaries: runs of our own that show whether the way of a deadline is open."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

import pytest
from prometheus_client import REGISTRY

from node_timeout import NodeTimeout
from node_timeout.arming import canary as room
from node_timeout.arming.canary import MISSED_SECONDS, Canary
from node_timeout.arming.tracker import Tracker
from node_timeout.domain import canary
from node_timeout.domain.errors import InvalidTimeoutConfigError, LedgerUnavailableError
from node_timeout.domain.events import NodeLeft, NodeStarted
from node_timeout.domain.run import LedgerRow, Outcome, RunState
from node_timeout.operations.give_back import give_back
from node_timeout.ports.directory import RunFilter
from node_timeout.runtime.loop import Health
from node_timeout.settings import Settings
from node_timeout.stores.memory.ledger import MemoryLedger
from node_timeout.stores.memory.pool import MemoryPool
from node_timeout.stores.redis.pool import RedisPool
from tests.servers import RedisServer
from tests.support import config, configure, tree_of, wait_until

NOW = 1_000_000.0


def counted(name: str, shard: int = 0) -> float:
    return REGISTRY.get_sample_value(name, {"shard": str(shard)}) or 0.0


class House:
    """A ledger and a pool in memory, whose clock stands still, and canaries on them."""

    def __init__(self) -> None:
        self.now = NOW
        self.ledger = MemoryLedger()
        self.pool = MemoryPool(lambda: self.now)
        self.canary = self.another("one")

    def another(self, name: str, *, interval: float = 0.0) -> Canary:
        return Canary(
            ledger=self.ledger,
            pool=self.pool,
            tracker=Tracker(ledger=self.ledger, pool=self.pool),
            name=name,
            lease_seconds=15,
            interval=interval,
        )

    async def rows(self) -> list[LedgerRow]:
        """Those of all canaries."""
        page = await self.ledger.find(RunFilter(root_pipeline_id=canary.ROOT), 99)
        return list(page.rows)

    async def deal(self, state: RunState = RunState.HANDLED) -> None:
        """As a worker does, now."""
        due = await self.ledger.open_runs(None, 9)
        taking = await self.ledger.take(due, now=self.now, lease_seconds=9, max_attempts=5)
        outcomes = [Outcome(node=node, state=state, message="so") for node in taking.taken]
        await self.ledger.record(outcomes, owner=taking.owner, now=self.now)


@pytest.fixture
def house() -> House:
    return House()


async def test_a_canary_is_armed_measured_and_deleted(house: House) -> None:
    count = "node_timeout_canary_lateness_seconds_count"
    late = "node_timeout_canary_lateness_seconds_sum"
    before, sum_before = counted(count), counted(late)
    house.canary = house.another("one", interval=1000)
    assert (await house.canary.once()).armed == 1
    (due,) = await house.ledger.open_runs(None, 9)
    assert due.due_at == NOW + 1
    assert house.pool.scores == {due.run_id: NOW + 1}
    assert counted("node_timeout_canary_last_seconds") == NOW, "its silence counts from here"
    report = await house.canary.once()
    assert (report.armed, report.ended) == (0, 0), "it is not time for the next, nor has it ended"
    house.now = NOW + 1.25
    await house.deal()
    assert (await house.canary.once()).ended == 1
    assert counted(count) == before + 1
    assert counted(late) - sum_before == pytest.approx(0.25)
    assert counted("node_timeout_canary_last_seconds") == NOW + 1.25
    (row,) = await house.ledger.rows_of([due.run_id])
    assert row.state is RunState.HANDLED, "a message that comes twice finds it"
    assert (await house.canary.once()).ended == 0, "once"


async def test_the_same_run_is_sent_each_time(house: House) -> None:
    ids = set()
    for _ in range(3):
        assert (await house.canary.once()).armed == 1
        (due,) = await house.ledger.open_runs(None, 9)
        ids.add(due.run_id)
        assert house.pool.scores == {due.run_id: house.now + 1}
        house.now += 1.5
        await house.deal()
    assert len(ids) == 1
    assert len(await house.rows()) == 1
    assert await house.ledger.history([*ids]) == []


async def test_one_that_has_not_ended_is_not_sent_again(house: House) -> None:
    await house.canary.once()
    for _ in range(5):
        house.now += 600
        assert (await house.canary.once()).armed == 0
    assert len(await house.ledger.open_runs(None, 9)) == 1
    await house.deal()
    report = await house.canary.once()
    assert (report.ended, report.armed) == (1, 1)


async def test_one_that_never_ends_is_missed_once(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    before = counted("node_timeout_canary_missed_total")
    house.canary = house.another("one", interval=1000)
    await house.canary.once()
    house.now += 1 + MISSED_SECONDS
    assert (await house.canary.once()).missed == 0, "it has this long"
    house.now += 1
    with caplog.at_level(logging.WARNING):
        assert (await house.canary.once()).missed == 1
    assert (await house.canary.once()).missed == 0
    assert counted("node_timeout_canary_missed_total") == before + 1
    assert caplog.messages == ["the canary of shard 0 has not ended 60 s after its deadline"]
    assert counted("node_timeout_canary_last_seconds") == NOW, "the silence goes on"


async def test_one_that_ends_otherwise_is_missed_and_sent_again(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    await house.canary.once()
    house.now += 1
    await house.deal(RunState.DEAD)
    report = await house.canary.once()
    assert (report.ended, report.missed) == (0, 1)
    assert "the canary of shard 0 ended as dead: so" in caplog.messages
    (open_run,) = await house.ledger.open_runs(None, 9)
    rows = await house.ledger.rows_of([open_run.run_id])
    assert [row.state for row in rows] == [RunState.ARMED], "the next one alone is there"


async def test_only_the_leader_sends_and_the_next_one_takes_over(house: House) -> None:
    await house.canary.once()
    two = house.another("two")
    assert await two.once() == room.CanaryReport(leading=False)
    house.now += 16
    report = await two.once()
    assert (report.leading, report.armed) == (True, 0), "that of the first is under way"
    assert counted("node_timeout_canary_last_seconds") == NOW + 1, "the silence is not forgotten"
    assert not (await house.canary.once()).leading
    await house.deal()
    assert (await two.once()).ended == 1
    before = counted("node_timeout_canary_lateness_seconds_count")
    house.now += 16
    three = house.another("three", interval=1000)
    await house.deal()
    assert (await three.once()).ended == 0, "it is not known who has measured that one"
    assert counted("node_timeout_canary_lateness_seconds_count") == before
    assert counted("node_timeout_canary_last_seconds") == house.now, "but when it ended is"


async def test_a_short_lease_does_not_let_scanners_take_turns(house: House) -> None:
    short = Canary(
        ledger=house.ledger,
        pool=house.pool,
        tracker=Tracker(ledger=house.ledger, pool=house.pool),
        name="short",
        lease_seconds=1,
        interval=10,
    )
    assert (await short.once()).leading
    house.now += 2 * room.TICK_SECONDS
    assert not (await house.canary.once()).leading


async def test_an_outage_of_the_ledger_leaves_nothing_awaited(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def down(*_: object) -> None:
        raise LedgerUnavailableError("down")

    with monkeypatch.context() as patch:
        patch.setattr(house.ledger, "arm", down)
        with pytest.raises(LedgerUnavailableError):
            await house.canary.once()
    house.now += 1000
    report = await house.canary.once()
    assert (report.armed, report.missed) == (1, 0), "that one was never armed"


async def test_it_says_what_it_does_and_gives_the_lead_up(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "TICK_SECONDS", 0.01)
    stop, health = asyncio.Event(), Health(name="canary")
    task = asyncio.create_task(house.another("one", interval=1000).run(stop, health))
    try:
        await wait_until(lambda: health.doing() == "leading; no canary has ended yet")
        house.now += 1.5
        await house.deal()
        await wait_until(
            lambda: health.doing() == "leading; the last canaries were late by 0.500 s"
        )
        house.now += 20
        assert await house.pool.lead(room.ROLE, "two", 60)
        await wait_until(lambda: health.doing() == "another one leads")
        await house.pool.resign(room.ROLE, "two")
        await wait_until(lambda: "no canary" in health.doing())
    finally:
        stop.set()
        await task
    assert await house.pool.lead(room.ROLE, "three", 60), "the lead is free"


@pytest.mark.parametrize("shards", [1, 3])
async def test_each_shard_gets_one(shards: int, redis_server: RedisServer) -> None:
    ledger, pool = MemoryLedger(), RedisPool(redis_server.url, f"canaries-{shards}", shards)
    tracker = Tracker(ledger=ledger, pool=pool)
    sender = Canary(
        ledger=ledger, pool=pool, tracker=tracker, name="one", lease_seconds=15, interval=9
    )
    try:
        assert (await sender.once()).armed == shards
        claimed = [
            (await shard.claim(9, 15, ahead_seconds=5)).members
            for shard in pool.shards[: pool.homes]
        ]
        assert [len(members) for members in claimed] == [1] * shards
    finally:
        await sender.once()
        await pool.close()


@contextlib.asynccontextmanager
async def processes(settings: Settings, *, worker: bool) -> AsyncIterator[NodeTimeout]:
    """A scanner with its canaries, and a worker, in this process."""
    stop = asyncio.Event()
    async with NodeTimeout(settings) as app, asyncio.TaskGroup() as group:
        group.create_task(app.scan(stop))
        if worker:
            group.create_task(app.work(stop))
        try:
            yield app
        finally:
            stop.set()


async def test_the_whole_way_with_real_servers(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    ours = settings.model_copy(update={"canary_interval": 1.0, "handle_queue": "canary-handled"})
    count = "node_timeout_canary_lateness_seconds_count"
    before = counted(count)
    late_before = REGISTRY.get_sample_value("node_timeout_lateness_seconds_count") or 0.0
    async with processes(ours, worker=True) as app:
        await wait_until(lambda: counted(count) >= before + 2, time_limit=30)
        (process,) = [
            each
            for each in await app.processes()
            if any(service.name == "canary" for service in each.services)
        ]
        assert {service.role for service in process.services} >= {"scanner", "canary"}

        async def is_found() -> bool:
            """By whoever asks for it; it has no row for the moment in which it is sent again."""
            return len((await app.find(root_pipeline_id=canary.ROOT)).rows) == 1

        await wait_until(is_found)
        for state in RunState:
            assert (await app.find(state=state)).rows == ()
        assert (await app.status()).recent == ()
        everything = await app.cancel(everything=True, reason="all", dry_run=True)
        assert everything.runs == (), "an order for all does not mean it"
    late_after = REGISTRY.get_sample_value("node_timeout_lateness_seconds_count") or 0.0
    assert late_after == late_before, "they are no node's lateness"
    assert not [each for each in caplog.records if each.levelno > logging.INFO]


async def test_without_a_worker_the_silence_is_seen(settings: Settings) -> None:
    ours = settings.model_copy(update={"canary_interval": 1.0})
    count = "node_timeout_canary_lateness_seconds_count"
    async with processes(ours, worker=False) as app:
        began = await app.pool.now()
        await wait_until(lambda: counted("node_timeout_canary_last_seconds") >= began - 1)
        before, last = counted(count), counted("node_timeout_canary_last_seconds")
        await asyncio.sleep(3)
        assert (counted(count), counted("node_timeout_canary_last_seconds")) == (before, last)


async def test_no_config_may_name_its_action(settings: Settings) -> None:
    async with NodeTimeout(settings) as app:
        own = {"enable": True, "action": canary.ACTION, "seconds": 1}
        with pytest.raises(InvalidTimeoutConfigError, match="is unknown"):
            app.apply_node_timeout_configs(tree_of("a"), {"a": own})


async def test_a_users_node_is_never_ambiguous_for_a_canary(house: House) -> None:
    await configure(house.ledger, config("shard-0", 60))
    await house.canary.once()
    tracker = Tracker(ledger=house.ledger, pool=house.pool)
    assert await tracker.nodes_started([NodeStarted(node_id="shard-0", version="1")]) == 1
    assert await tracker.nodes_left([NodeLeft(node_id="shard-0", version="1")]) == 1
    assert [row.state for row in await house.rows()] == [RunState.ARMED]


async def test_none_is_given_to_bamboos_own_app(house: House) -> None:
    await house.canary.once()
    await house.pool.resign(room.ROLE, "one")
    report = await give_back(house.ledger, house.pool, 15)
    assert (report.given, report.refused) == (0, [])
    assert house.pool.scores == {}
