"""Reconciler: ledger → pool. Arms runs again that the pool has lost, from the ledger.

One scanner at a time leads (a lease in Redis). It has four tasks. Each has its own interval, does
one bounded page per pass, and continues page after page while there is more:

    sweep    armed rows that are due soon, or after a loss of data all of them
    rescue   rows whose worker has vanished: their lease ended long ago
    look     rows that have just become overdue, while nothing waits in the queues
    purge    closed rows past their retention, and configs whose root pipeline ended long ago

Rows that are due after the sweep after next are not read now: a million distant deadlines cost
nothing. After a loss of data everything is put back at once, oldest first.

An overdue row that is absent from the pool may be waiting in a queue, however long it is overdue.
Unless Redis has just lost data, the sweep arms it only if it was also absent in a check
``redispatch_after`` seconds earlier, so that a backlog does not feed itself; the next wait is twice
as long (see `redispatch`). The same waits apply between rescues of one run; its first rescue does
not wait. While the queues are empty, no row waits in one; then two looks a few seconds apart are
enough.
"""

import asyncio
import logging
import random
import time
from collections.abc import Collection

from node_timeout import metrics
from node_timeout.dispatch.purging import purge
from node_timeout.dispatch.redispatch import Redispatch
from node_timeout.dispatch.reports import ReconcileReport
from node_timeout.domain.errors import ExchangeUnavailableError
from node_timeout.domain.run import DueRun
from node_timeout.ports.exchange import Exchange
from node_timeout.ports.ledger import Ledger, Retention
from node_timeout.ports.pool import Pool
from node_timeout.runtime.loop import Health, repeat, sleep

logger = logging.getLogger(__name__)

ROLE = "reconciler"
BATCH_SIZE = 500
TICK_SECONDS = 1.0
BUSY_SECONDS = 0.1
"""Longest pause between two pages; the pause is random, to limit the load on the database."""
SWEEP_SECONDS = 60.0
"""About how long a sweep may take and still see each row before it is due."""
BEHIND_SECONDS = 5.0
"""How much later than its row, beyond one lease, a score may be: for clocks and retries."""
LOOK_SECONDS = 5.0
"""The interval between two looks; and how long a row must be overdue to be in one."""


