"""A dead-letter queue that refuses holds up what it refuses, and nothing else. On real servers."""

import asyncio
import json
from collections.abc import AsyncIterator

import aio_pika
import pytest
from redis.asyncio import Redis

from node_timeout.arming.listener import Listener
from node_timeout.arming.tracker import Tracker
from node_timeout.dispatch.scanner import Scanner
from node_timeout.domain.config_check import ConfigRules
from node_timeout.domain.errors import ExchangeUnavailableError
from node_timeout.domain.run import DueRun, RunState
from node_timeout.handling.prefetch import FEW
from node_timeout.handling.routes import Routes
from node_timeout.runtime.dead_letters import DeadLetters
from node_timeout.runtime.loop import Backoff, Health
from node_timeout.stores.rabbitmq.exchange import RabbitExchange
from node_timeout.stores.redis.pool import RedisPool
from node_timeout.stores.sql.ledger import SqlLedger
from node_timeout.wire import dispatch
from node_timeout.wire.dispatch import Unreadable
from tests.integration.test_worker import Bench
from tests.servers import RabbitServer
from tests.support import config, configure, run, wait_until


class FullQueue:
    """A dead-letter queue that takes one message and refuses all others."""

    def __init__(self, server: RabbitServer, exchange: RabbitExchange, dispatch: str) -> None:
        self.dispatch, self.name = dispatch, f"{dispatch}.dead"
        self._server, self._exchange = server, exchange
        self._is_full = False

    async def fill(self) -> None:
        await self._exchange.ensure()
        definition = json.dumps({"max-length": 1, "overflow": "reject-publish"})
        self._server.ctl("set_policy", "full", f"^{self.name}$", definition, "--apply-to", "queues")
        self._is_full = True

        async def refuses() -> bool:
            try:
                await self._exchange.dead_letter(b"filler", "it fills the queue")
            except ExchangeUnavailableError:
                return True
            return False

        await wait_until(refuses)

    def empty(self) -> None:
        if self._is_full:
            self._server.ctl("clear_policy", "full")
            self._is_full = False

    async def bodies(self) -> list[bytes]:
        """What lies in it, but for what filled it."""
        connection = await aio_pika.connect(self._server.url)
        async with connection:
            channel = await connection.channel()
            queue = await channel.get_queue(self.name)
            found = []
            while got := await queue.get(fail=False):
                found.append(got.body)
                await got.ack()
        return [body for body in found if body != b"filler"]


@pytest.fixture
async def full_queue(
    rabbit_server: RabbitServer, rabbit: RabbitExchange, names: dict[str, str]
) -> AsyncIterator[FullQueue]:
    queue = FullQueue(rabbit_server, rabbit, names["dispatch_queue"])
    await queue.fill()
    yield queue
    queue.empty()


async def test_a_scanner_goes_on_beside_members_that_cannot_be_put_aside(
    full_queue: FullQueue, rabbit: RabbitExchange, pool: RedisPool, redis: Redis
) -> None:
    scanner = Scanner(
        shard=pool.shards[0],
        exchange=rabbit,
        queue=full_queue.dispatch,
        batch_size=10,
        lease_seconds=1,
        scan_interval=0.05,
        shutdown_timeout=2,
    )
    stop, health = asyncio.Event(), Health(name="scanner")
    await redis.zadd("test_pool", {b"no-underscore": 1, b"nor-this": 2})
    await pool.arm([DueRun(run_id=run("good").run_id, due_at=3.0)])
    running = asyncio.create_task(scanner.run(stop, health))
    await wait_until(lambda: _waiting(rabbit, full_queue.dispatch, 1))
    await pool.arm([DueRun(run_id=run("later").run_id, due_at=3.0)])
    await wait_until(lambda: _waiting(rabbit, full_queue.dispatch, 2))
    assert health.ready, "the scanner does its work"
    assert (await pool.counts()).armed == 2, "what cannot be put aside stays in the pool"
    full_queue.empty()
    await wait_until(lambda: _armed(pool, 0))
    stop.set()
    await running
    assert sorted(await full_queue.bodies()) == [b"no-underscore", b"nor-this"]


async def _waiting(rabbit: RabbitExchange, queue: str, count: int) -> bool:
    return await rabbit.waiting(queue) == count


async def _armed(pool: RedisPool, count: int) -> bool:
    return (await pool.counts()).armed == count


