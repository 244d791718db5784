"""The contract of the exchange, on RabbitMQ and in memory."""

import asyncio

import pytest

from node_timeout.domain.errors import NotConfirmedError
from node_timeout.stores.memory.exchange import MemoryExchange
from node_timeout.stores.rabbitmq.exchange import RabbitExchange
from node_timeout.testing.contracts.exchange import *  # noqa: F403 - the suite
from tests.support import wait_until


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


async def test_a_publish_that_is_not_confirmed_in_time_fails(
    memory_exchange: MemoryExchange, queue: str
) -> None:
    with pytest.raises(NotConfirmedError, match="did not handle"):
        await memory_exchange.publish(queue, b"nobody", 0.01)
    assert await memory_exchange.depths() == {queue: 0}
