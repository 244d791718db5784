"""Calls to RabbitMQ: their time limit, and how a broken connection shows itself."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator

import aio_pika
from aio_pika.abc import AbstractConnection
from aiormq.exceptions import (
    AMQPError,
    AuthenticationError,
    ChannelInvalidStateError,
    InvalidFrameError,
)
from pamqp.commands import Connection

from node_timeout.domain.errors import ExchangeUnavailableError
from node_timeout.stores.tls import reason_of
from node_timeout.urls.redaction import presentable

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 10.0
# A closed channel or connection can raise any of these.
FAILURES = (AMQPError, ChannelInvalidStateError, OSError, TimeoutError, RuntimeError)


@contextlib.asynccontextmanager
async def talking(time_limit: float = CONNECT_SECONDS) -> AsyncIterator[None]:
    """Limit the time of calls to the broker, and translate their errors."""
    try:
        async with asyncio.timeout(time_limit):
            with whole():
                yield
    except FAILURES as error:
        raise ExchangeUnavailableError(f"RabbitMQ: {reason_of(error)}") from presentable(error)


@contextlib.contextmanager
def whole() -> Iterator[None]:
    """A broken connection cancels the tasks that wait for it: make that an error."""
    try:
        yield
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise  # this task itself is being cancelled
        raise ConnectionError(str(error) or "connection lost") from error


@contextlib.contextmanager
def refused() -> Iterator[None]:
    """A server that accepts the login but not the vhost says why: make that the error.

    The driver reads that answer and drops it, because it expects a different one.
    """
    try:
        yield
    except AuthenticationError as error:
        raise ConnectionError(f"the server lets log in only by {error.args[0]}") from error
    except InvalidFrameError as error:
        trace = error.__traceback__
        while trace:
            frame = trace.tb_frame.f_locals.get("frame")
            if isinstance(frame, Connection.Close):
                raise ConnectionError(frame.reply_text) from error
            trace = trace.tb_next
        raise


class ClosingConnection(aio_pika.Connection):
    """Closes itself if it cannot connect: aio-pika leaves that to the garbage collector, which may
    run when there is no event loop.
    """

    async def connect(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - aio-pika's
        try:
            await super().connect(timeout)
        except BaseException:
            await self.close()
            raise


async def close_connection(connection: AbstractConnection) -> None:
    try:
        async with talking():
            await connection.close()
    except ExchangeUnavailableError as error:
        logger.debug("closing a connection: %s", error)
