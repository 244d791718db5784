"""What every exchange must do: a pytest suite. Provide the fixtures ``exchange`` and ``queue``.

    from node_timeout.testing.contracts.exchange import *

``queue`` is the name of an empty queue of the exchange; ``<queue>-slow`` is another one.
"""

import asyncio

from node_timeout.ports.exchange import Exchange
from node_timeout.testing.words import wait_until


async def publish(exchange: Exchange, queue: str, *bodies: bytes) -> asyncio.Task[None]:
    """Publish in the background: with the exchange in memory, publishing waits for the consumer."""

    async def go() -> None:
        await asyncio.gather(*(exchange.publish(queue, body, 20) for body in bodies))

    return asyncio.create_task(go())


async def test_a_message_is_consumed_and_acknowledged(exchange: Exchange, queue: str) -> None:
    async with exchange.consume({queue: 10}) as consumer:
        publishing = await publish(exchange, queue, b"one")
        (delivery,) = await consumer.get(10)
        assert (delivery.body, delivery.queue) == (b"one", queue)
        await delivery.ack()
        await asyncio.wait_for(publishing, 5)
    await wait_until(lambda: _is_empty(exchange, queue))


async def _is_empty(exchange: Exchange, queue: str) -> bool:
    return (await exchange.depths()).get(queue, 0) == 0


async def test_deliveries_that_are_here_come_together_up_to_the_limit(
    exchange: Exchange, queue: str
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


async def test_a_requeued_message_comes_again(exchange: Exchange, queue: str) -> None:
    async with exchange.consume({queue: 10}) as consumer:
        publishing = await publish(exchange, queue, b"again")
        (delivery,) = await consumer.get(10)
        await delivery.requeue()
        (delivery,) = await consumer.get(10)
        assert delivery.body == b"again"
        await delivery.ack()
        await asyncio.wait_for(publishing, 5)


async def test_what_a_consumer_leaves_goes_to_the_next(exchange: Exchange, queue: str) -> None:
    publishing = await publish(exchange, queue, b"left")
    async with exchange.consume({queue: 10}) as consumer:
        (abandoned,) = await consumer.get(10)
    await abandoned.ack()  # too late, so it does nothing
    async with exchange.consume({queue: 10}) as consumer:
        (delivery,) = await asyncio.wait_for(consumer.get(10), 10)
        assert delivery.body == b"left"
        await delivery.ack()
        await asyncio.wait_for(publishing, 5)


async def test_a_stopped_consumer_gets_no_more(exchange: Exchange, queue: str) -> None:
    async with exchange.consume({queue: 10}) as consumer:
        await consumer.stop()
        publishing = await publish(exchange, queue, b"later")
        async with exchange.consume({queue: 10}) as other:
            (delivery,) = await asyncio.wait_for(other.get(10), 10)
            await delivery.ack()
            await asyncio.wait_for(publishing, 5)


async def test_several_queues_are_consumed_at_once(exchange: Exchange, queue: str) -> None:
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
