"""The dispatch exchange: durable queues by name, at least once."""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Protocol


class Delivery(Protocol):
    """A message in a consumer's hands."""

    body: bytes
    queue: str
    reason: str | None
    """Why it is a dead letter; None of any other, and of what the broker has put there itself."""

    async def ack(self) -> None:
        """It is dealt with. If the connection is gone this does nothing: it will come again."""
        ...

    async def requeue(self) -> None:
        """Give it back, for any consumer. If the connection is gone this does nothing."""
        ...


class Consumer(Protocol):
    async def get(self, limit: int, max_bytes: int | None = None) -> list[Delivery]:
        """Wait for a delivery; return it with those that are already here, ``limit`` at most, and
        all but the first within ``max_bytes`` together.

        None means that it is stopped and all are handed out. Being cancelled loses none.
        """
        ...

    async def resize(self, prefetch: Mapping[str, int]) -> None:
        """From now on have so many deliveries of each queue on the way or in hand.

        Those that are in hand already stay. Does nothing once it is stopped.
        """
        ...

    async def stop(self) -> None:
        """Ask for no more deliveries; those that have come can still be had."""
        ...

    async def give_back(self) -> None:
        """Give those back that have come and were not handed out: they will come again."""
        ...


class Exchange(Protocol):
    """The dispatch exchange: durable queues by name, at least once."""

    @property
    def dead_queue(self) -> str:
        """Where dead letters are; it can be consumed as any other."""
        ...

    async def ensure(self) -> None:
        """Connect and declare what is to be declared, unless that is done already.

        Raises `QueueMismatchError` if a queue stands there with other arguments.
        """
        ...

    async def publish(self, queue: str, body: bytes, time_limit: float) -> None:
        """Return once the message is safe in ``queue``; else raise `ExchangeUnavailableError`."""
        ...

    async def dead_letter(self, body: bytes, reason: str) -> None:
        """Return once the message and its reason are safe in the dead-letter queue."""
        ...

    async def probe(self) -> None:
        """Publish and consume as services do, with a queue of its own; no message of others moves.

        Raises `ExchangeUnavailableError` that names the right that is missing.
        """
        ...

    def consume(self, prefetch: Mapping[str, int]) -> AbstractAsyncContextManager[Consumer]:
        """Consume queues, each with at most that many unacknowledged messages."""
        ...

    async def waiting(self, queue: str) -> int:
        """Messages ready in a queue, not those in consumers' hands; a cheap question."""
        ...

    async def depths(self) -> dict[str, int]:
        """Messages ready in each queue."""
        ...
