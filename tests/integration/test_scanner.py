"""The scanner on a real pool, with an exchange in memory."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from node_timeout.dispatch.queue_room import MESSAGES_AHEAD
from node_timeout.dispatch.scanner import (
    BATCHES_IN_FLIGHT,
    MAX_DEAD_MEMBER_BYTES,
    Scanner,
)
from node_timeout.domain.errors import (
    ExchangeUnavailableError,
    NotConfirmedError,
    PoolUnavailableError,
)
from node_timeout.domain.run import DueRun, ForeignRun
from node_timeout.ports.pool import Claim
from node_timeout.runtime.loop import Health
from node_timeout.stores.memory.exchange import (
    MemoryConsumer,
    MemoryDelivery,
    MemoryExchange,
)
from node_timeout.stores.redis.pool import RedisPool
from node_timeout.wire import dispatch
from tests.support import id_of, wait_until

QUEUE = "dispatch"
KNOWN: dict[str, str] = {}
"""The nodes that `arm` has armed, by the ids of their runs."""


def scanner(
    pool: RedisPool,
    exchange: MemoryExchange,
    *,
    batch_size: int = 10,
    lease_seconds: float = 10,
    scan_interval: float = 5,
    dispatch_ahead: float = 0.0,
) -> Scanner:
    return Scanner(
        shard=pool.shards[0],
        exchange=exchange,
        queue=QUEUE,
        batch_size=batch_size,
        lease_seconds=lease_seconds,
        scan_interval=scan_interval,
        shutdown_timeout=2,
        dispatch_ahead=dispatch_ahead,
    )


class Collector:
    """Consumes and acknowledges; keeps what came."""

    def __init__(self, consumer: MemoryConsumer) -> None:
        self._consumer = consumer
        self.came: list[DueRun | ForeignRun] = []
        self.messages = 0

    async def run(self) -> None:
        while True:
            for delivery in await self._consumer.get(100):
                due, _ = dispatch.decode(delivery.body)
                self.came += due
                self.messages += 1
                await delivery.ack()

    def node_ids(self) -> list[str]:
        """Of those that are not foreign as the tests have named them."""
        return [
            each.node_id if isinstance(each, ForeignRun) else KNOWN[each.run_id]
            for each in self.came
        ]


@pytest.fixture
async def collector(memory_exchange: MemoryExchange) -> AsyncIterator[Collector]:
    async with memory_exchange.consume({QUEUE: 100}) as consumer:
        collector = Collector(consumer)
        task = asyncio.create_task(collector.run())
        yield collector
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def arm(pool: RedisPool, seconds: float, *node_ids: str) -> float:
    due_at = await pool.now() + seconds
    KNOWN.update((id_of(node_id), node_id) for node_id in node_ids)
    await pool.arm([DueRun(run_id=id_of(node_id), due_at=due_at) for node_id in node_ids])
    return due_at


async def test_due_nodes_are_published_and_leave_the_pool(
    pool: RedisPool, memory_exchange: MemoryExchange, collector: Collector
) -> None:
    due_at = await arm(pool, -1, "a", "node_with_underscores")
    await arm(pool, 100, "later")
    report = await scanner(pool, memory_exchange).once()
    assert (report.claimed, report.published, report.finished) == (2, 2, 2)
    assert sorted(collector.node_ids()) == ["a", "node_with_underscores"]
    assert [each.due_at for each in collector.came] == [pytest.approx(due_at)] * 2
    assert report.seconds_to_next == pytest.approx(10, abs=1), "the lease is still there"
    assert (await pool.counts()).armed == 1


async def test_a_pass_is_bounded_and_says_when_more_is_due(
    pool: RedisPool, memory_exchange: MemoryExchange, collector: Collector
) -> None:
    await arm(pool, -1, *(f"n{i}" for i in range(BATCHES_IN_FLIGHT + 3)))
    one_by_one = scanner(pool, memory_exchange, batch_size=1)
    report = await one_by_one.once()
    assert (report.published, report.more) == (BATCHES_IN_FLIGHT, True)
    report = await one_by_one.once()
    assert (report.published, report.more) == (3, False)
    assert collector.messages == BATCHES_IN_FLIGHT + 3


async def test_two_scanners_publish_each_node_once(
    pool: RedisPool, memory_exchange: MemoryExchange, collector: Collector
) -> None:
    names = [f"n{i}" for i in range(1000)]
    await arm(pool, -1, *names)
    both = [scanner(pool, memory_exchange), scanner(pool, memory_exchange)]
    while (await pool.counts()).armed:
        await asyncio.gather(*(each.once() for each in both))
    assert sorted(collector.node_ids()) == sorted(names)


async def test_what_could_not_be_sent_is_due_again_at_once(
    pool: RedisPool, memory_exchange: MemoryExchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refused(queue: str, body: bytes, time_limit: float) -> None:
        raise ExchangeUnavailableError("RabbitMQ: NO_ROUTE")

    monkeypatch.setattr(memory_exchange, "publish", refused)
    await arm(pool, -1, "a")
    report = await scanner(pool, memory_exchange, lease_seconds=60).once()
    assert (report.unconfirmed, report.published) == (1, 0)
    assert isinstance(report.error, ExchangeUnavailableError)
    assert (await pool.counts()).overdue == 1


async def test_what_is_not_confirmed_in_time_may_arrive_and_keeps_its_lease(
    pool: RedisPool, memory_exchange: MemoryExchange
) -> None:
    await arm(pool, -1, "a")
    report = await scanner(pool, memory_exchange, lease_seconds=0.3).once()
    assert isinstance(report.error, NotConfirmedError)
    assert (await pool.counts()).overdue == 0
    await wait_until(lambda: _overdue(pool))


async def test_after_a_failure_one_batch_goes_ahead(
    pool: RedisPool, memory_exchange: MemoryExchange, collector: Collector
) -> None:
    await arm(pool, -1, *(f"n{i}" for i in range(10)))
    careful = scanner(pool, memory_exchange, batch_size=1)
    careful._failure = ExchangeUnavailableError("RabbitMQ: gone")
    assert (await careful.once()).published == 1
    assert (await careful.once()).published == 9


async def test_a_bug_costs_only_its_own_batch_and_is_seen(
    pool: RedisPool,
    memory_exchange: MemoryExchange,
    collector: Collector,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real, first = memory_exchange.publish, [True]

    async def buggy(queue: str, body: bytes, time_limit: float) -> None:
        if first:
            first.clear()
            raise ZeroDivisionError
        await real(queue, body, time_limit)

    monkeypatch.setattr(memory_exchange, "publish", buggy)
    await arm(pool, -1, "a", "b", "c")
    await scanner(pool, memory_exchange, batch_size=1).once()
    assert len(collector.came) == 2


async def test_a_stopping_scanner_waits_for_its_publishes_but_not_for_ever(
    pool: RedisPool, memory_exchange: MemoryExchange
) -> None:
    await arm(pool, -1, "a")
    stop = asyncio.Event()
    one = scanner(pool, memory_exchange, lease_seconds=600)
    one._shutdown_timeout = 0.1
    running = asyncio.create_task(one.run(stop, Health(name="scanner")))
    await wait_until(lambda: one._publishing)
    stop.set()
    await asyncio.wait_for(running, 5)


async def test_without_a_broker_nothing_is_claimed(
    pool: RedisPool, memory_exchange: MemoryExchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def down() -> None:
        raise ExchangeUnavailableError("RabbitMQ: down")

    monkeypatch.setattr(memory_exchange, "ensure", down)
    await arm(pool, -1, "a")
    with pytest.raises(ExchangeUnavailableError):
        await scanner(pool, memory_exchange).once()
    assert (await pool.counts()).overdue == 1


async def test_a_bad_member_is_dead_lettered_and_its_batch_goes_on(
    pool: RedisPool, redis: Redis, memory_exchange: MemoryExchange, collector: Collector
) -> None:
    await redis.zadd("test_pool", {b"no-underscore": 1, b"\xff_v": 2, b"trailing_": 3})
    await arm(pool, -1, "good")
    report = await scanner(pool, memory_exchange).once()
    assert (report.unreadable, report.published, report.finished) == (3, 1, 4)
    assert collector.node_ids() == ["good"]
    assert {body for body, _ in memory_exchange.dead} == {b"no-underscore", b"\xff_v", b"trailing_"}
    assert (await pool.counts()).armed == 0


async def test_a_member_longer_than_any_message_holds_nothing_up(
    pool: RedisPool, redis: Redis, memory_exchange: MemoryExchange, collector: Collector
) -> None:
    await redis.zadd("test_pool", {b"x" * 20_000_000: 1})
    await arm(pool, -1, "good")
    report = await scanner(pool, memory_exchange).once()
    assert (report.unreadable, report.published, report.finished) == (1, 1, 2)
    assert collector.node_ids() == ["good"]
    assert [len(body) for body, _ in memory_exchange.dead] == [MAX_DEAD_MEMBER_BYTES]


async def test_a_deadline_is_served_when_it_comes_not_at_the_next_interval(
    pool: RedisPool, memory_exchange: MemoryExchange, collector: Collector
) -> None:
    stop = asyncio.Event()
    running = asyncio.create_task(
        scanner(pool, memory_exchange, scan_interval=30).run(stop, Health(name="scanner"))
    )
    await wait_until(lambda: pool._wakeups._listener is not None)
    await arm(pool, 0.3, "soon")
    await wait_until(lambda: collector.came, 5)
    assert await pool.now() >= collector.came[0].due_at, "never early"
    stop.set()
    await asyncio.wait_for(running, 5)


async def test_a_scanner_goes_on_through_outages_of_both_stores(
    pool: RedisPool,
    memory_exchange: MemoryExchange,
    collector: Collector,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    claim, publish = pool.shards[0].claim, memory_exchange.publish
    faults = [3, 3]

    async def failing_claim(limit: int, lease_seconds: float, ahead_seconds: float) -> Claim:
        if faults[0]:
            faults[0] -= 1
            raise PoolUnavailableError("Redis: gone")
        return await claim(limit, lease_seconds, ahead_seconds)

    async def failing_publish(queue: str, body: bytes, time_limit: float) -> None:
        if faults[1]:
            faults[1] -= 1
            raise ExchangeUnavailableError("RabbitMQ: gone")
        await publish(queue, body, time_limit)

    monkeypatch.setattr(pool.shards[0], "claim", failing_claim)
    monkeypatch.setattr(memory_exchange, "publish", failing_publish)
    await arm(pool, -1, "a")
    stop, health = asyncio.Event(), Health(name="scanner")
    running = asyncio.create_task(
        scanner(pool, memory_exchange, scan_interval=0.05).run(stop, health)
    )
    await wait_until(lambda: collector.came)
    await wait_until(lambda: health.ready)
    stop.set()
    await running
    warnings = [each for each in caplog.records if each.levelname == "WARNING"]
    assert len(warnings) <= 3, "an outage is told once, not at each try"


async def test_a_lost_finish_leaves_the_nodes_to_come_again(
    pool: RedisPool,
    memory_exchange: MemoryExchange,
    collector: Collector,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def lost(members: list[str], lease: float) -> int:
        raise PoolUnavailableError("Redis: gone")

    await arm(pool, -1, "a")
    with monkeypatch.context() as patch:
        patch.setattr(pool.shards[0], "finish", lost)
        report = await scanner(pool, memory_exchange, lease_seconds=0.2).once()
    assert isinstance(report.error, PoolUnavailableError)

    async def again() -> bool:
        await scanner(pool, memory_exchange).once()
        return collector.node_ids() == ["a", "a"]

    await wait_until(again)


async def test_a_release_that_fails_leaves_the_lease(
    pool: RedisPool, memory_exchange: MemoryExchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lost(*_: object) -> int:
        raise PoolUnavailableError("Redis: gone")

    async def refused(queue: str, body: bytes, time_limit: float) -> None:
        raise ExchangeUnavailableError("RabbitMQ: NO_ROUTE")

    monkeypatch.setattr(pool.shards[0], "release", lost)
    monkeypatch.setattr(memory_exchange, "publish", refused)
    await arm(pool, -1, "a")
    report = await scanner(pool, memory_exchange, lease_seconds=0.2).once()
    assert report.unconfirmed == 1
    await wait_until(lambda: _overdue(pool))


async def _overdue(pool: RedisPool) -> bool:
    return (await pool.counts()).overdue == 1


async def test_what_is_about_to_fall_due_is_dispatched_ahead(
    pool: RedisPool, memory_exchange: MemoryExchange, collector: Collector
) -> None:
    now = await pool.now()
    await pool.arm(
        [
            DueRun(run_id=id_of("soon"), due_at=now + 30),
            DueRun(run_id=id_of("b"), due_at=now + 99),
        ]
    )
    report = await scanner(pool, memory_exchange, dispatch_ahead=60).once()
    assert (report.claimed, collector.node_ids()) == (1, ["soon"])
    assert [each.due_at for each in collector.came] == [now + 30]


async def test_what_falls_due_close_together_travels_together(
    pool: RedisPool, memory_exchange: MemoryExchange, collector: Collector
) -> None:
    now = await pool.now()
    runs = [DueRun(run_id=id_of(f"n{i}"), due_at=now + 0.5 + i * 0.002) for i in range(50)]
    await pool.arm(runs)
    stop = asyncio.Event()
    scanning = asyncio.create_task(
        scanner(pool, memory_exchange, batch_size=100, dispatch_ahead=0.2).run(
            stop, Health(name="scanner")
        )
    )
    await wait_until(lambda: len(collector.came) == len(runs))
    assert await pool.now() < runs[-1].due_at, "all of them ahead"
    assert collector.messages <= 5
    stop.set()
    await scanning


class Broker(MemoryExchange):
    """As RabbitMQ does, it confirms what it keeps, and tells how much that is when it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.published = 0
        self.published_when_asked: list[int] = []
        self.answers = asyncio.Event()

    async def publish(self, queue: str, body: bytes, time_limit: float) -> None:
        await self.enqueue(MemoryDelivery(exchange=self, queue=queue, body=body))
        self.published += 1

    async def waiting(self, queue: str) -> int:
        self.published_when_asked.append(self.published)
        if len(self.published_when_asked) > 1:
            await self.answers.wait()
        return await super().waiting(queue)


