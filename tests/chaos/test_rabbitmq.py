"""Fault 5: RabbitMQ restarts, forgets its queues, blocks, falls silent and repeats itself."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial

import aio_pika
import pytest

from node_timeout import Settings
from node_timeout.domain.run import DueRun
from node_timeout.stores.rabbitmq.exchange import RabbitExchange
from node_timeout.wire import dispatch
from tests.chaos.house import House, behind_proxy, insist, scaled
from tests.integration.test_rabbit import declared_for_good
from tests.servers import RabbitServer
from tests.support import wait_until


class Broker:
    """What is done to RabbitMQ, by its own tools."""

    def __init__(self, server: RabbitServer, settings: Settings) -> None:
        self.server = server
        self.exchange, self.queue = settings.dispatch_exchange, settings.dispatch_queue

    async def ctl(self, *args: str) -> str:
        return await asyncio.to_thread(self.server.ctl, *args)

    async def restarted(self) -> None:
        await asyncio.to_thread(self.server.stop)
        await asyncio.to_thread(self.server.start)

    async def killed(self) -> None:
        self.server.kill()
        await asyncio.to_thread(self.server.start)

    async def queue_deleted(self) -> None:
        async with await aio_pika.connect(self.server.url) as connection:
            channel = await connection.channel()
            await channel.queue_delete(self.queue)

    async def exchange_deleted(self) -> None:
        async with await aio_pika.connect(self.server.url) as connection:
            channel = await connection.channel()
            await channel.exchange_delete(self.exchange)

    async def unroutable(self) -> None:
        async with await aio_pika.connect(self.server.url) as connection:
            channel = await connection.channel()
            queue = await channel.get_queue(self.queue)
            await queue.unbind(self.exchange, self.queue)

    async def blocked(self) -> None:
        """The memory alarm: publishers are held up."""
        await self.ctl("set_vm_memory_high_watermark", "0.00001")
        await asyncio.sleep(3)
        states = await self.ctl("list_connections", "--silent", "state")
        assert "block" in states, f"no connection was blocked: {states}"
        await self.ctl("set_vm_memory_high_watermark", "0.6")

    async def redelivery_storm(self) -> None:
        """Every connection is closed, again and again: what was not acknowledged comes again."""
        for _ in range(3):
            await self.ctl("close_all_connections", "a test")


FAULTS: dict[str, tuple[Callable[[Broker], Awaitable[None]], str]] = {
    "restart": (Broker.restarted, "under load"),
    "kill -9": (Broker.killed, "under load"),
    "queue deleted": (Broker.queue_deleted, "with what was in it, under load"),
    "exchange deleted": (Broker.exchange_deleted, "under load"),
    "unroutable": (Broker.unroutable, "binding deleted, under load"),
    "memory alarm": (Broker.blocked, "for 3 s, under load"),
}


@pytest.fixture
async def broker(
    house: House, settings: Settings, rabbit_server: RabbitServer
) -> AsyncIterator[Broker]:
    assert isinstance(house.app.exchange, RabbitExchange)
    await declared_for_good(house.app.exchange, rabbit_server)
    yield Broker(rabbit_server, settings)
    rabbit_server.start()


@pytest.mark.parametrize("name", FAULTS)
async def test_rabbitmq_fails_under_load(house: House, broker: Broker, name: str) -> None:
    fault, tried = FAULTS[name]
    times = scaled(1, 3)
    house.row.of(fault=f"RabbitMQ: {name}", tried=tried, times=times)
    await house.spawn("scan")
    await house.spawn("worker")
    # Slow, so that messages are under way when the fault strikes.
    async with house.steadily(per_second=100, action="slow"):
        for _ in range(times):
            with house.outage():
                await fault(broker)
            await asyncio.sleep(1)
    await house.verdict(late_seconds=10)


async def test_a_redelivery_storm(house: House, broker: Broker) -> None:
    times = scaled(1, 3)
    house.row.of(
        fault="RabbitMQ: redelivery storm",
        tried="all connections closed 3 times in a row, until messages came again",
        times=times,
    )
    await house.spawn("scan")
    await house.spawn("worker")

    async def comes_again(before: int) -> bool:
        with house.outage():
            await broker.redelivery_storm()
        await asyncio.sleep(1)
        return await house.redelivered() > before

    async with house.steadily(per_second=100, action="slow"):
        await wait_until(lambda: house.effect_count(1), 30)
        for _ in range(times):
            # It may strike while nothing is in the worker's hands: then once more.
            await wait_until(partial(comes_again, await house.redelivered()), 60)
    await house.verdict(late_seconds=10)


async def test_confirms_are_withheld(house: House, settings: Settings) -> None:
    """The broker takes the messages, and its word is lost: they are published twice."""
    times = scaled(2, 20)
    house.row.of(
        fault="RabbitMQ: confirms withheld",
        tried="for 2 s: taken by the broker, unknown to the scanner",
        times=times,
    )
    async with behind_proxy(settings, "amqp_url") as (proxy, here):
        await house.spawn("scan", settings=here)
        await house.spawn("worker")
        async with house.steadily(per_second=50):
            for _ in range(times):
                with house.outage():
                    proxy.mute()
                    await asyncio.sleep(2)
                    proxy.heal()
                await asyncio.sleep(0.5)
        await house.verdict(late_seconds=8)


async def test_messages_come_twice_early_and_in_any_order(house: House, settings: Settings) -> None:
    """A copy of each message before its time, several after it, shuffled."""
    count = scaled(200, 5000)
    house.row.of(
        fault="RabbitMQ: duplicates, reordered",
        tried="each message four times more: early, late, shuffled",
        times=4 * count,
    )
    await house.spawn("scan")
    await house.spawn("worker")
    runs = await house.arm(count, lambda: 2.0 + house.random.random())
    due = [DueRun(run_id=run.run_id, due_at=time.time() - 10) for run in runs]

    async def copies() -> None:
        house.random.shuffle(due)
        for i in range(0, count, 7):
            await insist(partial(publish, dispatch.encode(due[i : i + 7])))

    async def publish(body: bytes) -> None:
        await house.app.exchange.publish(settings.dispatch_queue, body, 5)

    await copies()  # all of them early
    await wait_until(lambda: house.effect_count(count // 2), 60)
    for _ in range(3):
        await copies()  # and late, while the rest falls due
    verdict = await house.verdict(late_seconds=5)
    assert verdict.repeated_calls == 0
