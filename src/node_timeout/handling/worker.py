"""Worker: dispatch messages → strategies → ledger.

This module decides how many messages the worker holds, and how it stops; `dispatch_handler` handles
the messages.
"""

import asyncio
from collections.abc import Collection, Coroutine, Mapping, Sequence
from typing import Any

from node_timeout.handling.attempt import Attempts, Limits
from node_timeout.handling.breaker import Breaker
from node_timeout.handling.dispatch_handler import DispatchHandler
from node_timeout.handling.early_hold import EarlyHold
from node_timeout.handling.leases import Leases
from node_timeout.handling.prefetch import QUIET_SECONDS, Prefetch
from node_timeout.handling.recorder import WorkReport
from node_timeout.handling.routes import Routes
from node_timeout.ports.engine import Engine
from node_timeout.ports.exchange import Consumer, Delivery, Exchange
from node_timeout.ports.ledger import Ledger
from node_timeout.ports.pool import Pool
from node_timeout.runtime.loop import Health, repeat
from node_timeout.strategies.base import NodeTimeoutStrategy
from node_timeout.tasks import ended

BATCHES_IN_PREPARATION = 1
MESSAGES_PER_BATCH = 100
NODES_PER_SLOT = 4
"""Nodes in a batch per concurrent strategy call, about. More nodes would only wait here, kept from
other workers, and be put back when their lease runs low."""
BYTES_PER_NODE = 100
"""The size of one node in a message, about: it bounds a batch before the batch is read."""
PUT_BACK_SECONDS = 5.0


class Worker:
    """Consumes queues and deals with the nodes in their messages."""

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
        """Batches whose strategies have not been started yet."""
        self._prefetch = Prefetch(slots=limits.concurrency, nodes_per_batch=self._nodes_per_batch)
        self._in_hand = 0
        """Messages in the current batches."""
        self._room = asyncio.Event()
        """Set when a batch is prepared or an attempt is over: the worker may take more."""
        self._attempts = Attempts(
            pool=pool,
            holder=EarlyHold(ledger),
            engine=engine,
            strategies=strategies,
            limits=limits,
            breaker=breaker or Breaker(),
            done=self._room.set,
        )
        self._leases = Leases(ledger=ledger, pool=pool, lease_seconds=limits.lease_seconds)
        self._handler = DispatchHandler(
            ledger=ledger,
            pool=pool,
            exchange=exchange,
            attempts=self._attempts,
            leases=self._leases,
            routes=routes,
            limits=limits,
        )

    async def run(self, stop: asyncio.Event, health: Health) -> None:
        """Work until stopped; then finish what is in flight within ``shutdown_timeout``.

        Batches outlive a lost connection: their messages come again, and the ledger knows the runs.
        """
        self._handler.recorder.health = health
        health.doing = lambda: (
            f"{self._attempts.busy} strategy calls, {self._in_hand} messages in hand"
        )

        async def step() -> None:
            async with self._exchange.consume(self._prefetches()) as consumer:
                health.succeeded()
                try:
                    await self._consume(consumer, stop)
                    await self._finish(consumer)
                finally:
                    await self._handler.dead_letters.give_back()

        renewing = asyncio.create_task(self._leases.run(), name="renew leases")
        try:
            await repeat(step, stop=stop, health=health)
            await self._drain(self._limits.shutdown_timeout)
        finally:
            await ended(renewing)
        await self._handler.dead_letters.give_back()
        await self._attempts.close()

    def _prefetches(self) -> dict[str, int]:
        """By queue. Handle messages carry one node; those whose dead letters wait come on top."""
        beside = self._handler.dead_letters.beside()
        slots = self._limits.concurrency
        return {
            queue: beside
            + (self._prefetch.messages if queue == self._routes.dispatch_queue else 2 * slots)
            for queue in self._queues
        }

    async def _consume(self, consumer: Consumer, stop: asyncio.Event) -> None:
        """Start batches for the messages that come, as long as the worker has free slots.

        Returns when stopped, or when a stopped consumer has nothing left.
        """
        stopped = asyncio.ensure_future(stop.wait())
        getting: asyncio.Future[list[Delivery]] | None = None
        dead_letters = self._handler.dead_letters
        try:
            while not stop.is_set():
                self._prefetch.have_in_hand(self._in_hand, self._attempts.busy)
                await consumer.resize(self._prefetches())
                # Until the next check of `stop` there is only one wait: deliveries fetched by its
                # end are handled, and later ones stay with the consumer.
                self._room.clear()
                waiting: set[asyncio.Future[Any]] = {stopped, *self._batches}
                if getting is None and self._has_room():
                    getting = asyncio.ensure_future(consumer.get(*self._batch_bounds()))
                room: asyncio.Future[Any] = getting or asyncio.ensure_future(self._room.wait())
                is_quiet = self._prefetch.is_raised and not self._batches
                done, _ = await asyncio.wait(
                    {*waiting, room},
                    timeout=QUIET_SECONDS if is_quiet else dead_letters.look_again_seconds(),
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if room is not getting:
                    room.cancel()
                if is_quiet and not done:
                    self._prefetch.nothing_comes()
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

    def _batch_bounds(self) -> tuple[int, int]:
        """The most messages, and the most bytes in total, that `Consumer.get` may return."""
        return MESSAGES_PER_BATCH, self._nodes_per_batch * BYTES_PER_NODE

    def _has_room(self) -> bool:
        return (
            self._attempts.busy < self._limits.concurrency
            and self._preparing < BATCHES_IN_PREPARATION
        )

    async def _finish(self, consumer: Consumer) -> None:
        """Handle also the messages that came before the stop, so that none of them comes twice.

        New batches start in the first half of ``shutdown_timeout``; later messages are requeued.
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
        """Let the batches in flight finish; after this time put their nodes back."""
        if self._batches:
            await asyncio.wait(self._batches, timeout=seconds)
        self._handler.recorder.end()
        late = {batch for batch in self._batches if not batch.done()}
        if late:
            _, stuck = await asyncio.wait(late, timeout=PUT_BACK_SECONDS)
            for batch in stuck:
                batch.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        self._batches.clear()

    async def once(self, consumer: Consumer) -> WorkReport:
        """Wait for one batch of messages and handle it; an empty one if the consumer is stopped."""
        deliveries = await consumer.get(*self._batch_bounds())
        report = await self._handle(deliveries, asyncio.Event())
        await self._handler.dead_letters.settled()
        return report

    def _handle(
        self, deliveries: Sequence[Delivery], stop: asyncio.Event
    ) -> Coroutine[Any, Any, WorkReport]:
        """Handle a batch; it counts as in preparation from this call, not from its first step."""
        self._preparing += 1
        self._in_hand += len(deliveries)

        def prepared(report: WorkReport) -> None:
            self._preparing -= 1
            self._prefetch.weigh(report.received, len(deliveries))
            self._room.set()

        async def handle() -> WorkReport:
            try:
                return await self._handler.handle(deliveries, stop, prepared)
            finally:
                self._in_hand -= len(deliveries)

        return handle()
