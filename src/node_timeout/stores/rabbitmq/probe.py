"""Checks that the user of RabbitMQ may do all that services do, by doing it.

No other message is touched. The probe publishes to a queue of its own, which is deleted with its
connection. On the real queues it asks for consumers that the broker has to refuse, either for the
missing right or for an invalid argument; it sends no message either way.
"""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Any

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection
from aiormq.exceptions import ChannelAccessRefused, ChannelPreconditionFailed

from node_timeout.domain.errors import ExchangeUnavailableError
from node_timeout.stores.rabbitmq.talk import talking

NO_PRIORITY: dict[str, Any] = {"x-priority": "none"}
"""Not a number, so the broker refuses a consumer even if it may read the queue."""


async def probe(
    connection: AbstractConnection, *, exchange: str, dead_exchange: str, queues: Sequence[str]
) -> None:
    """Raises an `ExchangeUnavailableError` that names the missing right."""
    own = f"{queues[0]}.check.{uuid.uuid4().hex}"
    message = aio_pika.Message(b"check")
    arrived = asyncio.Event()

    async def arrive(_message: object) -> None:
        arrived.set()

    async with _channel(connection, f"declare queue {own!r} (configure)") as channel:
        await channel.declare_queue(own, **_gone_with_us())
    bind = f"bind queue {own!r} to exchange {exchange!r} (write the one, read the other)"
    async with _channel(connection, bind) as channel:
        await (await channel.get_queue(own, ensure=False)).bind(exchange, own)
    async with _channel(connection, f"publish to exchange {exchange!r} (write)") as channel:
        await (await channel.get_exchange(exchange, ensure=False)).publish(message, own)
    async with _channel(connection, f"consume from queue {own!r} (read)") as channel:
        await (await channel.get_queue(own, ensure=False)).consume(arrive, no_ack=True)
        await arrived.wait()
    # To declare a queue with a dead-letter exchange, the user must have write access to that.
    async with _channel(connection, f"publish to exchange {dead_exchange!r} (write)") as channel:
        await channel.declare_queue(f"{own}.dead", **_gone_with_us(dead_exchange))
    for name in queues:
        async with _channel(connection, f"consume from queue {name!r} (read)") as channel:
            with contextlib.suppress(ChannelPreconditionFailed):
                queue = await channel.get_queue(name, ensure=False)
                await queue.consume(arrive, arguments=NO_PRIORITY)


def _gone_with_us(dead_exchange: str | None = None) -> dict[str, Any]:
    """Arguments for a queue that is deleted with its connection; it cannot be a quorum queue."""
    arguments = {"x-queue-type": "classic"}
    if dead_exchange:
        arguments["x-dead-letter-exchange"] = dead_exchange
    return {"exclusive": True, "auto_delete": True, "arguments": arguments}


@contextlib.asynccontextmanager
async def _channel(connection: AbstractConnection, what: str) -> AsyncIterator[AbstractChannel]:
    """A channel for one check: the broker closes a channel on which it refuses something."""
    async with talking():
        channel = await connection.channel()
    try:
        async with talking():
            yield channel
    except ExchangeUnavailableError as error:
        if isinstance(error.__cause__, ChannelAccessRefused):
            raise ExchangeUnavailableError(
                f"RabbitMQ: its user has no right to {what}: {error.__cause__}"
            ) from error
        raise
    finally:
        with contextlib.suppress(ExchangeUnavailableError):
            async with talking():
                await channel.close()
