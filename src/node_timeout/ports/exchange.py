"""The dispatch exchange: named durable queues, at-least-once delivery."""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Protocol


class Delivery(Protocol):
    """A message in a consumer's hands."""

    body: bytes
    queue: str
    reason: str | None
    """Why it is a dead letter; None for other messages, and for those that the broker put there."""

    async def ack(self) -> None:
        """Acknowledge: it is handled. Does nothing if the connection is gone: it comes again."""
        ...

    async def requeue(self) -> None:
        """Return it to its queue, for any consumer. Does nothing if the connection is gone."""
        ...


class Consumer(Protocol):
    async def get(self, limit: int, max_bytes: int | None = None) -> list[Delivery]:
        """Wait for a delivery; return it with those that have already arrived: at most ``limit``,
        and together within ``max_bytes``, except that the first is always returned.

        An empty list means that the consumer is stopped and has handed out all deliveries. A
        cancelled call loses none.
        """
        ...

    async def resize(self, prefetch: Mapping[str, int]) -> None:
        """Change how many unacknowledged deliveries of each queue the consumer may have.

        Deliveries that it already has stay. Does nothing once it is stopped.
        """
        ...

    async def stop(self) -> None:
        """Ask for no more deliveries; `get` still returns those that have arrived."""
        ...

    async def give_back(self) -> None:
        """Requeue the deliveries that have arrived and were not handed out: they come again."""
        ...


class Exchange(Protocol):
    """The dispatch exchange: named durable queues, at-least-once delivery."""

    @property
    def dead_queue(self) -> str:
        """The queue of dead letters; it can be consumed like any other."""
        ...

    async def ensure(self) -> None:
        """Connect, and declare the exchange and queues, unless that is done already.

        Raises `QueueMismatchError` if a queue exists with other arguments.
        """
        ...

    async def publish(self, queue: str, body: bytes, time_limit: float) -> None:
        """Return once the message is safe in ``queue``; else raise `ExchangeUnavailableError`."""
        ...

    async def dead_letter(self, body: bytes, reason: str) -> None:
        """Return once the message and its reason are safe in the dead-letter queue."""
        ...

    async def probe(self) -> None:
        """Publish and consume like the services, with a queue of its own; other messages stay.

        Raises `ExchangeUnavailableError` that names the missing right.
        """
        ...

    def consume(self, prefetch: Mapping[str, int]) -> AbstractAsyncContextManager[Consumer]:
        """Consume queues, each with at most that many unacknowledged messages."""
        ...

    async def waiting(self, queue: str) -> int:
        """Messages ready in a queue, without unacknowledged ones; a cheap call."""
        ...

    async def depths(self) -> dict[str, int]:
        """Messages ready in each queue."""
        ...
