"""The dispatch exchange in RabbitMQ.

It declares the following, all durable:

    <dispatch_exchange>        direct  each queue is bound by its own name
    every queue                        dead-letters to the next exchange
    <dispatch_exchange>.dead   fanout
    <dispatch_queue>.dead      queue   messages that cannot be read, header x-node-timeout-reason

Publishing and consuming use separate connections: a broker that is short of memory blocks
publishers, and must still receive our acknowledgements.

In a cluster any node will do: it forwards messages to the leader of their queue.
"""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import aio_pika
from aio_pika.abc import (
    AbstractChannel,
    AbstractConnection,
    AbstractExchange,
)
from aiormq.exceptions import (
    ChannelAccessRefused,
    ChannelNotFoundEntity,
    ChannelPreconditionFailed,
    PublishError,
)

from node_timeout.domain.errors import (
    ExchangeUnavailableError,
    NotConfirmedError,
    QueueMismatchError,
)
from node_timeout.stores.failover import Failover
from node_timeout.stores.rabbitmq.consumer import REASON_HEADER, RabbitConsumer
from node_timeout.stores.rabbitmq.probe import probe
from node_timeout.stores.rabbitmq.talk import (
    CONNECT_SECONDS,
    FAILURES,
    ClosingConnection,
    close_connection,
    refused,
    talking,
    whole,
)
from node_timeout.stores.tls import Tls, reason_of
from node_timeout.urls.amqp import AmqpUrl, read_amqp_urls

DIAL_SECONDS = 8.0  # of CONNECT_SECONDS, shared by all nodes
HEARTBEAT_SECONDS = 15  # unless the URL sets it; a node that misses three is given up
DEAD = ".dead"
MAX_REASON_LENGTH = 1000


