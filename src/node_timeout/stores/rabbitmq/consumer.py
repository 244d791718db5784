"""Consuming from RabbitMQ: messages that have arrived and are not settled yet."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from aio_pika.abc import (
    AbstractChannel,
    AbstractConnection,
    AbstractIncomingMessage,
    AbstractQueue,
)

from node_timeout.domain.errors import ExchangeUnavailableError
from node_timeout.ports.exchange import Delivery
from node_timeout.stores.rabbitmq.talk import talking
from node_timeout.wire.dispatch import how_many

REASON_HEADER = "x-node-timeout-reason"


@dataclass(slots=True, kw_only=True)
class _Consuming:
    """One queue that is being consumed."""

    channel: AbstractChannel
    queue: AbstractQueue
    prefetch: int
    tag: str


class RabbitConsumer:
    """See `node_timeout.ports.Consumer`. Each queue has a channel with its own prefetch."""

    def __init__(self) -> None:
        self._arrived: deque[RabbitDelivery] = deque()
        self._news = asyncio.Event()
        self._stopped = False
        self._consuming: dict[str, _Consuming] = {}
        self._lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._lost.add_done_callback(lambda lost: lost.exception())  # it may never be awaited

    async def start(self, connection: AbstractConnection, prefetch: Mapping[str, int]) -> None:
        for name, count in prefetch.items():
            channel = await connection.channel(publisher_confirms=False)
            channel.close_callbacks.add(self._on_close)
            (await channel.get_underlay_channel()).on_consumer_cancel_callbacks.add(self._on_cancel)
            await channel.set_qos(prefetch_count=count)
            queue = await channel.get_queue(name)
            tag = await queue.consume(self._receiver(name))
            self._consuming[name] = _Consuming(
                channel=channel, queue=queue, prefetch=count, tag=tag
            )

    async def resize(self, prefetch: Mapping[str, int]) -> None:
        """Start new consumers: a changed prefetch applies only to new ones."""
        for name, count in prefetch.items():
            consuming = self._consuming[name]
            if consuming.prefetch == count or self._stopped:
                continue
            async with talking():
                await consuming.channel.set_qos(prefetch_count=count)
                await consuming.queue.cancel(consuming.tag)
                consuming.tag = await consuming.queue.consume(self._receiver(name))
            consuming.prefetch = count

    def _receiver(self, queue: str) -> Any:
        async def receive(message: AbstractIncomingMessage) -> None:
            self._arrived.append(RabbitDelivery(message, queue))
            self._news.set()

        return receive

    def _on_close(self, _channel: Any, error: BaseException | None) -> None:
        self._lose(f"the connection was closed: {error or 'no reason given'}")

    def _on_cancel(self, _frame: Any) -> None:
        self._lose("the broker ended the consumer, its queue may have been deleted")

    def _lose(self, why: str) -> None:
        if not self._lost.done():
            self._lost.set_exception(ExchangeUnavailableError(f"RabbitMQ: {why}"))

    async def get(self, limit: int, max_bytes: int | None = None) -> list[Delivery]:
        while not self._arrived:
            if self._stopped:
                return []
            self._news.clear()
            news = asyncio.ensure_future(self._news.wait())
            try:
                await asyncio.wait((news, self._lost), return_when=asyncio.FIRST_COMPLETED)
            finally:
                news.cancel()
            if self._lost.done():
                await self._lost
        count = how_many([len(each.body) for each in islice(self._arrived, limit)], max_bytes)
        return [self._arrived.popleft() for _ in range(count)]

    async def stop(self) -> None:
        for consuming in self._consuming.values():
            with contextlib.suppress(ExchangeUnavailableError):
                async with talking():
                    await consuming.queue.cancel(consuming.tag)
        self._stopped = True
        self._news.set()

    async def give_back(self) -> None:
        while self._arrived:
            await self._arrived.popleft().requeue()


class RabbitDelivery:
    """See `node_timeout.ports.Delivery`."""

    __slots__ = ("_message", "body", "queue", "reason")

    def __init__(self, message: AbstractIncomingMessage, queue: str) -> None:
        self._message = message
        self.body = message.body
        self.queue = queue
        reason = message.headers.get(REASON_HEADER) if message.headers else None
        self.reason = reason if isinstance(reason, str) else None

    async def ack(self) -> None:
        with contextlib.suppress(ExchangeUnavailableError):
            async with talking():
                await self._message.ack()

    async def requeue(self) -> None:
        with contextlib.suppress(ExchangeUnavailableError):
            async with talking():
                await self._message.reject(requeue=True)
