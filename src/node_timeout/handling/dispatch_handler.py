"""Handles batches of dispatch messages, from reading them to acknowledging them.

    read ──▶ forward (if the action has its own handle queue) ──▶ ack
      └────▶ take ──▶ ask the engine ──▶ strategy ──▶ record ──▶ put back the retries ──▶ ack

A crash before *record* leaves rows ``executing`` until their lease runs out. Another worker then
takes them over, and asks the engine about that very version before it repeats anything.
"""

import asyncio
import itertools
import logging
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence

from node_timeout import metrics, tracing
from node_timeout.domain.errors import LedgerError
from node_timeout.domain.run import DueRun, ForeignRun
from node_timeout.handling.attempt import Attempts, Limits
from node_timeout.handling.batch import Batch, read
from node_timeout.handling.forwarder import Forwarder
from node_timeout.handling.insistence import Insistence, StoppedError
from node_timeout.handling.leases import Leased, Leases
from node_timeout.handling.outcomes import log_outcome
from node_timeout.handling.recorder import Recorder, WorkReport
from node_timeout.handling.routes import Routes
from node_timeout.ports.exchange import Delivery, Exchange
from node_timeout.ports.ledger import Ledger, Taking
from node_timeout.ports.pool import Pool
from node_timeout.runtime.dead_letters import DeadLetters
from node_timeout.runtime.halving import in_halves
from node_timeout.tasks import together

logger = logging.getLogger(__name__)

UNKNOWN = "the ledger has no run of this id"


