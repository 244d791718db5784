"""Batch: a few dispatch messages, from their reading to their acknowledgement.

    read ──▶ forward (if its action has a handle queue of its own) ──▶ ack
      └────▶ take ──▶ ask the engine ──▶ strategy ──▶ record ──▶ put back the retries ──▶ ack

A crash before *record* leaves rows ``executing`` until their lease runs out; they are then taken
over, and the engine is asked about that very version before anything is repeated.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from node_timeout import message, metrics
from node_timeout.errors import PoolUnavailableError, TemporaryError
from node_timeout.node import DueRun, NodeRun, Outcome, RunState
from node_timeout.ports import Delivery, Exchange, Ledger, Pool, Taking
from node_timeout.service import Backoff, Health, until_available
from node_timeout.striker import Limits, Striker, ids_of, log_outcome

logger = logging.getLogger(__name__)

T = TypeVar("T")

RECORD_EVERY_SECONDS = 0.05


class _StoppedError(Exception):
    """The worker stops in the middle of an outage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Routes:
    """Where strategies run: by action, else in the handle queue, else here (None)."""

    dispatch_queue: str
    handle_queue: str | None = None
    handle_queues: Mapping[str, str] = field(default_factory=dict)

    @property
    def queues(self) -> list[str]:
        """Every queue by name, the dispatch queue first."""
        named = [self.dispatch_queue, self.handle_queue, *self.handle_queues.values()]
        return list(dict.fromkeys(name for name in named if name))

    def target(self, action: str | None) -> str | None:
        """The queue of an action (None: of a node without a config); None for here."""
        return self.handle_queues.get(action or "", self.handle_queue)


@dataclass(slots=True, kw_only=True)
class WorkReport:
    """What became of one batch, in node runs."""

    received: int = 0
    unreadable: int = 0
    forwarded: int = 0
    later: int = 0
    dropped: int = 0
    late: int = 0
    outcomes: dict[RunState, int] = field(default_factory=dict)