class RabbitExchange:
    """See `node_timeout.ports.Exchange` for the contract. The first queue is the dispatch queue."""

    def __init__(
        self,
        url: str,
        *,
        exchange: str,
        queues: Sequence[str],
        queue_type: str,
        name: str = "",
        tls: Tls | None = None,
    ) -> None:
        """``url``: the URL of one node, or of several, separated by commas.

        Raises ValueError for a URL that cannot be read, `SettingsError` if TLS is asked for and its
        files cannot be read.
        """
        urls = read_amqp_urls(url)
        secured = any(each.scheme == "amqps" for each in urls)
        self._tls = (tls or Tls()).context if secured else None
        random.shuffle(urls)  # spreads the clients over the nodes
        self._nodes = Failover(urls, name=lambda url: str(url.host))
        self._exchange_name = exchange
        self._queues = queues
        self._queue_type = queue_type
        self._name = name
        self.dead_queue = queues[0] + DEAD
        self._publisher: _Publisher | None = None
        self._lock = asyncio.Lock()
        self._dead_lettering = asyncio.Lock()
        """One at a time: a refusal closes their channel, with everything in flight on it."""

    async def close(self) -> None:
        await self._drop(self._publisher)

    async def ensure(self) -> None:
        await self._ready()

    async def publish(self, queue: str, body: bytes, time_limit: float) -> None:
        publisher = await self._ready()
        message = _message(body, {})
        await self._send(publisher, publisher.exchange, queue, message, time_limit)

    async def dead_letter(self, body: bytes, reason: str) -> None:
        publisher = await self._ready()
        reason = reason.encode("utf-8", "replace").decode()[:MAX_REASON_LENGTH]
        message = _message(body, {REASON_HEADER: reason})
        async with self._dead_lettering:
            try:
                async with talking(CONNECT_SECONDS):
                    exchange = await publisher.dead_exchange(self._exchange_name + DEAD)
                    await exchange.publish(message, self.dead_queue, mandatory=True)
            except ExchangeUnavailableError as error:
                # Only the dead letters' own channel may be broken now, see `_send`; batches go on.
                publisher.declared = publisher.declared and not _is_returned(error)
                await publisher.close_dead_channel()
                raise

    async def _send(
        self,
        publisher: "_Publisher",
        exchange: AbstractExchange,
        queue: str,
        message: aio_pika.Message,
        time_limit: float,
    ) -> None:
        try:
            async with talking(time_limit):
                await exchange.publish(message, queue, mandatory=True)
        except ExchangeUnavailableError as error:
            if _is_returned(error):
                # The channel still works; the queue may be gone.
                publisher.declared = False
            else:
                # If a channel first publishes to a queue while that has no leader, the broker
                # nacks it for ever, even when there is a leader again.
                await self._drop(publisher)
            if isinstance(error.__cause__, TimeoutError):
                raise NotConfirmedError(
                    f"RabbitMQ: no confirm within {time_limit:g} s"
                ) from error.__cause__
            raise

    async def _ready(self) -> "_Publisher":
        async with self._lock:
            publisher = self._publisher
            try:
                async with talking():
                    if publisher is None or publisher.channel.is_closed:
                        await self._drop(publisher)
                        publisher = self._publisher = await self._open_publisher()
                    if not publisher.declared:
                        await self._declare(publisher)
            except (ExchangeUnavailableError, QueueMismatchError):
                await self._drop(publisher)
                raise
            return publisher

    async def _open_publisher(self) -> "_Publisher":
        url, connection = await self._connect("publish")
        try:
            channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        except BaseException:
            self._nodes.avoid(url)
            await close_connection(connection)
            raise
        return _Publisher(url, connection, channel)

    async def _connect(self, purpose: str) -> tuple[AmqpUrl, AbstractConnection]:
        """Connect to a node; return its URL and the connection."""

        async def dial(url: AmqpUrl) -> AbstractConnection:
            options = {"heartbeat": HEARTBEAT_SECONDS, **url.parameters}
            name = f"{options.pop('name', 'node-timeout')} {purpose} {self._name}".strip()
            with whole(), refused():
                connection: AbstractConnection = await aio_pika.connect(
                    url.address,
                    timeout=CONNECT_SECONDS,
                    client_properties={"connection_name": name},
                    ssl_context=self._tls,
                    connection_class=ClosingConnection,
                    **options,
                )
                return connection

        return await self._nodes.connect(dial, DIAL_SECONDS, FAILURES)

    async def _drop(self, publisher: "_Publisher | None") -> None:
        """Close a publisher, even if another has already replaced it."""
        if publisher:
            if self._publisher is publisher:
                self._publisher = None
            self._nodes.avoid(publisher.url)
            await close_connection(publisher.connection)

    async def _declare(self, publisher: "_Publisher") -> None:
        channel, kind = publisher.channel, aio_pika.ExchangeType
        dead_exchange = self._exchange_name + DEAD
        what = f"exchange {dead_exchange!r}"
        try:
            dead = await channel.declare_exchange(dead_exchange, kind.FANOUT, durable=True)
            what = f"exchange {self._exchange_name!r}"
            publisher.exchange = await channel.declare_exchange(
                self._exchange_name, kind.DIRECT, durable=True
            )
            what = f"queue {self.dead_queue!r}"
            arguments: dict[str, Any] = {"x-queue-type": self._queue_type}
            dead_queue = await channel.declare_queue(
                self.dead_queue, durable=True, arguments=arguments
            )
            await dead_queue.bind(dead)
            arguments["x-dead-letter-exchange"] = dead_exchange
            for name in self._queues:
                what = f"queue {name!r}"
                queue = await channel.declare_queue(name, durable=True, arguments=arguments)
                await queue.bind(publisher.exchange, name)
        except ChannelAccessRefused as error:
            raise ExchangeUnavailableError(
                f"RabbitMQ: its user has no right to declare and bind {what} (configure, write, "
                f"read): {reason_of(error)}"
            ) from error
        except ChannelPreconditionFailed as error:
            raise QueueMismatchError(
                f"{what} exists with other arguments: {error}; delete it, or choose another name"
            ) from error
        publisher.declared = True

    async def probe(self) -> None:
        publisher = await self._ready()
        await probe(
            publisher.connection,
            exchange=self._exchange_name,
            dead_exchange=self._exchange_name + DEAD,
            queues=self._queues,
        )

    @contextlib.asynccontextmanager
    async def consume(self, prefetch: Mapping[str, int]) -> AsyncIterator[RabbitConsumer]:
        await self._ready()  # declares the queues
        async with talking():
            url, connection = await self._connect("consume")
        consumer = RabbitConsumer()
        try:
            async with talking():
                await consumer.start(connection, prefetch)
            yield consumer
        except ExchangeUnavailableError:
            self._nodes.avoid(url)
            raise
        finally:
            await close_connection(connection)

    async def waiting(self, queue: str) -> int:
        publisher = await self._ready()
        try:
            async with talking():
                found = await publisher.channel.declare_queue(queue, passive=True)
        except ExchangeUnavailableError:
            await self._drop(publisher)  # the broker closes the channel if the queue is missing
            raise
        return found.declaration_result.message_count or 0

    async def depths(self) -> dict[str, int]:
        publisher = await self._ready()
        depths: dict[str, int] = {}
        for name in [*self._queues, self.dead_queue]:
            try:
                async with talking():
                    channel = await publisher.connection.channel()
                    queue = await channel.declare_queue(name, passive=True)
                    depths[name] = queue.declaration_result.message_count or 0
                    await channel.close()
            except ExchangeUnavailableError as error:
                if not isinstance(error.__cause__, ChannelNotFoundEntity):
                    raise
        return depths


class _Publisher:
    """An open connection for publishing."""

    exchange: AbstractExchange

    def __init__(
        self, url: AmqpUrl, connection: AbstractConnection, channel: AbstractChannel
    ) -> None:
        self.url = url
        self.connection = connection
        self.channel = channel
        self.declared = False
        self._dead_channel: AbstractChannel | None = None
        self._opening = asyncio.Lock()

    async def dead_exchange(self, name: str) -> AbstractExchange:
        """The dead-letter exchange, on a channel of its own."""
        async with self._opening:
            if self._dead_channel is None or self._dead_channel.is_closed:
                self._dead_channel = await self.connection.channel(
                    publisher_confirms=True, on_return_raises=True
                )
            return await self._dead_channel.get_exchange(name, ensure=False)

    async def close_dead_channel(self) -> None:
        channel, self._dead_channel = self._dead_channel, None
        if channel is not None:
            with contextlib.suppress(ExchangeUnavailableError):
                async with talking():
                    await channel.close()


def _is_returned(error: ExchangeUnavailableError) -> bool:
    """True if the broker returned the message because no queue accepted it."""
    return isinstance(error.__cause__, PublishError)


def _message(body: bytes, headers: dict[str, Any]) -> aio_pika.Message:
    return aio_pika.Message(
        body,
        content_type="application/json",
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        headers=headers,
    )
