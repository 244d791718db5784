"""Talking with RabbitMQ: how long at most, and what a broken connection looks like."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator

from aio_pika.abc import AbstractConnection
from aiormq.exceptions import AMQPError, ChannelInvalidStateError

from node_timeout.adapters.tls import told
from node_timeout.errors import ExchangeUnavailableError

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 10.0
# A closed channel or connection shows itself as any of these.
FAILURES = (AMQPError, ChannelInvalidStateError, OSError, TimeoutError, RuntimeError)


@contextlib.asynccontextmanager
async def talking(time_limit: float = CONNECT_SECONDS) -> AsyncIterator[None]:
    """Talk with the broker; it may fall silent."""
    try:
        async with asyncio.timeout(time_limit):
            with whole():
                yield
    except FAILURES as error:
        raise ExchangeUnavailableError(f"RabbitMQ: {told(error)}") from error


@contextlib.contextmanager
def whole() -> Iterator[None]:
    """A connection that breaks cancels who waits for it: make that an error."""
    try:
        yield
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise  # someone really wants this task to end
        raise ConnectionError(str(error) or "connection lost") from error


async def close_connection(connection: AbstractConnection) -> None:
    try:
        async with talking():
            await connection.close()
    except ExchangeUnavailableError as error:
        logger.debug("closing a connection: %s", error)
