"""Listener: events queue → tracker. For engines that tell us by message when a node starts or ends.

    read ──▶ dead-letter what is bad ──▶ arm and disarm, a node's events in order of time ──▶ ack

A batch may come again, whole or in part: arming and disarming twice changes nothing.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from node_timeout import events, metrics
from node_timeout.events import Event, NodeLeft, NodeStarted
from node_timeout.message import Unreadable
from node_timeout.ports import Consumer, Delivery, Exchange, Pool
from node_timeout.service import Health, repeat, unless_stopped, until_available
from node_timeout.timeout_config import ConfigRules
from node_timeout.tracker import Tracker

logger = logging.getLogger(__name__)

FINISH_SECONDS = 5.0
MESSAGES_PER_BATCH = 100
EVENTS_PER_CALL = 1000
"""A transaction stays short, however many events a message brings."""


@dataclass(slots=True, kw_only=True)
class ListenReport:
    """What one batch of messages brought, in events."""

    received: int = 0
    unreadable: int = 0
    armed: int = 0
    disarmed: int = 0


@dataclass(slots=True)
class _Found:
    events: list[Event] = field(default_factory=list)
    unreadable: list[Unreadable] = field(default_factory=list)


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
                await self._finish(consumer)

        await repeat(step, stop=stop, health=health)

    async def _consume(self, consumer: Consumer, stop: asyncio.Event) -> None:
        while not stop.is_set():
            deliveries = await unless_stopped(consumer.get(MESSAGES_PER_BATCH), stop)
            if deliveries is not None:
                await self.handle(deliveries, stop)

    async def _finish(self, consumer: Consumer) -> None:
        """Deal also with what had come before the stop; in an outage it goes back."""
        time_is_up = asyncio.Event()
        timer = asyncio.get_running_loop().call_later(FINISH_SECONDS, time_is_up.set)
        try:
            while deliveries := await consumer.get(MESSAGES_PER_BATCH):
                await self.handle(deliveries, time_is_up)
        finally:
            timer.cancel()

    async def once(self, consumer: Consumer) -> ListenReport:
        """Wait for one batch of messages and deal with it."""
        return await self.handle(await consumer.get(MESSAGES_PER_BATCH), asyncio.Event())

    async def handle(self, deliveries: Sequence[Delivery], stop: asyncio.Event) -> ListenReport:
        """Deal with messages, through outages; if stopped in one, they go back to the queue."""
        report = ListenReport()
        found = await self._read(deliveries, report)
        done = await self._insist(lambda: self._dead_letter(found.unreadable), stop)
        for round_of_events in events.in_rounds(found.events):
            for start in range(0, len(round_of_events), EVENTS_PER_CALL):
                some = round_of_events[start : start + EVENTS_PER_CALL]
                done = done and await self._insist(partial(self._track, some, report), stop)
        for delivery in deliveries:
            await (delivery.ack() if done else delivery.requeue())
        metrics.EVENTS.inc(report.received)
        return report

    async def _insist(self, step: Callable[[], Awaitable[None]], stop: asyncio.Event) -> bool:
        """Repeat a step until no outage stops it; False if the listener stops before."""

        async def steps() -> bool:
            await step()
            return True

        return bool(await until_available(steps, stop=stop, health=self._health))

    async def _read(self, deliveries: Sequence[Delivery], report: ListenReport) -> _Found:
        found = _Found()
        now = await self._pool.now()
        for delivery in deliveries:
            try:
                read, unreadable = events.decode(delivery.body, self._rules, now)
            except Exception as error:  # noqa: BLE001 - it is this message's own fault
                read, unreadable = [], [Unreadable(body=delivery.body, reason=str(error))]
            found.events += read
            found.unreadable += unreadable
            for bad in unreadable:
                logger.error("a message of queue %s: %s", delivery.queue, bad.reason)
        report.received, report.unreadable = len(found.events), len(found.unreadable)
        metrics.UNREADABLE.labels("events").inc(report.unreadable)
        return found

    async def _dead_letter(self, unreadable: list[Unreadable]) -> None:
        """Those that are safe leave the list: a repeated call goes on behind them."""
        while unreadable:
            await self._exchange.dead_letter(unreadable[0].body, unreadable[0].reason)
            del unreadable[0]

    async def _track(self, some: Sequence[Event], report: ListenReport) -> None:
        started = [event for event in some if isinstance(event, NodeStarted)]
        left = [event for event in some if isinstance(event, NodeLeft)]
        report.armed += await self._tracker.nodes_started(started)
        report.disarmed += await self._tracker.nodes_left(left)
