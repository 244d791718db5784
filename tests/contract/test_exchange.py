"""The contract of the exchange, on RabbitMQ and in memory."""

import asyncio

import pytest

from node_timeout.domain.errors import NotConfirmedError
from node_timeout.stores.memory.exchange import MemoryExchange
from node_timeout.stores.rabbitmq.exchange import RabbitExchange
from tests.support import wait_until

AnyExchange = RabbitExchange | MemoryExchange


@pytest.fixture(params=["rabbit", "memory_exchange"])
def exchange(request: pytest.FixtureRequest) -> AnyExchange:
    found: AnyExchange = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def queue(names: dict[str, str]) -> str:
    return names["dispatch_queue"]


async def publish(exchange: AnyExchange, queue: str, *bodies: bytes) -> asyncio.Task[None]:
    """Publish in the background, as in memory the confirm waits for the consumer."""

    async def go() -> None:
        await asyncio.gather(*(exchange.publish(queue, body, 20) for body in bodies))

    return asyncio.create_task(go())


async def test_a_message_is_consumed_and_acknowledged(exchange: AnyExchange, queue: str) -> None:
    async with exchange.consume({queue: 10}) as consumer:
        publishing = await publish(exchange, queue, b"one")
        (delivery,) = await consumer.get(10)
        assert (delivery.body, delivery.queue) == (b"one", queue)
        await delivery.ack()
        await asyncio.wait_for(publishing, 5)
    await wait_until(lambda: _is_empty(exchange, queue))


async def _is_empty(exchange: AnyExchange, queue: str) -> bool:
    return (await exchange.depths()).get(queue, 0) == 0


async def test_deliveries_that_are_here_come_together_up_to_the_limit(
    exchange: AnyExchange, queue: str
) -> None:
    async with exchange.consume({queue: 10}) as consumer:
        publishing = await publish(exchange, queue, b"1", b"2", b"3")
        got = 0
        while got < 3:
            deliveries = await consumer.get(2)
            assert 1 <= len(deliveries) <= 2
            for delivery in deliveries:
                await delivery.ack()
            got += len(deliveries)
        await asyncio.wait_for(publishing, 5)


async def test_a_requeued_message_comes_again(exchange: AnyExchange, queue: str) -> None:
    async with exchange.consume({queue: 10}) as consumer:
        publishing = await publish(exchange, queue, b"again")
        (delivery,) = await consumer.get(10)
        await delivery.requeue()
        (delivery,) = await consumer.get(10)
        assert delivery.body == b"again"
        await delivery.ack()
        await asyncio.wait_for(publishing, 5)


async def test_what_a_consumer_leaves_goes_to_the_next(exchange: AnyExchange, queue: str) -> None:
    publishing = await publish(exchange, queue, b"left")
    async with exchange.consume({queue: 10}) as consumer:
        (abandoned,) = await consumer.get(10)
    await abandoned.ack()  # too late: does nothing
    async with exchange.consume({queue: 10}) as consumer:
        (delivery,) = await asyncio.wait_for(consumer.get(10), 10)
        assert delivery.body == b"left"
        await delivery.ack()
        await asyncio.wait_for(publishing, 5)


async def test_a_stopped_consumer_gets_no_more(exchange: AnyExchange, queue: str) -> None:
    async with exchange.consume({queue: 10}) as consumer:
        await consumer.stop()
        publishing = await publish(exchange, queue, b"later")
        async with exchange.consume({queue: 10}) as other:
            (delivery,) = await asyncio.wait_for(other.get(10), 10)
            await delivery.ack()
            await asyncio.wait_for(publishing, 5)


async def test_what_had_come_before_the_stop_is_handed_out_or_given_back(
    rabbit: RabbitExchange, queue: str
) -> None:
    """A consumer that leaves makes nobody see a message again that it can deal with itself."""
    for body in (b"1", b"2", b"3"):
        await rabbit.publish(queue, body, 5)
    async with rabbit.consume({queue: 10}) as consumer:
        (first,) = await asyncio.wait_for(consumer.get(1), 10)
        await wait_until(lambda: _none_waits(rabbit, queue))
        await consumer.stop()
        (second,) = await consumer.get(1)
        for delivery in (first, second):
            await delivery.ack()
        await consumer.give_back()
        assert await consumer.get(1) == []
        async with rabbit.consume({queue: 10}) as other:
            (third,) = await asyncio.wait_for(other.get(10), 10)
            assert third.body == b"3"
            await third.ack()


async def test_a_smaller_prefetch_leaves_the_rest_to_others(
    rabbit: RabbitExchange, queue: str
) -> None:
    bodies = {str(i).encode() for i in range(30)}
    async with rabbit.consume({queue: 10}) as consumer:
        await consumer.resize({queue: 2})
        for body in bodies:
            await rabbit.publish(queue, body, 5)
        await wait_until(lambda: _waits(rabbit, queue, 28))
        await consumer.resize({queue: 2})
        await consumer.resize({queue: 20})
        await wait_until(lambda: _waits(rabbit, queue, 8))
        seen: set[bytes] = set()
        while len(seen) < 30:
            for delivery in await asyncio.wait_for(consumer.get(5), 10):
                assert delivery.body not in seen
                seen.add(delivery.body)
                await delivery.ack()
        assert seen == bodies
        await consumer.stop()
        await consumer.resize({queue: 5})
        await rabbit.publish(queue, b"later", 5)
        assert await consumer.get(1) == []


async def _waits(rabbit: RabbitExchange, queue: str, count: int) -> bool:
    return await rabbit.waiting(queue) == count


async def _none_waits(rabbit: RabbitExchange, queue: str) -> bool:
    return await rabbit.waiting(queue) == 0


async def test_several_queues_are_consumed_at_once(
    rabbit: RabbitExchange, memory_exchange: MemoryExchange, queue: str
) -> None:
    for exchange in (rabbit, memory_exchange):
        async with exchange.consume({queue: 10, f"{queue}-slow": 10}) as consumer:
            both = [
                await publish(exchange, queue, b"fast"),
                await publish(exchange, f"{queue}-slow", b"slow"),
            ]
            seen: dict[str, bytes] = {}
            while len(seen) < 2:
                for delivery in await consumer.get(10):
                    seen[delivery.queue] = delivery.body
                    await delivery.ack()
            assert seen == {queue: b"fast", f"{queue}-slow": b"slow"}
            await asyncio.gather(*both)


async def test_a_publish_that_is_not_confirmed_in_time_fails(
    memory_exchange: MemoryExchange, queue: str
) -> None:
    with pytest.raises(NotConfirmedError, match="did not handle"):
        await memory_exchange.publish(queue, b"nobody", 0.01)
    assert await memory_exchange.depths() == {queue: 0}