class Reconciler:
    """Puts back runs that the pool has lost, and deletes rows and configs past their retention."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        pool: Pool,
        exchange: Exchange,
        queues: Collection[str],
        name: str,
        lease_seconds: float,
        redispatch_after: float,
        dispatch_ahead: float = 0.0,
        sweep_pause: float,
        retention: Retention,
    ) -> None:
        """``queues``: the queues in which a node run may wait for a worker."""
        self._ledger = ledger
        self._pool = pool
        self._exchange = exchange
        self._queues = queues
        self._name = name
        self._lease_seconds = lease_seconds
        self._redispatch_after = redispatch_after
        self._dispatch_ahead = dispatch_ahead
        self._sweep_pause = sweep_pause
        self._retention = retention
        self._cursor: DueRun | None = None
        self._data_lost = False
        self._all_swept = False
        """The last sweep has reached its end."""
        self._rescue_cursor: DueRun | None = None
        self._redispatch = Redispatch(redispatch_after)
        """The waits of overdue runs that were not in the pool."""
        self._missing: frozenset[DueRun] = frozenset()
        """Overdue runs that the last look did not find in the pool."""
        # All on this host's monotonic clock.
        self._renew_lead_at = self._next_sweep_at = self._next_rescue_at = 0.0
        self._next_look_at = self._next_purge_at = 0.0

    async def run(self, stop: asyncio.Event, health: Health) -> None:
        """Reconcile until stopped; after a loss of data, without a pause until all is armed."""

        async def step() -> None:
            report = await self.once()
            health.doing = lambda: "leading" if report.leading else "another one leads"
            if not (report.data_lost and not report.swept):
                await sleep(random.random() * BUSY_SECONDS if report.more else TICK_SECONDS, stop)

        await repeat(step, stop=stop, health=health)
        await self._pool.resign(ROLE, self._name)

    async def once(self) -> ReconcileReport:
        """One pass: at most `BATCH_SIZE` rows of each task.

        Raises `PoolUnavailableError`, `LedgerUnavailableError`; the next pass then starts where
        this one started.
        """
        report = ReconcileReport()
        report.leading = await self._leads()
        if not report.leading:
            self._cursor, self._data_lost, self._missing = None, False, frozenset()
            self._rescue_cursor = None
            self._redispatch.clear()
            return report
        if not self._data_lost and await self._pool.may_have_lost_data():
            logger.info("Redis is new or was restarted: looking for open node runs that it lacks")
            self._data_lost, self._all_swept, self._cursor = True, False, None
            self._next_sweep_at = 0.0
        report.data_lost = self._data_lost
        clock = time.monotonic
        if self._cursor is not None or clock() >= self._next_sweep_at:
            self._next_sweep_at = self._next(await self._sweep(report), self._sweep_pause, report)
            report.swept = self._all_swept = self._cursor is None
            if report.swept:
                self._redispatch.forget_found(self._sweep_pause)
        if self._data_lost:
            await self._put_back_the_rest(report)
        elif clock() >= self._next_rescue_at:
            self._next_rescue_at = self._next(await self._rescue(report), self._sweep_pause, report)
        if clock() >= self._next_purge_at:
            is_full = await purge(self._ledger, self._pool, self._retention, BATCH_SIZE, report)
            self._next_purge_at = self._next(is_full, self._sweep_pause, report)
        if clock() >= self._next_look_at and not self._data_lost:
            await self._look(report)
            self._next_look_at = clock() + LOOK_SECONDS
        return report

    async def _put_back_the_rest(self, report: ReconcileReport) -> None:
        """After a loss of data: once all armed rows are swept, rescue every expired lease."""
        report.swept = self._all_swept and not await self._rescue(report)
        if report.swept:
            await self._pool.mark_reconciled()
            self._data_lost = False

    @staticmethod
    def _next(is_full: bool, pause: float, report: ReconcileReport) -> float:
        """When a task runs next: at once if its page was full, else after ``pause``."""
        report.more |= is_full
        return 0.0 if is_full else time.monotonic() + pause

    async def _leads(self) -> bool:
        """Whether this process leads; asks Redis, except in the first third of its own lease."""
        now = time.monotonic()
        if self._data_lost or now >= self._renew_lead_at:  # the leader lease may be lost as well
            leading = await self._pool.lead(ROLE, self._name, self._lease_seconds)
            self._renew_lead_at = now + self._lease_seconds / 3 if leading else 0.0
            return leading
        return True

    async def _sweep(self, report: ReconcileReport) -> bool:
        """Check one page of armed rows; return whether it was full."""
        now = await self._pool.now()
        soon = None if self._data_lost else now + 2 * (self._sweep_pause + SWEEP_SECONDS)
        page = await self._ledger.open_runs(self._cursor, BATCH_SIZE, soon)
        await self._rearm_absent(page, now, report)
        is_full = len(page) == BATCH_SIZE
        self._cursor = page[-1] if is_full else None
        return is_full

    async def _rearm_absent(self, page: list[DueRun], now: float, report: ReconcileReport) -> None:
        report.checked += len(page)
        waiting = 0.0 if self._data_lost else self._redispatch_after
        # Rows that have just become overdue, or were checked a moment ago, are skipped: see the
        # module's docstring. So are those about to fall due: they may be under way already.
        far = now if self._data_lost else now + self._dispatch_ahead
        suspects = [due for due in page if due.due_at > far or due.due_at <= now - waiting]
        missing, late = await self._behind(suspects)
        if not self._data_lost:
            overdue = self._redispatch.over(
                (due for due in missing if due.due_at <= now), at_first=False
            )
            missing = [due for due in missing if due.due_at > now] + overdue
        await self._rearm(
            missing + late, report, logging.WARNING if self._data_lost else logging.INFO
        )

    async def _rescue(self, report: ReconcileReport) -> bool:
        """Check one page of expired leases; return whether it was full."""
        now = await self._pool.now()
        waiting = self._lease_seconds if self._data_lost else self._redispatch_after
        page = await self._ledger.expired_runs(now - waiting, BATCH_SIZE, self._rescue_cursor)
        missing, late = await self._behind(page)
        missing += late
        if not self._data_lost:
            missing = self._redispatch.over(missing, at_first=True)
        await self._rearm([DueRun(run_id=due.run_id, due_at=now) for due in missing], report)
        report.rescued += len(page)
        is_full = len(page) == BATCH_SIZE
        self._rescue_cursor = page[-1] if is_full else None
        return is_full

    async def _look(self, report: ReconcileReport) -> None:
        """Arm overdue runs whose score is too late, and those absent both now and at the last look
        if no queue can hold them.
        """
        now = await self._pool.now()
        page = await self._ledger.open_runs(None, BATCH_SIZE, now - LOOK_SECONDS)
        missing, late = await self._behind(page)
        if missing and await self._something_waits():
            missing = []
        await self._rearm([due for due in missing if due in self._missing] + late, report)
        self._missing = frozenset(missing) - self._missing

    async def _something_waits(self) -> bool:
        """Whether a queue has messages; also true if the broker does not answer."""
        try:
            for queue in self._queues:
                if await self._exchange.waiting(queue):
                    return True
        except ExchangeUnavailableError as error:
            logger.debug("the queues may hold what is overdue: %s", error)
            return True
        return False

    async def _behind(self, page: list[DueRun]) -> tuple[list[DueRun], list[DueRun]]:
        """The runs that are absent from the pool, and those whose score there is too late."""
        if not page:
            return [], []
        behind = await self._pool.behind(page, self._lease_seconds + BEHIND_SECONDS)
        return (
            [due for due in page if due.run_id in behind.absent],
            [due for due in page if due.run_id in behind.late],
        )

    async def _rearm(
        self, due: list[DueRun], report: ReconcileReport, level: int = logging.INFO
    ) -> None:
        if due:
            rearmed = await self._pool.lower(due)
            report.rearmed += rearmed
            metrics.REARMED.inc(rearmed)
            text = "%d node runs were missing in the pool and are armed again"
            logger.log(level if rearmed else logging.INFO, text, rearmed)
