"""Recorder: outcomes → ledger, and retries → pool.

Outcomes are written while their lease holds, in groups as they come. A text that the database
cannot store does not affect other outcomes: it is written separately, in ASCII.
"""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from node_timeout import metrics
from node_timeout.domain.errors import LedgerError, PoolUnavailableError, TemporaryError
from node_timeout.domain.run import DueRun, Outcome, RunState
from node_timeout.handling.attempt import Limits
from node_timeout.handling.leases import Leased
from node_timeout.handling.outcomes import MAX_MESSAGE_LENGTH, ids_of
from node_timeout.ports.ledger import Ledger
from node_timeout.ports.pool import Pool
from node_timeout.runtime.halving import in_halves
from node_timeout.runtime.loop import Backoff, Health

logger = logging.getLogger(__name__)

RECORD_EVERY_SECONDS = 0.05


@dataclass(slots=True, kw_only=True)
class WorkReport:
    """The results of one batch, in node runs."""

    received: int = 0
    unreadable: int = 0
    forwarded: int = 0
    later: int = 0
    dropped: int = 0
    late: int = 0
    outcomes: dict[RunState, int] = field(default_factory=dict)


class Recorder:
    """Writes outcomes, any number of groups at once."""

    def __init__(self, *, ledger: Ledger, pool: Pool, limits: Limits) -> None:
        self._ledger = ledger
        self._pool = pool
        self._limits = limits
        self._must_end = asyncio.Event()
        self.health = Health(name="worker")
        """Counts outages; the code that runs the worker sets its own `Health` here."""

    def end(self) -> None:
        """Cancel the strategies that still run, and put their nodes back."""
        self._must_end.set()

    async def record_all(self, leased: Leased, report: WorkReport) -> None:
        """Record the outcomes in groups as they come."""
        running = set(leased.attempts.values())
        try:
            while running:
                done, running = await asyncio.wait(running, timeout=RECORD_EVERY_SECONDS)
                if self._must_end.is_set():
                    for task in running:
                        task.cancel()
                outcomes = [outcome for task in done if (outcome := task.result())]
                if outcomes:
                    await self._record(outcomes, leased, report)
        finally:
            for task in running:
                task.cancel()

    async def _record(
        self, outcomes: Sequence[Outcome], leased: Leased, report: WorkReport
    ) -> None:
        """Write outcomes; if the database refuses a group, halve it, down to single outcomes."""

        async def record(some: Sequence[Outcome]) -> None:
            recorded = await self._write(some, leased)
            for outcome in some:
                leased.attempts.pop(outcome.node.run_id, None)
            await self._recorded(some, recorded, leased, report)

        async def refused(outcome: Outcome, error: LedgerError) -> None:
            plain = _in_ascii(outcome)
            if plain == outcome:
                raise error
            logger.warning("node %s: its text is recorded in ASCII: %s", plain.node.node_id, error)
            await record([plain])

        await in_halves(outcomes, record, refused)

    async def _write(self, outcomes: Sequence[Outcome], leased: Leased) -> int:
        """Write outcomes, with retries through outages for as long as the lease holds."""
        backoff = Backoff()
        while True:
            now = await self._pool.now()
            try:
                recorded = await self._ledger.record(outcomes, owner=leased.owner, now=now)
                break
            except TemporaryError as error:
                self.health.failed(error)
                if time.monotonic() > leased.lease_ends:
                    raise
            await asyncio.sleep(max(0.02, backoff.seconds(self.health.failures)))
        if self.health.failures:
            self.health.succeeded()
        return recorded

    async def _recorded(
        self, outcomes: Sequence[Outcome], recorded: int, leased: Leased, report: WorkReport
    ) -> None:
        """Count and log outcomes; put retries into the pool."""
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
        # Scanners claim every instant ahead of time; workers can take only a deadline ahead.
        again = [
            DueRun(
                run_id=each.node.run_id,
                due_at=each.due_at + (0.0 if each.extend_by else self._limits.dispatch_ahead),
            )
            for each in outcomes
            if each.due_at is not None
        ]
        await self.put_back(again, leased.claimed)

    async def put_back(self, due: Sequence[DueRun], claimed: Mapping[str, float | None]) -> None:
        """Put runs into the pool at these instants; the reconciler repairs a failure, as the ledger
        has them.

        ``claimed``: by run id, the lease under which its message was sent.
        """
        if not due:
            return
        try:
            await self._pool.put_back(
                [replace(each, lease=claimed.get(each.run_id)) for each in due]
            )
        except PoolUnavailableError as error:
            logger.warning("%d node runs wait for the reconciler: %s", len(due), error)


def _in_ascii(outcome: Outcome) -> Outcome:
    text = outcome.message.encode("ascii", "backslashreplace").decode()
    return replace(outcome, message=text[:MAX_MESSAGE_LENGTH])
