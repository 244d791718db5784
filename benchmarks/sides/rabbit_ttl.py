"""The RabbitMQ side: a message for each node, that expires at its deadline and is then work.

    published with a TTL --> holding queue --expired, by its dead-letter exchange--> work queue

Both are durable classic queues, the messages are persistent and their publication is confirmed;
one asyncio process consumes the work queue and acknowledges each message after the call. Two
things a user has to know:

- A message expires at the head of its queue only. One with a near deadline waits behind one with a
  far deadline that was published before it. Here deadlines are published in order, which nodes of
  a real workflow are not; they would need a queue for each length of a timeout, or a plugin.
- A classic queue passes an expired message on at most once: RabbitMQ does not wait until the work
  queue has it safely. A quorum queue can, more slowly.
"""

import asyncio
import math
import signal
import time
from collections.abc import Sequence

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage

from benchmarks.sides import common

MODULE = "benchmarks.sides.rabbit_ttl"
HOLDING = "bench_ttl_holding"
WORK = "bench_ttl_work"
PREFETCH = 100
UNCONFIRMED = 20


class RabbitSide(common.Side):
    arms_per_second = 400

    def arm(self, deadlines: Sequence[float]) -> None:
        asyncio.run(self._publish(deadlines))

    def clear(self) -> None:
        common.delete_queues(self.stores.amqp, HOLDING, WORK)

    async def _publish(self, deadlines: Sequence[float]) -> None:
        connection = await aio_pika.connect(self.stores.amqp)
        async with connection, connection.channel() as channel:
            await channel.declare_queue(
                HOLDING,
                durable=True,
                arguments={"x-dead-letter-exchange": "", "x-dead-letter-routing-key": WORK},
            )
            for part in common.parts(deadlines, UNCONFIRMED):
                await asyncio.gather(*(_hold(channel, deadline) for deadline in part))


async def _hold(channel: AbstractChannel, deadline: float) -> None:
    message = aio_pika.Message(
        repr(deadline).encode(),
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        expiration=math.ceil((deadline - time.time()) * 1000) / 1000,
    )
    await channel.default_exchange.publish(message, HOLDING)


async def _consume() -> None:
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    strategy = common.AsyncStrategy()

    async def strike(message: AbstractIncomingMessage) -> None:
        await strategy.call(float(message.body))
        await message.ack()

    connection = await aio_pika.connect(common.stores().amqp)
    async with connection, connection.channel() as channel:
        await channel.set_qos(PREFETCH)
        queue = await channel.declare_queue(WORK, durable=True)
        await queue.consume(strike)
        common.tell_ready()
        await stopped.wait()
    await strategy.close()


def worker() -> None:
    asyncio.run(_consume())


if __name__ == "__main__":
    common.main(MODULE, __doc__, RabbitSide(common.stores()), {"worker": worker})
