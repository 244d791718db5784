"""The dispatch exchange inside one process, for ``dev`` and ``demo``.

Here a confirm means *handled*: `publish` returns when a consumer has acknowledged the message.
Until then the runs are leased in the pool, so that even here a crash loses nothing.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

from node_timeout.domain.errors import NotConfirmedError
from node_timeout.ports.exchange import Delivery
from node_timeout.wire.dispatch import how_many

logger = logging.getLogger(__name__)


class MemoryExchange:
    """See `node_timeout.ports.Exchange` for the contract."""

    def __init__(self) -> None:
        self._waiting: dict[str, list[MemoryDelivery]] = {}
        self._arrived = asyncio.Condition()

    dead_queue = "dead"

    @property
    def dead(self) -> list[tuple[bytes, str]]:
        """The waiting dead letters: body and reason."""
        return [(each.body, each.reason or "") for each in self._waiting.get(self.dead_queue, [])]

    async def close(self) -> None:
        return

    async def ensure(self) -> None:
        return

    async def probe(self) -> None:
        return

    async def publish(self, queue: str, body: bytes, time_limit: float) -> None:
        delivery = MemoryDelivery(exchange=self, queue=queue, body=body)
        await self.enqueue(delivery)
        try:
            await asyncio.wait_for(delivery.handled.wait(), time_limit)
        except TimeoutError as error:
            # Whether it was consumed or not, its runs come again when their lease expires.
            with contextlib.suppress(ValueError):
                self._waiting[queue].remove(delivery)
            raise NotConfirmedError(
                f"queue {queue!r} did not handle a message within {time_limit:g} s"
            ) from error

    async def dead_letter(self, body: bytes, reason: str) -> None:
        await self.enqueue(
            MemoryDelivery(exchange=self, queue=self.dead_queue, body=body, reason=reason)
        )

    async def enqueue(self, delivery: "MemoryDelivery") -> None:
        async with self._arrived:
            self._waiting.setdefault(delivery.queue, []).append(delivery)
            self._arrived.notify_all()

    @contextlib.asynccontextmanager
    async def consume(self, prefetch: Mapping[str, int]) -> AsyncIterator["MemoryConsumer"]:
        consumer = MemoryConsumer(self, list(prefetch))
        try:
            yield consumer
        finally:
            # Like a broker when a connection ends: requeue what is not acknowledged.
            for delivery in consumer.unsettled:
                await self.enqueue(delivery)

    async def take(
        self, queues: list[str], limit: int, max_bytes: int | None
    ) -> list["MemoryDelivery"]:
        """Wait for messages in any of the queues and take them; none if there are no queues."""
        async with self._arrived:
            await self._arrived.wait_for(
                lambda: not queues or any(self._waiting.get(name) for name in queues)
            )
            there = [each for name in queues for each in self._waiting.get(name, [])][:limit]
            taken = there[: how_many([len(each.body) for each in there], max_bytes)]
            for each in taken:
                self._waiting[each.queue].remove(each)
            return taken

    async def waiting(self, queue: str) -> int:
        return len(self._waiting.get(queue, []))

    async def depths(self) -> dict[str, int]:
        return {name: len(waiting) for name, waiting in self._waiting.items()}


class MemoryConsumer:
    """See `node_timeout.ports.Consumer`."""

    def __init__(self, exchange: MemoryExchange, queues: list[str]) -> None:
        self.unsettled: set[MemoryDelivery] = set()
        self._exchange = exchange
        self._queues = queues

    async def get(self, limit: int, max_bytes: int | None = None) -> list[Delivery]:
        taken = await self._exchange.take(self._queues, limit, max_bytes)
        for delivery in taken:
            self.unsettled.add(delivery)
            delivery.consumer = self
        return list(taken)

    async def resize(self, prefetch: Mapping[str, int]) -> None:
        """Do nothing: no message is prefetched."""

    async def stop(self) -> None:
        self._queues = []

    async def give_back(self) -> None:
        """Do nothing: no message is prefetched."""


@dataclass(eq=False, slots=True, kw_only=True)
class MemoryDelivery:
    """See `node_timeout.ports.Delivery`."""

    exchange: MemoryExchange
    queue: str
    body: bytes
    reason: str | None = None
    handled: asyncio.Event = field(default_factory=asyncio.Event)
    consumer: MemoryConsumer | None = None

    async def ack(self) -> None:
        if self._settle():
            self.handled.set()

    async def requeue(self) -> None:
        if self._settle():
            await self.exchange.enqueue(self)

    def _settle(self) -> bool:
        """False if the consumer is closed: the message is already back in its queue."""
        if self.consumer is None or self not in self.consumer.unsettled:
            return False
        self.consumer.unsettled.discard(self)
        return True
