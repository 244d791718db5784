"""Listener: events queue → tracker. For engines that tell us by message when a node starts or ends.

    read ──▶ arm and disarm, a node's events in order of time ──▶ ack

A batch may come again, whole or in part: arming and disarming twice changes nothing.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from node_timeout import events, metrics
from node_timeout.events import Event, NodeLeft, NodeStarted
from node_timeout.message import Unreadable
from node_timeout.ports import Consumer, Delivery, Exchange, Pool
from node_timeout.service import Health, repeat, until_available
from node_timeout.timeout_config import ConfigRules
from node_timeout.tracker import Tracker

logger = logging.getLogger(__name__)

MESSAGES_PER_BATCH = 500


@dataclass(slots=True, kw_only=True)
class ListenReport:
    """What one batch of messages brought, in events."""

    received: int = 0
    unreadable: int = 0
    armed: int = 0
    disarmed: int = 0


class Listener:
    """Consumes the events queue."""

    def __init__(
        self, *, exchange: Exchange, tracker: Tracker, pool: Pool, queue: str, rules: ConfigRules
    ) -> None:
        self._exchange = exchange
        self._tracker = tracker
        self._pool = pool
        self._queue = queue
        self._rules = rules
        self._health = Health(name="listener")

    async def run(self, stop: asyncio.Event, health: Health) -> None:
        """Listen until stopped; a batch begun is finished, or goes back in an outage."""
        self._health = health

        async def step() -> None:
            async with self._exchange.consume({self._queue: 2 * MESSAGES_PER_BATCH}) as consumer:
                health.succeeded()
                await self._consume(consumer, stop)
                await consumer.stop()

        await repeat(step, stop=stop, health=health)

    async def _consume(self, consumer: Consumer, stop: asyncio.Event) -> None:
        stopped = asyncio.ensure_future(stop.wait())
        try:
            while not stop.is_set():
                getting = asyncio.ensure_future(consumer.get(MESSAGES_PER_BATCH))
                try:
                    await asyncio.wait({getting, stopped}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    if not getting.done():
                        getting.cancel()
                if getting.done() and not getting.cancelled():
                    await self.handle(getting.result(), stop)
        finally:
            stopped.cancel()

    async def once(self, consumer: Consumer) -> ListenReport:
        """Wait for one batch of messages and deal with it."""
        return await self.handle(await consumer.get(MESSAGES_PER_BATCH), asyncio.Event())

    async def handle(self, deliveries: Sequence[Delivery], stop: asyncio.Event) -> ListenReport:
        """Deal with messages, through outages; if stopped in one, they go back to the queue."""
        report = await until_available(
            lambda: self._track(deliveries), stop=stop, health=self._health
        )
        for delivery in deliveries:
            await (delivery.ack() if report else delivery.requeue())
        return report or ListenReport()

    async def _track(self, deliveries: Sequence[Delivery]) -> ListenReport:
        report = ListenReport()
        now = await self._pool.now()
        read: list[Event] = []
        for delivery in deliveries:
            found, unreadable = self._decode(delivery, now)
            read += found
            for bad in unreadable:
                logger.error("a message of queue %s: %s", delivery.queue, bad.reason)
                await self._exchange.dead_letter(bad.body, bad.reason)
                metrics.UNREADABLE.labels("events").inc()
            report.unreadable += len(unreadable)
        report.received = len(read)
        for events_of_round in events.in_rounds(read):
            started = [event for event in events_of_round if isinstance(event, NodeStarted)]
            left = [event for event in events_of_round if isinstance(event, NodeLeft)]
            report.armed += await self._tracker.nodes_started(started)
            report.disarmed += await self._tracker.nodes_left(left)
        metrics.EVENTS.inc(report.received)
        return report

    def _decode(self, delivery: Delivery, now: float) -> tuple[list[Event], list[Unreadable]]:
        try:
            return events.decode(delivery.body, self._rules, now)
        except Exception as error:  # noqa: BLE001 - it is this message's own fault
            return [], [Unreadable(body=delivery.body, reason=str(error))]