class DispatchHandler:
    """Handles batches of messages, any number at once."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        pool: Pool,
        exchange: Exchange,
        attempts: Attempts,
        leases: Leases,
        routes: Routes,
        limits: Limits,
    ) -> None:
        self._ledger = ledger
        self._pool = pool
        self._exchange = exchange
        self._attempts = attempts
        self._leases = leases
        self._name = uuid.uuid4().hex[:12]
        self._takings = itertools.count(1)
        self._limits = limits
        self.recorder = Recorder(ledger=ledger, pool=pool, limits=limits)
        self._insist = Insistence(self.recorder.health)
        self._forwarder = Forwarder(
            ledger, exchange, routes, self._insist, publish_seconds=limits.strategy_timeout
        )
        self.dead_letters = DeadLetters(exchange, source="queue")

    async def handle(
        self,
        deliveries: Sequence[Delivery],
        stop: asyncio.Event,
        prepared: Callable[[WorkReport], None],
    ) -> WorkReport:
        """Handle messages, through outages; if stopped during an outage, requeue them.

        ``prepared`` is called once the strategies have been started, or once it is clear that they
        will not be. Entries that cannot be read or stored are dead-lettered after the rest is done.
        """
        report = WorkReport()
        try:
            try:
                batch = read(deliveries)
                report.received = len(batch.due) + len(batch.foreign)
                await self._adopt(batch, stop)
                here, report.forwarded = await self._forwarder.forward(batch, stop)
                takings = await self._take_all(here, batch, stop, report)
                claimed = {each.run_id: each for each in here}
                begun = [await self._begin(*each, claimed) for each in takings]
            finally:
                prepared(report)
            await together(self._end(leased, report) for leased in begun)
        except StoppedError:
            await _requeue(deliveries)
        except Exception:
            logger.exception("a batch of %d messages goes back to its queue", len(deliveries))
            await _requeue(deliveries)
            raise
        else:
            report.unreadable = await self.dead_letters.settle(deliveries, batch.unreadable)
        return report

    async def _adopt(self, batch: Batch, stop: asyncio.Event) -> None:
        """Find or create the rows of runs that an engine has put into the pool itself."""

        async def adopt(some: Sequence[ForeignRun]) -> None:
            adoption = await self._insist(lambda: self._ledger.adopt(some), stop)
            for foreign, due in adoption.due.items():
                batch.due[due.run_id] = (due, batch.foreign[foreign])
            for foreign, reason in adoption.refused.items():
                batch.put_aside(foreign, batch.foreign[foreign], reason)

        async def refuse(foreign: ForeignRun, error: LedgerError) -> None:
            batch.put_aside(foreign, batch.foreign[foreign], str(error))

        if batch.foreign:
            await in_halves(list(batch.foreign), adopt, refuse)

    async def _take_all(
        self, due: Sequence[DueRun], batch: Batch, stop: asyncio.Event, report: WorkReport
    ) -> list[tuple[Taking, float]]:
        """Take the ledger rows, in one call if possible; runs that the ledger refuses are
        unreadable.

        Each taking comes with the end of its lease, on the monotonic clock.
        """

        async def take(some: Sequence[DueRun]) -> tuple[Taking, float]:
            owner = f"{self._name}-{next(self._takings)}"  # the same in every retry
            taking, ends = await self._insist(lambda: self._take(some, owner, report), stop)
            if taking.unknown:
                await self._drop_unknown(taking.unknown, batch, report)
            return taking, ends

        return await in_halves(due, take, batch.refuse) if due else []

    async def _drop_unknown(
        self, unknown: Sequence[DueRun], batch: Batch, report: WorkReport
    ) -> None:
        """Dead-letter runs that the ledger does not have; silently drop those that may have been
        closed and purged.
        """
        kept_since = await self._pool.now() - self._limits.retention
        for each in unknown:
            if each.due_at < kept_since:
                metrics.DROPPED.labels("purged").inc()
                report.dropped += 1
            else:
                batch.put_aside(each, batch.due[each.run_id][1], UNKNOWN)

    async def _take(
        self, due: Sequence[DueRun], owner: str, report: WorkReport
    ) -> tuple[Taking, float]:
        """Take the ledger rows; put runs that are not due now back into the pool."""
        lease_ends = time.monotonic() + self._limits.lease_seconds
        taking = await self._ledger.take(
            due,
            now=await self._pool.now(),
            lease_seconds=self._limits.lease_seconds,
            max_attempts=self._limits.max_attempts,
            ahead_seconds=self._limits.dispatch_ahead,
            owner=owner,
        )
        metrics.LEASE_STEALS.inc(taking.stolen)
        for state, count in taking.dropped.items():
            metrics.DROPPED.labels(state).inc(count)
        for outcome in taking.given_up:
            metrics.OUTCOMES.labels(outcome.node.action, outcome.state).inc()
            log_outcome(outcome)
        report.dropped += sum(taking.dropped.values()) + len(taking.given_up)
        report.later += len(taking.later)
        claimed = {each.run_id: each.lease for each in due}
        await self.recorder.put_back(taking.later, claimed)
        return taking, lease_ends

    async def _begin(
        self, taking: Taking, lease_ends: float, claimed: Mapping[str, DueRun]
    ) -> Leased:
        """Start the attempts, oldest deadline first; runs taken ahead start at their deadline.

        Each attempt belongs to the trace of its message.
        """
        passed = await self._pool.passed()
        leases = {run_id: each.lease for run_id, each in claimed.items()}
        traces = {run_id: each.trace for run_id, each in claimed.items()}
        leased = Leased(owner=taking.owner, lease_ends=lease_ends, claimed=leases)
        for node in sorted(taking.taken, key=lambda node: node.deadline):
            # Redis's time is unknown: hold for the longest a claim can be early.
            early = self._limits.dispatch_ahead if passed is None else node.deadline - passed
            with tracing.within(traces.get(node.run_id)):
                if early > 0:
                    attempt = self._attempts.begin_later(node, lease_ends, taking.owner, early)
                else:
                    attempt = self._attempts.begin(node, lease_ends)
            leased.attempts[node.run_id] = attempt
        self._leases.keep(leased)
        return leased

    async def _end(self, leased: Leased, report: WorkReport) -> None:
        """Record the outcomes of the attempts."""
        try:
            await self.recorder.record_all(leased, report)
        finally:
            self._leases.let_go(leased)


async def _requeue(deliveries: Iterable[Delivery]) -> None:
    for delivery in deliveries:
        await delivery.requeue()
