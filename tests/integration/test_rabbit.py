"""RabbitMQ's own troubles: wrong queues, lost queues, a broker that dies and comes back."""

import asyncio
import random
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import aio_pika
import pytest

from node_timeout.domain.errors import (
    ExchangeUnavailableError,
    NotConfirmedError,
    QueueMismatchError,
)
from node_timeout.stores.rabbitmq import exchange as rabbit_exchange
from node_timeout.stores.rabbitmq.consumer import REASON_HEADER
from node_timeout.stores.rabbitmq.exchange import RabbitExchange
from tests.servers import RabbitServer, free_port
from tests.support import wait_until


@pytest.fixture
async def channel(rabbit_server: RabbitServer) -> AsyncIterator[aio_pika.abc.AbstractChannel]:
    """A channel of someone else."""
    connection = await aio_pika.connect(rabbit_server.url)
    yield await connection.channel()
    await connection.close()


def exchange(url: str, names: dict[str, str], queue_type: str = "quorum") -> RabbitExchange:
    return RabbitExchange(
        url,
        exchange=names["dispatch_exchange"],
        queues=[names["dispatch_queue"]],
        queue_type=queue_type,
    )


async def declared_for_good(exchange: RabbitExchange, server: RabbitServer) -> None:
    """RabbitMQ 3.10 finds no leader for a quorum queue if killed right after its declaration."""
    await exchange.ensure()
    await exchange.close()
    await asyncio.to_thread(server.stop)
    await asyncio.to_thread(server.start)


async def test_declaring_again_changes_nothing(rabbit: RabbitExchange) -> None:
    await rabbit.ensure()
    await rabbit.ensure()
    await rabbit.close()
    await rabbit.ensure()


async def test_a_queue_of_another_type_is_one_clear_error(
    rabbit: RabbitExchange, rabbit_server: RabbitServer, names: dict[str, str]
) -> None:
    await rabbit.ensure()
    other = exchange(rabbit_server.url, names, "classic")
    with pytest.raises(QueueMismatchError) as error:
        await other.ensure()
    assert names["dispatch_queue"] in str(error.value)
    assert "choose another name" in str(error.value)
    await other.close()


async def test_a_deleted_queue_fails_the_publish_and_is_declared_again(
    rabbit: RabbitExchange, channel: aio_pika.abc.AbstractChannel, names: dict[str, str]
) -> None:
    queue = names["dispatch_queue"]
    await rabbit.publish(queue, b"one", 5)
    await channel.queue_delete(queue)
    with pytest.raises(ExchangeUnavailableError, match="NO_ROUTE"):
        await rabbit.publish(queue, b"two", 5)
    await rabbit.publish(queue, b"three", 5)
    assert (await rabbit.depths())[queue] == 1


async def test_a_deleted_exchange_is_declared_again(
    rabbit: RabbitExchange, channel: aio_pika.abc.AbstractChannel, names: dict[str, str]
) -> None:
    queue = names["dispatch_queue"]
    await rabbit.ensure()
    await channel.exchange_delete(names["dispatch_exchange"])

    async def published() -> bool:
        try:
            await rabbit.publish(queue, b"again", 5)
        except ExchangeUnavailableError:
            return False
        return True

    await wait_until(published)


async def test_a_consumer_whose_queue_is_deleted_is_told(
    rabbit: RabbitExchange, channel: aio_pika.abc.AbstractChannel, names: dict[str, str]
) -> None:
    queue = names["dispatch_queue"]
    async with rabbit.consume({queue: 5}) as consumer:
        getting = asyncio.create_task(consumer.get(1))
        await asyncio.sleep(0)
        await channel.queue_delete(queue)
        with pytest.raises(ExchangeUnavailableError, match="may have been deleted"):
            await asyncio.wait_for(getting, 10)


async def test_dead_letters_carry_their_reason(
    rabbit: RabbitExchange, channel: aio_pika.abc.AbstractChannel, names: dict[str, str]
) -> None:
    await rabbit.dead_letter(b"\xff", "not JSON: " + "x" * 5000)
    queue = await channel.get_queue(names["dispatch_queue"] + ".dead")
    message = await queue.get(timeout=5)
    assert message is not None
    assert message.body == b"\xff"
    assert str(message.headers[REASON_HEADER]).startswith("not JSON")
    await message.ack()


async def test_a_reason_that_is_no_text_is_told_all_the_same(rabbit: RabbitExchange) -> None:
    await rabbit.dead_letter(b"x", "a member \udcff\ud800")