async def test_a_backlog_stays_in_the_pool_until_there_is_room_in_the_queue(
    pool: RedisPool,
) -> None:
    broker = Broker()
    broker.answers.set()
    await arm(pool, -1, *(f"n{i}" for i in range(3 * MESSAGES_AHEAD)))
    stop = asyncio.Event()
    running = asyncio.create_task(
        scanner(pool, broker, batch_size=1).run(stop, Health(name="scanner"))
    )
    await wait_until(lambda: len(broker.published_when_asked) >= 5)
    assert broker.published == MESSAGES_AHEAD
    assert (await pool.counts()).overdue == 2 * MESSAGES_AHEAD
    async with broker.consume({QUEUE: 100}) as consumer:
        collector = Collector(consumer)
        collecting = asyncio.create_task(collector.run())
        await wait_until(lambda: collector.messages == 3 * MESSAGES_AHEAD)
        collecting.cancel()
    stop.set()
    await running


async def test_the_broker_is_asked_for_room_while_there_is_some_left(pool: RedisPool) -> None:
    broker = Broker()
    await arm(pool, -1, *(f"n{i}" for i in range(2 * MESSAGES_AHEAD)))
    stop = asyncio.Event()
    running = asyncio.create_task(
        scanner(pool, broker, batch_size=1).run(stop, Health(name="scanner"))
    )
    await wait_until(lambda: broker.published == MESSAGES_AHEAD)
    _, asked_at = broker.published_when_asked
    assert 0 < asked_at < MESSAGES_AHEAD
    await broker.take([QUEUE], MESSAGES_AHEAD, None)
    broker.answers.set()
    await wait_until(lambda: broker.published > MESSAGES_AHEAD)
    stop.set()
    await running