async def test_a_worker_goes_on_beside_messages_that_cannot_be_put_aside(
    full_queue: FullQueue, rabbit: RabbitExchange, pool: RedisPool, ledger: SqlLedger
) -> None:
    """Also if there are more of them than it has messages in hand; and each is put aside once."""
    bench = Bench(pool, ledger, rabbit)
    worker = bench.worker(
        routes=Routes(dispatch_queue=full_queue.dispatch), queues=(full_queue.dispatch,)
    )
    worker._handler.dead_letters._backoff = Backoff(first=0.05, longest=0.05)
    stop, health = asyncio.Event(), Health(name="worker")
    running = asyncio.create_task(worker.run(stop, health))
    good = await bench.armed("a", "b")
    poison = [f"not JSON {i}".encode() for i in range(3 * FEW)]
    mixed = json.loads(dispatch.encode(good[:1]))
    mixed["runs"].append({"node_id": ""})
    for body in poison[:FEW]:
        await rabbit.publish(full_queue.dispatch, body, 10)
    # All that it may have in hand.
    await wait_until(lambda: worker._handler.dead_letters.refused == FEW)
    for body in (*poison[FEW:], json.dumps(mixed).encode(), dispatch.encode(good[1:])):
        await rabbit.publish(full_queue.dispatch, body, 10)

    async def is_handled(node_id: str) -> bool:
        return (await bench.state(node_id))[0] is RunState.HANDLED

    await wait_until(lambda: is_handled("a"))
    await wait_until(lambda: is_handled("b"))
    assert health.ready
    await wait_until(lambda: worker._handler.dead_letters.refused == 3 * FEW + 1)
    full_queue.empty()
    await wait_until(lambda: not worker._handler.dead_letters._tasks)
    stop.set()
    await running
    bodies = await full_queue.bodies()
    assert sorted(bodies)[: len(poison)] == sorted(poison)
    (entry,) = [json.loads(body)["runs"] for body in bodies if body not in poison]
    assert entry == [{"node_id": ""}]
    assert await rabbit.waiting(full_queue.dispatch) == 0


async def test_a_worker_that_stops_leaves_what_is_refused_in_its_queue(
    full_queue: FullQueue, rabbit: RabbitExchange, pool: RedisPool, ledger: SqlLedger
) -> None:
    worker = Bench(pool, ledger, rabbit).worker(
        routes=Routes(dispatch_queue=full_queue.dispatch), queues=(full_queue.dispatch,)
    )
    stop = asyncio.Event()
    running = asyncio.create_task(worker.run(stop, Health(name="worker")))
    await rabbit.publish(full_queue.dispatch, b"not JSON", 10)
    await wait_until(lambda: worker._handler.dead_letters.refused == 1)
    stop.set()
    await running
    await wait_until(lambda: _waiting(rabbit, full_queue.dispatch, 1))


async def test_a_listener_goes_on_beside_events_that_cannot_be_put_aside(
    full_queue: FullQueue, rabbit: RabbitExchange, pool: RedisPool, ledger: SqlLedger
) -> None:
    queue = f"{full_queue.dispatch}-slow"
    listener = Listener(
        exchange=rabbit,
        tracker=Tracker(ledger=ledger, pool=pool),
        ledger=ledger,
        pool=pool,
        queue=queue,
        rules=ConfigRules(actions=("forced_fail",), max_seconds=1e6),
    )
    await configure(ledger, config("a"))
    stop, health = asyncio.Event(), Health(name="listener")
    running = asyncio.create_task(listener.run(stop, health))
    event = {
        "event": "node_running",
        "node_id": "a",
        "version": "v1",
        "happened_at": await pool.now(),
    }
    body = json.dumps({"schema": 1, "events": [{"event": "nonsense"}, event]}).encode()
    await rabbit.publish(queue, body, 10)
    await wait_until(lambda: _armed(pool, 1))
    await wait_until(lambda: listener._dead_letters.refused == 1)
    assert health.ready
    full_queue.empty()
    await wait_until(lambda: not listener._dead_letters._tasks, 20)
    stop.set()
    await running
    (letter,) = await full_queue.bodies()
    assert json.loads(letter)["events"] == [{"event": "nonsense"}]


async def test_a_refused_dead_letter_cuts_off_no_publish_under_way(
    full_queue: FullQueue, rabbit: RabbitExchange
) -> None:
    async def refused() -> None:
        with pytest.raises(ExchangeUnavailableError):
            await rabbit.dead_letter(b"poison", "refused")

    bodies = [str(i).encode() for i in range(200)]
    await asyncio.gather(
        *(rabbit.publish(full_queue.dispatch, body, 10) for body in bodies),
        *(refused() for _ in range(5)),
    )
    assert await rabbit.waiting(full_queue.dispatch) == len(bodies)


async def test_what_waits_is_counted_beside_the_prefetch(
    full_queue: FullQueue, rabbit: RabbitExchange
) -> None:
    letters = DeadLetters(rabbit, source="queue")
    assert letters.beside() == 0
    async with rabbit.consume({full_queue.dispatch: 10}) as consumer:
        for _ in range(3):
            await rabbit.publish(full_queue.dispatch, b"poison", 10)
        for _ in range(3):
            (delivery,) = await consumer.get(1)
            letters.put(delivery, [Unreadable(body=b"poison", reason="it is poison")])
        await wait_until(lambda: letters.refused == 3)
        assert letters.beside() == 4
        await letters.give_back()
        assert (letters.refused, letters.beside()) == (0, 0)
        for _ in range(3):
            (delivery,) = await consumer.get(1)
            assert delivery.body == b"poison"
            await delivery.ack()