async def test_a_late_failure_leaves_the_next_connection_alone(
    rabbit: RabbitExchange, names: dict[str, str]
) -> None:
    await rabbit.ensure()
    first = rabbit._publisher
    await rabbit._drop(first)
    await rabbit.ensure()
    second = rabbit._publisher
    await rabbit._drop(first)
    assert rabbit._publisher is second
    await rabbit.publish(names["dispatch_queue"], b"fine", 5)


async def test_a_rejected_message_ends_in_the_dead_letter_queue(
    rabbit: RabbitExchange, channel: aio_pika.abc.AbstractChannel, names: dict[str, str]
) -> None:
    queue = names["dispatch_queue"]
    await rabbit.publish(queue, b"rejected", 5)
    message = await (await channel.get_queue(queue)).get(timeout=5)
    assert message is not None
    await message.reject(requeue=False)

    async def dead() -> bool:
        return (await rabbit.depths())[f"{queue}.dead"] == 1

    await wait_until(dead)


async def test_a_message_survives_the_broker_and_everyone_reconnects(
    tmp_path: Path, names: dict[str, str]
) -> None:
    queue = names["dispatch_queue"]
    with RabbitServer(tmp_path) as server:
        mine = exchange(server.url, names)
        await declared_for_good(mine, server)
        await mine.publish(queue, b"durable", 5)
        async with mine.consume({}) as idle:
            await idle.stop()
        async with mine.consume({queue: 1}) as consumer:
            (delivery,) = await consumer.get(1)
            getting = asyncio.create_task(consumer.get(1))
            await asyncio.sleep(0)
            server.kill()
            with pytest.raises(ExchangeUnavailableError):
                await asyncio.wait_for(getting, 20)
            await delivery.ack()
        with pytest.raises(ExchangeUnavailableError):
            await mine.publish(queue, b"nobody there", 5)
        await asyncio.to_thread(server.start)

        async def back() -> bool:
            try:
                await mine.ensure()
            except ExchangeUnavailableError:
                return False
            return True

        await wait_until(back, 30)
        async with mine.consume({queue: 1}) as consumer:
            (delivery,) = await asyncio.wait_for(consumer.get(1), 20)
            assert delivery.body == b"durable"
            await delivery.ack()
        await mine.close()


async def test_a_broker_that_does_not_confirm_in_time_is_given_up(
    tmp_path: Path, names: dict[str, str]
) -> None:
    with RabbitServer(tmp_path) as server:
        mine = exchange(server.url, names)
        await mine.ensure()
        server.pause()
        with pytest.raises(NotConfirmedError, match=r"no confirm within 0\.3 s"):
            await mine.publish(names["dispatch_queue"], b"held", 0.3)
        server.resume()
        await mine.close()


async def test_without_a_broker_every_call_says_so(names: dict[str, str]) -> None:
    mine = exchange(f"amqp://guest:s3cret@127.0.0.1:{free_port()}/", names)
    for call in (
        mine.ensure,
        mine.depths,
        lambda: mine.publish("q", b"", 1),
        lambda: mine.dead_letter(b"", "r"),
    ):
        with pytest.raises(ExchangeUnavailableError, match="RabbitMQ") as error:
            await call()
        assert "s3cret" not in str(error.value)
    with pytest.raises(ExchangeUnavailableError):
        async with mine.consume({"q": 1}):
            pass
    await mine.close()


async def test_a_silent_node_is_left_for_the_next(
    rabbit_server: RabbitServer, names: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random, "shuffle", lambda urls: None)
    monkeypatch.setattr(rabbit_exchange, "DIAL_SECONDS", 0.6)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        mine = exchange(f"amqp://guest:guest@127.0.0.1:{port}/,{rabbit_server.url}", names)
        async with asyncio.timeout(5):
            await mine.publish(names["dispatch_queue"], b"there", 3)
        await mine.close()


@pytest.mark.parametrize(("query", "seconds"), [("", 15), ("?heartbeat=7", 7)])
async def test_heartbeats_tell_a_silent_node(
    rabbit_server: RabbitServer, names: dict[str, str], query: str, seconds: int
) -> None:
    mine = exchange(rabbit_server.url + query, names)
    await mine.ensure()
    assert mine._publisher is not None
    transport = mine._publisher.connection.transport
    assert transport is not None
    assert transport.connection.connection_tune.heartbeat == seconds
    await mine.close()


async def test_when_no_node_answers_each_is_named_without_its_password(
    names: dict[str, str],
) -> None:
    ports = [free_port(), free_port()]
    mine = exchange(",".join(f"amqp://guest:s3cret@127.0.0.1:{port}/" for port in ports), names)
    with pytest.raises(ExchangeUnavailableError, match="RabbitMQ") as error:
        await mine.ensure()
    assert "s3cret" not in str(error.value)
    assert all(f"127.0.0.1:{port}: " in str(error.value) for port in ports)
    await mine.close()
