"""Listener: events queue → tracker. For engines that send a message when a node starts or ends.

    read ──▶ arm and disarm, a node's events in order of time ──▶ ack
      └────▶ bad events ──▶ dead-letter queue ──▶ ack, while the others go on

A batch may come again, whole or in part: arming and disarming are idempotent.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from node_timeout import metrics
from node_timeout.arming.roots import Rooted, find_roots
from node_timeout.arming.tracker import Tracker
from node_timeout.domain.config_check import ConfigRules
from node_timeout.domain.errors import NodeTimeoutError
from node_timeout.domain.events import Event, NodeLeft, NodeStarted
from node_timeout.ports.exchange import Consumer, Delivery, Exchange
from node_timeout.ports.ledger import Ledger
from node_timeout.ports.pool import Pool
from node_timeout.runtime.dead_letters import DeadLetters
from node_timeout.runtime.halving import in_halves
from node_timeout.runtime.loop import Health, repeat, unless_stopped, until_available
from node_timeout.wire import events
from node_timeout.wire.dispatch import Unreadable

logger = logging.getLogger(__name__)

FINISH_SECONDS = 5.0
MESSAGES_PER_BATCH = 100
BATCH_BOUNDS = (MESSAGES_PER_BATCH, 1024 * 1024)
"""The most messages, and the most bytes in total, of a batch."""
EVENTS_PER_CALL = 1000
"""The most events per transaction: it stays short, however many events a message has."""


@dataclass(slots=True, kw_only=True)
class ListenReport:
    """What one batch of messages contained, in events."""

    received: int = 0
    unreadable: int = 0
    armed: int = 0
    disarmed: int = 0


@dataclass(slots=True)
class _Found:
    """The contents of a batch of messages."""

    events: list[Event] = field(default_factory=list)
    origins: dict[int, Delivery] = field(default_factory=dict)
    """The message that an event came in, by the ``id()`` of the event."""
    unreadable: dict[Delivery, list[Unreadable]] = field(default_factory=dict)

    async def refuse(self, event: Event, error: NodeTimeoutError) -> None:
        """Count an event as unreadable: the ledger cannot store it, or its node is ambiguous."""
        letter = Unreadable(body=events.encode([event]), reason=str(error))
        self.unreadable.setdefault(self.origins[id(event)], []).append(letter)


class Listener:
    """Consumes the events queue."""

    def __init__(
        self,
        *,
        exchange: Exchange,
        tracker: Tracker,
        ledger: Ledger,
        pool: Pool,
        queue: str,
        rules: ConfigRules,
    ) -> None:
        self._exchange = exchange
        self._ledger = ledger
        self._tracker = tracker
        self._pool = pool
        self._queue = queue
        self._rules = rules
        self._health = Health(name="listener")
        self._dead_letters = DeadLetters(exchange, source="events")

    async def run(self, stop: asyncio.Event, health: Health) -> None:
        """Listen until stopped. A batch in progress is finished, or requeued in an outage."""
        self._health = health

        async def step() -> None:
            async with self._exchange.consume({self._queue: self._prefetch()}) as consumer:
                health.succeeded()
                try:
                    await self._consume(consumer, stop)
                    await consumer.stop()
                    await self._finish(consumer)
                finally:
                    await self._dead_letters.give_back()

        await repeat(step, stop=stop, health=health)

    async def _consume(self, consumer: Consumer, stop: asyncio.Event) -> None:
        while not stop.is_set():
            deliveries = await unless_stopped(self._get(consumer), stop)
            if deliveries is not None:
                await self.handle(deliveries, stop)
            await consumer.resize({self._queue: self._prefetch()})

    async def _get(self, consumer: Consumer) -> list[Delivery] | None:
        """The next deliveries; None if none has come and the prefetch has to be checked again."""
        try:
            async with asyncio.timeout(self._dead_letters.look_again_seconds()):
                return await consumer.get(*BATCH_BOUNDS)
        except TimeoutError:
            return None

    async def _finish(self, consumer: Consumer) -> None:
        """Handle also the messages that came before the stop; in an outage they are requeued."""
        time_is_up = asyncio.Event()
        timer = asyncio.get_running_loop().call_later(FINISH_SECONDS, time_is_up.set)
        try:
            while deliveries := await consumer.get(*BATCH_BOUNDS):
                await self.handle(deliveries, time_is_up)
        finally:
            timer.cancel()

    async def once(self, consumer: Consumer) -> ListenReport:
        """Wait for one batch of messages and handle it."""
        report = await self.handle(await consumer.get(*BATCH_BOUNDS), asyncio.Event())
        await self._dead_letters.settled()
        return report

    def _prefetch(self) -> int:
        return 2 * MESSAGES_PER_BATCH + self._dead_letters.beside()

    async def handle(self, deliveries: Sequence[Delivery], stop: asyncio.Event) -> ListenReport:
        """Handle messages, through outages; if stopped during an outage, requeue them.

        Events that cannot be read or stored are dead-lettered after the rest is done.
        """
        report = ListenReport()
        found = await self._read(deliveries)
        report.received = len(found.events)
        rooted = await self._find_roots(found, stop)
        done = rooted is not None
        for round_of_events in events.in_rounds(rooted or []):
            for start in range(0, len(round_of_events), EVENTS_PER_CALL):
                some = round_of_events[start : start + EVENTS_PER_CALL]
                done = done and await self._track_all(some, found, stop, report)
        if done:
            report.unreadable = await self._dead_letters.settle(deliveries, found.unreadable)
        else:
            for delivery in deliveries:
                await delivery.requeue()
        metrics.EVENTS.inc(report.received)
        return report

    async def _find_roots(self, found: "_Found", stop: asyncio.Event) -> list[Event] | None:
        """The events to track; ambiguous ones are refused. None if the listener stops."""

        async def find(some: Sequence[Event]) -> Rooted[Event] | None:
            step = partial(find_roots, some, self._ledger)
            return await until_available(step, stop=stop, health=self._health)

        tracked: list[Event] = []
        for rooted in await in_halves(found.events, find, found.refuse) if found.events else []:
            if rooted is None:
                return None
            for event, error in rooted.ambiguous:
                await found.refuse(event, error)
            for number, event in rooted.origins.items():
                found.origins[number] = found.origins[id(event)]
            self._tracker.not_armed(
                [event for event in rooted.unknown if isinstance(event, NodeStarted)]
            )
            tracked += rooted.events
        return tracked

    async def _track_all(
        self, some: Sequence[Event], found: "_Found", stop: asyncio.Event, report: ListenReport
    ) -> bool:
        """Track events, in one call if possible; those that the ledger refuses are unreadable.

        False if the listener stops first.
        """

        def track(some: Sequence[Event]) -> Awaitable[bool]:
            return self._insist(partial(self._track, some, report), stop)

        return all(await in_halves(some, track, found.refuse))

    async def _insist(self, step: Callable[[], Awaitable[None]], stop: asyncio.Event) -> bool:
        """Repeat a step until it succeeds despite outages; False if the listener stops first."""

        async def steps() -> bool:
            await step()
            return True

        return bool(await until_available(steps, stop=stop, health=self._health))

    async def _read(self, deliveries: Sequence[Delivery]) -> "_Found":
        found = _Found()
        now = await self._pool.now()
        for delivery in deliveries:
            try:
                read, unreadable = events.decode(delivery.body, self._rules, now)
            except Exception as error:  # noqa: BLE001 - it is this message's own fault
                read, unreadable = [], [Unreadable(body=delivery.body, reason=str(error))]
            found.origins |= {id(event): delivery for event in read}
            found.events += read
            if unreadable:
                found.unreadable[delivery] = unreadable
        return found

    async def _track(self, some: Sequence[Event], report: ListenReport) -> None:
        started = [event for event in some if isinstance(event, NodeStarted)]
        left = [event for event in some if isinstance(event, NodeLeft)]
        now = await self._pool.now()
        armed = await self._tracker.started(started, now)
        disarmed = await self._tracker.left(left, now)
        report.armed += armed
        report.disarmed += disarmed