class BatchHandler:
    """Deals with batches of messages, any number at once."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        pool: Pool,
        exchange: Exchange,
        striker: Striker,
        routes: Routes,
        limits: Limits,
    ) -> None:
        self._ledger = ledger
        self._pool = pool
        self._exchange = exchange
        self._striker = striker
        self._routes = routes
        self._limits = limits
        self._must_end = asyncio.Event()
        self.health = Health(name="worker")
        """Told of outages; whoever runs the worker puts its own here."""

    def end(self) -> None:
        """Batches put back what has not been dealt with."""
        self._must_end.set()

    async def handle(
        self,
        deliveries: Sequence[Delivery],
        stop: asyncio.Event,
        prepared: Callable[[WorkReport], None],
    ) -> WorkReport:
        """Deal with messages, through outages; if stopped in one, they go back to their queues.

        ``prepared`` is called once the strategies have been started, or will not be.
        """
        report = WorkReport()
        try:
            try:
                read = await self._insist(lambda: self._read(deliveries, report), stop)
                here = await self._insist(lambda: self._forward(read, report), stop)
                taking, started = await self._insist(lambda: self._take(here, report), stop)
                strikes = await self._strike_all(taking, started)
            finally:
                prepared(report)
            await self._record_all(strikes, taking.lease, started, report)
        except _StoppedError:
            await _each(deliveries, lambda delivery: delivery.requeue())
        except Exception:
            logger.exception("a batch of %d messages goes back to its queue", len(deliveries))
            await _each(deliveries, lambda delivery: delivery.requeue())
            raise
        else:
            await _each(deliveries, lambda delivery: delivery.ack())
        return report

    async def _insist(self, step: Callable[[], Awaitable[T]], stop: asyncio.Event) -> T:
        """Repeat a step until no outage stops it. Raises `_StoppedError` if the worker stops."""
        try:
            return await step()
        except TemporaryError as error:
            self.health.failed(error)
        value = await until_available(step, stop=stop, health=self.health)
        if value is None:
            raise _StoppedError
        return value

    async def _read(
        self, deliveries: Sequence[Delivery], report: WorkReport
    ) -> dict[NodeRun, tuple[DueRun, str]]:
        """The node runs of the messages with the queue each came from, every run once."""
        read: dict[NodeRun, tuple[DueRun, str]] = {}
        report.received = report.unreadable = 0
        for delivery in deliveries:
            try:
                due, unreadable = message.decode(delivery.body)
            except Exception as error:  # noqa: BLE001 - it is this message's own fault
                due = []
                unreadable = [message.Unreadable(body=delivery.body, reason=str(error))]
            for bad in unreadable:
                logger.error("a message of queue %s: %s", delivery.queue, bad.reason)
                metrics.UNREADABLE.labels("queue").inc()
                await self._exchange.dead_letter(bad.body, bad.reason)
            report.received += len(due)
            report.unreadable += len(unreadable)
            read.update((each.run, (each, delivery.queue)) for each in due)
        return read

    async def _forward(
        self, read: Mapping[NodeRun, tuple[DueRun, str]], report: WorkReport
    ) -> list[DueRun]:
        """Send nodes of the dispatch queue on to their handle queues; return those to do here."""
        here: list[DueRun] = []
        onward: list[tuple[DueRun, str]] = []
        dispatched = [
            due.run for due, queue in read.values() if queue == self._routes.dispatch_queue
        ]
        actions: dict[NodeRun, str] = {}
        if dispatched and self._routes.handle_queues:
            actions = await self._ledger.actions(dispatched)
        for due, queue in read.values():
            target = None
            if queue == self._routes.dispatch_queue:
                target = self._routes.target(actions.get(due.run))
            if target in (None, queue):
                here.append(due)
            else:
                onward.append((due, target))
        await asyncio.gather(*(self._send(due, target) for due, target in onward))
        report.forwarded += len(onward)
        return here

    async def _send(self, due: DueRun, queue: str) -> None:
        await self._exchange.publish(queue, message.encode([due]), self._limits.strategy_timeout)
        metrics.FORWARDED.labels(queue).inc()

    async def _rearm(self, due: Sequence[DueRun]) -> None:
        """Put runs into the pool at their ``due_at``; the ledger has them, so a miss is mended.

        A run that is not at its first try is not taken ahead. Scanners claim ahead all the same, so
        the pool has it as much later.
        """
        if not due:
            return
        ahead = self._limits.dispatch_ahead
        try:
            await self._pool.rearm(
                [DueRun(run=each.run, due_at=each.due_at + ahead) for each in due]
            )
        except PoolUnavailableError as error:
            logger.warning("%d node runs wait for the reconciler: %s", len(due), error)

    async def _take(self, due: Sequence[DueRun], report: WorkReport) -> tuple[Taking, float]:
        """Take the ledger rows; put back into the pool what is not for now.

        Also return the instant, on the monotonic clock, from which the lease counts.
        """
        started = time.monotonic()
        if not due:
            nothing = Taking(taken=(), lease=0.0, later=(), dropped={}, given_up=(), stolen=0)
            return nothing, started
        taking = await self._ledger.take(
            due,
            now=await self._pool.now(),
            lease_seconds=self._limits.lease_seconds,
            max_attempts=self._limits.max_attempts,
            ahead_seconds=self._limits.dispatch_ahead,
        )
        metrics.LEASE_STEALS.inc(taking.stolen)
        for state, count in taking.dropped.items():
            metrics.DROPPED.labels(state).inc(count)
        for outcome in taking.given_up:
            metrics.OUTCOMES.labels(outcome.node.action, outcome.state).inc()
            log_outcome(outcome)
        report.dropped += sum(taking.dropped.values()) + len(taking.given_up)
        report.later += len(taking.later)
        await self._rearm(taking.later)
        return taking, started

    async def _strike_all(
        self, taking: Taking, started: float
    ) -> set[asyncio.Task[Outcome | None]]:
        """Start the strategies, oldest deadline first; those that came ahead at their deadline."""
        # A strategy that starts later than this could outlive its row's lease.
        start_before = started + self._limits.lease_seconds - self._limits.strategy_timeout - 1
        passed = await self._pool.passed()
        strikes: set[asyncio.Task[Outcome | None]] = set()
        for node in sorted(taking.taken, key=lambda node: node.deadline):
            # Not knowing the time: it was claimed by Redis's clock, no more than so long ahead.
            early = self._limits.dispatch_ahead if passed is None else node.deadline - passed
            if early > 0:
                strike = self._striker.begin_later(node, start_before, taking.lease, early)
            else:
                strike = self._striker.begin(node, start_before)
            strikes.add(strike)
        return strikes

    async def _record_all(
        self,
        running: set[asyncio.Task[Outcome | None]],
        lease: float,
        started: float,
        report: WorkReport,
    ) -> None:
        """Record the outcomes in groups as they come."""
        try:
            while running:
                done, running = await asyncio.wait(running, timeout=RECORD_EVERY_SECONDS)
                if self._must_end.is_set():
                    for task in running:
                        task.cancel()
                outcomes = [outcome for task in done if (outcome := task.result())]
                if outcomes:
                    lease_ends = started + self._limits.lease_seconds
                    await self._record(outcomes, lease, lease_ends, report)
        finally:
            for task in running:
                task.cancel()

    async def _record(
        self, outcomes: Sequence[Outcome], lease: float, lease_ends: float, report: WorkReport
    ) -> None:
        """Write outcomes while the lease holds, whatever the database does in between."""
        backoff = Backoff()
        while True:
            now = await self._pool.now()
            try:
                recorded = await self._ledger.record(outcomes, lease=lease, now=now)
                break
            except TemporaryError as error:
                self.health.failed(error)
                if time.monotonic() > lease_ends:
                    raise
            await asyncio.sleep(max(0.02, backoff.seconds(self.health.failures)))
        if self.health.failures:
            self.health.succeeded()
        report.late += len(outcomes) - recorded
        metrics.LATE_RESULTS.inc(len(outcomes) - recorded)
        for outcome in outcomes:
            report.outcomes[outcome.state] = report.outcomes.get(outcome.state, 0) + 1
            if outcome.due_at is None:
                metrics.OUTCOMES.labels(outcome.node.action, outcome.state).inc()
            elif outcome.called:
                metrics.RETRIES.labels(outcome.node.action).inc()
        if recorded < len(outcomes):
            for outcome in outcomes:
                logger.warning(
                    "node %s: one of a group of %d results, %d of which came after their lease "
                    "and were not recorded",
                    outcome.node.node_id,
                    len(outcomes),
                    len(outcomes) - recorded,
                    extra=ids_of(outcome.node) | {"state": str(outcome.state)},
                )
        await self._rearm(
            [
                DueRun(run=outcome.node.run, due_at=outcome.due_at)
                for outcome in outcomes
                if outcome.due_at is not None
            ]
        )


async def _each(
    deliveries: Iterable[Delivery], settle: Callable[[Delivery], Awaitable[None]]
) -> None:
    for delivery in deliveries:
        await settle(delivery)
