"""Worker: dispatch messages → strategies → ledger.

Here is how many messages it has in its hands, and how it stops; what is done with them is in
`batch`.
"""

import asyncio
from collections.abc import Collection, Coroutine, Mapping, Sequence
from typing import Any

from node_timeout.batch import BatchHandler, Routes, WorkReport
from node_timeout.breaker import Breaker
from node_timeout.holder import Holder
from node_timeout.ports import Consumer, Delivery, Engine, Exchange, Ledger, Pool
from node_timeout.service import Health, repeat
from node_timeout.strategy import NodeTimeoutStrategy
from node_timeout.striker import Limits, Striker

BATCHES_IN_PREPARATION = 1
MESSAGES_PER_BATCH = 100
NODES_PER_SLOT = 4
"""Nodes in a batch, about, for each strategy call at once: more would only wait here, taken from
others, and be put back when their lease runs low."""
LARGE_MESSAGES = 8
"""How many messages to have in hand when each has many nodes: those of a backlog, which must not
keep what falls due meanwhile waiting."""
PUT_BACK_SECONDS = 5.0


class Worker:
    """Consumes queues and deals with the nodes they bring."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        pool: Pool,
        exchange: Exchange,
        engine: Engine,
        strategies: Mapping[str, NodeTimeoutStrategy],
        routes: Routes,
        queues: Collection[str],
        limits: Limits,
        breaker: Breaker | None = None,
    ) -> None:
        self._exchange = exchange
        self._routes = routes
        self._queues = queues
        self._limits = limits
        self._nodes_per_batch = NODES_PER_SLOT * limits.concurrency
        self._batches: set[asyncio.Task[WorkReport]] = set()
        self._preparing = 0
        """Batches on the way to their strategies."""
        self._nodes_per_message = 1.0
        """In the last batch; messages of a moment are much alike."""
        self._messages_are_large = False
        self._room = asyncio.Event()
        """Set when a batch has been prepared or a strike is over: there may be room for more."""
        self._striker = Striker(
            pool=pool,
            holder=Holder(ledger),
            engine=engine,
            strategies=strategies,
            limits=limits,
            breaker=breaker or Breaker(),
            done=self._room.set,
        )
        self._handler = BatchHandler(
            ledger=ledger,
            pool=pool,
            exchange=exchange,
            striker=self._striker,
            routes=routes,
            limits=limits,
        )

    async def run(self, stop: asyncio.Event, health: Health) -> None:
        """Work until stopped; then finish what is in flight within ``shutdown_timeout``.

        Batches outlive a lost connection: their messages come again, and the ledger tells.
        """
        self._handler.health = health

        async def step() -> None:
            async with self._exchange.consume(self._prefetch()) as consumer:
                health.succeeded()
                await self._consume(consumer, stop)
                await self._finish(consumer)

        await repeat(step, stop=stop, health=health)
        await self._drain(self._limits.shutdown_timeout)

    def _prefetch(self) -> dict[str, int]:
        """As many messages as slots, as long as they carry few nodes. Handle messages carry one."""
        slots = self._limits.concurrency
        dispatched = min(slots, LARGE_MESSAGES) if self._messages_are_large else slots
        return {
            queue: dispatched if queue == self._routes.dispatch_queue else 2 * slots
            for queue in self._queues
        }

    def _weigh(self, nodes: int, messages: int) -> None:
        self._nodes_per_message = max(1.0, nodes / messages)
        in_hand = LARGE_MESSAGES * self._nodes_per_message
        if in_hand > 2 * self._nodes_per_batch:
            self._messages_are_large = True
        elif in_hand < self._nodes_per_batch / 2:
            self._messages_are_large = False

    async def _consume(self, consumer: Consumer, stop: asyncio.Event) -> None:
        """Start a batch for whatever has come, as long as there is room.

        Until stopped, or until a stopped consumer has nothing left.
        """
        stopped = asyncio.ensure_future(stop.wait())
        getting: asyncio.Future[list[Delivery]] | None = None
        try:
            while not stop.is_set():
                await consumer.resize(self._prefetch())
                # From here to the next look at `stop` there is one wait: what has been got by its
                # end is dealt with, and what is got later is not taken from the consumer.
                self._room.clear()
                waiting: set[asyncio.Future[Any]] = {stopped, *self._batches}
                if getting is None and self._has_room():
                    getting = asyncio.ensure_future(consumer.get(self._messages_per_batch()))
                room: asyncio.Future[Any] = getting or asyncio.ensure_future(self._room.wait())
                await asyncio.wait({*waiting, room}, return_when=asyncio.FIRST_COMPLETED)
                if room is not getting:
                    room.cancel()
                for batch in [batch for batch in self._batches if batch.done()]:
                    self._batches.remove(batch)
                    batch.result()
                if getting and getting.done():
                    deliveries = getting.result()  # raises if the connection was lost
                    getting = None
                    if not deliveries:
                        return
                    self._batches.add(asyncio.create_task(self._handle(deliveries, stop)))
        finally:
            stopped.cancel()
            if getting:
                getting.cancel()

    def _messages_per_batch(self) -> int:
        return max(1, min(MESSAGES_PER_BATCH, int(self._nodes_per_batch / self._nodes_per_message)))

    def _has_room(self) -> bool:
        return (
            self._striker.busy < self._limits.concurrency
            and self._preparing < BATCHES_IN_PREPARATION
        )

    async def _finish(self, consumer: Consumer) -> None:
        """Deal also with what had come before the stop, so that no message comes twice for it.

        New batches begin in the first half of ``shutdown_timeout``; what is left then goes back.
        """
        loop, limit = asyncio.get_running_loop(), self._limits.shutdown_timeout
        ends = loop.time() + limit
        await consumer.stop()
        time_is_up = asyncio.Event()
        timer = loop.call_at(ends - limit / 2, time_is_up.set)
        try:
            await self._consume(consumer, time_is_up)
        finally:
            timer.cancel()
        await consumer.give_back()
        await self._drain(max(0.0, ends - loop.time()))

    async def _drain(self, seconds: float) -> None:
        """Let the batches in flight end; past this time put their nodes back."""
        if self._batches:
            await asyncio.wait(self._batches, timeout=seconds)
        self._handler.end()
        late = {batch for batch in self._batches if not batch.done()}
        if late:
            _, stuck = await asyncio.wait(late, timeout=PUT_BACK_SECONDS)
            for batch in stuck:
                batch.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        self._batches.clear()

    async def once(self, consumer: Consumer) -> WorkReport:
        """Wait for one batch of messages and deal with it."""
        deliveries = await consumer.get(MESSAGES_PER_BATCH)
        return await self._handle(deliveries, asyncio.Event())

    def _handle(
        self, deliveries: Sequence[Delivery], stop: asyncio.Event
    ) -> Coroutine[Any, Any, WorkReport]:
        """The batch counts as in preparation from now on, not from its first step."""
        self._preparing += 1

        def prepared(report: WorkReport) -> None:
            self._preparing -= 1
            self._weigh(report.received, len(deliveries))
            self._room.set()

        return self._handler.handle(deliveries, stop, prepared)
