"""Reconciler: ledger → pool. What the pool has lost is armed again from the ledger.

One scanner at a time leads (a lease in Redis) and goes round:

    idle ──pause over──▶ sweep of what is due soon ──▶ expired leases ──▶ idle
      └────data lost───▶ sweep of all armed rows ─────────▶ as above

What is due later than the sweep after next needs no look now: a million deadlines that are far away
cost nothing. After a loss of data everything is put back at once, oldest first.

A row that is overdue and absent may be waiting in a queue, however long it has been overdue. Unless
Redis has just lost data it is armed again at the second look only, so that a backlog does not feed
itself: each look is ``redispatch_after`` seconds past its ``due_at``, and moves that to now.
"""

import asyncio
import logging
import time
from dataclasses import dataclass

from node_timeout import metrics
from node_timeout.node import DueRun
from node_timeout.ports import Ledger, Pool, Retention
from node_timeout.service import Health, repeat, sleep

logger = logging.getLogger(__name__)

ROLE = "reconciler"
BATCH_SIZE = 500
TICK_SECONDS = 1.0
SWEEP_SECONDS = 60.0
"""How long a sweep may take, about, and still see each row before it is due."""


@dataclass(slots=True, kw_only=True)
class ReconcileReport:
    """What one pass did, in node runs."""

    leading: bool = True
    data_lost: bool = False
    """This pass is part of a sweep after a loss of Redis's data."""
    checked: int = 0
    rearmed: int = 0
    purged: int = 0
    swept: bool = False
    """The end of the ledger was reached."""


class Reconciler:
    """Sweeps the open ledger rows, a bounded batch a pass, and purges the closed ones."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        pool: Pool,
        name: str,
        lease_seconds: float,
        redispatch_after: float,
        dispatch_ahead: float = 0.0,
        sweep_pause: float,
        retention: Retention,
    ) -> None:
        self._ledger = ledger
        self._pool = pool
        self._name = name
        self._lease_seconds = lease_seconds
        self._redispatch_after = redispatch_after
        self._dispatch_ahead = dispatch_ahead
        self._sweep_pause = sweep_pause
        self._retention = retention
        self._cursor: DueRun | None = None
        self._data_lost = False
        self._renew_lead_at = 0.0
        self._next_sweep_at = 0.0
        self._next_purge_at = 0.0
        """All on this host's monotonic clock."""

    async def run(self, stop: asyncio.Event, health: Health) -> None:
        """Reconcile until stopped; after a loss of data without pause until all is armed."""

        async def step() -> None:
            report = await self.once()
            if not (report.data_lost and not report.swept):
                await sleep(TICK_SECONDS, stop)

        await repeat(step, stop=stop, health=health)
        await self._pool.resign(ROLE, self._name)

    async def once(self) -> ReconcileReport:
        """One pass: at most `BATCH_SIZE` rows checked and as many purged.

        Raises `PoolUnavailableError`, `LedgerUnavailableError`; the next pass goes on where this
        one began.
        """
        report = ReconcileReport()
        report.leading = await self._leads()
        if not report.leading:
            self._cursor, self._data_lost = None, False
            return report
        if not self._data_lost and await self._pool.may_have_lost_data():
            logger.warning("Redis is new or has lost data: arming every open node run again")
            self._data_lost, self._cursor, self._next_sweep_at = True, None, 0.0
        report.data_lost = self._data_lost
        if self._cursor is not None or time.monotonic() >= self._next_sweep_at:
            await self._sweep(report)
        if time.monotonic() >= self._next_purge_at:
            now = await self._pool.now()
            report.purged = await self._ledger.purge(now, self._retention, BATCH_SIZE)
            metrics.PURGED.inc(report.purged)
            pause = 0.0 if report.purged >= BATCH_SIZE else self._sweep_pause
            self._next_purge_at = time.monotonic() + pause
        return report

    async def _leads(self) -> bool:
        """Ask Redis, but for the first third of a lead that this one has."""
        now = time.monotonic()
        if self._data_lost or now >= self._renew_lead_at:  # the lead may be lost as well
            leading = await self._pool.lead(ROLE, self._name, self._lease_seconds)
            self._renew_lead_at = now + self._lease_seconds / 3 if leading else 0.0
            return leading
        return True

    async def _sweep(self, report: ReconcileReport) -> None:
        """One batch of armed rows; behind the last of them the expired leases."""
        now = await self._pool.now()
        soon = None if self._data_lost else now + 2 * (self._sweep_pause + SWEEP_SECONDS)
        page = await self._ledger.open_runs(self._cursor, BATCH_SIZE, soon)
        await self._rearm_absent(page, now, report)
        if len(page) == BATCH_SIZE:
            self._cursor = page[-1]
            return
        waiting = self._lease_seconds if self._data_lost else self._redispatch_after
        expired = await self._ledger.expired_runs(now - waiting, BATCH_SIZE)
        if expired:
            await self._ledger.postpone([due.run for due in expired], now)
        await self._rearm(expired, report)
        if len(expired) == BATCH_SIZE:
            return
        if self._data_lost:
            await self._pool.mark_reconciled()
            self._data_lost = False
        report.swept = True
        self._cursor = None
        self._next_sweep_at = time.monotonic() + self._sweep_pause

    async def _rearm_absent(self, page: list[DueRun], now: float, report: ReconcileReport) -> None:
        report.checked += len(page)
        waiting = 0.0 if self._data_lost else self._redispatch_after
        # Rows that are just overdue, or were looked at a moment ago, are left alone: see the
        # module's docstring. So are those about to fall due: they may be under way already.
        far = now if self._data_lost else now + self._dispatch_ahead
        suspects = [due for due in page if due.due_at > far or due.due_at <= now - waiting]
        absent = set(await self._pool.absent([due.run for due in suspects]))
        missing = [due for due in suspects if due.run in absent]
        if not self._data_lost:
            overdue = [due.run for due in missing if due.due_at <= now]
            again = set(await self._ledger.postpone(overdue, now)) if overdue else set()
            missing = [due for due in missing if due.due_at > now or due.run in again]
        await self._rearm(missing, report)

    async def _rearm(self, due: list[DueRun], report: ReconcileReport) -> None:
        if due:
            rearmed = await self._pool.arm(due)
            report.rearmed += rearmed
            metrics.REARMED.inc(rearmed)
            logger.info("%d node runs were missing in the pool and are armed again", rearmed)