async def test_a_scanner_stops_without_the_answer_it_has_asked_for(pool: RedisPool) -> None:
    broker = Broker()
    await arm(pool, -1, *(f"n{i}" for i in range(MESSAGES_AHEAD - 1)))
    stop = asyncio.Event()
    one = scanner(pool, broker, batch_size=1, scan_interval=0.05)
    running = asyncio.create_task(one.run(stop, Health(name="scanner")))
    await wait_until(lambda: len(broker.published_when_asked) == 2)
    stop.set()
    await asyncio.wait_for(running, 5)


async def test_a_pass_ends_with_the_answer_that_it_has_asked_for(pool: RedisPool) -> None:
    """If it left it behind, a command that ends here would cut it off."""
    broker = Broker()
    one = scanner(pool, broker, batch_size=1)
    await arm(pool, -1, *(f"first{i}" for i in range(BATCHES_IN_FLIGHT)))
    await one.once()
    await arm(pool, -1, "second")
    passing = asyncio.create_task(one.once())
    await wait_until(lambda: broker.published == BATCHES_IN_FLIGHT + 1)
    assert not passing.done()
    broker.answers.set()
    assert (await passing).error is None


async def test_health_follows_the_present_not_a_publish_that_failed_once(
    pool: RedisPool, memory_exchange: MemoryExchange
) -> None:
    """Its publish timed out, another scanner took the lease over, nothing is due any more."""
    await arm(pool, -1, "a")
    stop = asyncio.Event()
    failures: list[BaseException] = []
    depths: list[int] = []

    class Seen(Health):
        def failed(self, error: BaseException) -> None:
            failures.append(error)
            depth = 0
            traceback = error.__traceback__
            while traceback:
                depth, traceback = depth + 1, traceback.tb_next
            depths.append(depth)
            super().failed(error)

    seen = Seen(name="scanner")
    one = scanner(pool, memory_exchange, lease_seconds=0.6, scan_interval=0.02)
    running = asyncio.create_task(one.run(stop, seen))
    await wait_until(lambda: failures)
    await pool.disarm([id_of("a")])  # what the other one did
    await wait_until(lambda: seen.ready)
    assert isinstance(failures[0], NotConfirmedError)
    assert max(depths) <= 3, "no traceback grows from pass to pass"
    stop.set()
    await running


async def test_a_member_without_an_instant_was_due_long_ago(
    pool: RedisPool, redis: Redis, memory_exchange: MemoryExchange, collector: Collector
) -> None:
    await redis.zadd("test_pool", {"a_v1": "-inf", "b_v1": -5})
    report = await scanner(pool, memory_exchange).once()
    assert report.published == 2
    assert [each.due_at for each in collector.came] == [0.0, 0.0]
