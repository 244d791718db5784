"""Canary: a run of our own in each shard shows whether deadlines are dealt with at all.

One scanner at a time leads (a lease in Redis). Every few seconds it arms a run in each shard of the
pool, due a second later. That run passes through ledger, pool, scanner, RabbitMQ and worker like
any other, but not through the engine, which does not know it. A metric shows how late it was
recorded.

Each shard always uses the same run. Its row stays until the canary is sent again, so that a message
that comes twice still finds it. A canary that has not ended is not sent again, so that canaries
never pile up.
"""

import asyncio
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

from node_timeout import metrics
from node_timeout.arming.tracker import Tracker
from node_timeout.domain.canary import SECONDS, canaries
from node_timeout.domain.run import CLOSED, LedgerRow, RunState
from node_timeout.ports.ledger import Ledger, Retention
from node_timeout.ports.pool import Pool
from node_timeout.runtime.loop import Health, repeat, sleep

logger = logging.getLogger(__name__)

ROLE = "canary"
TICK_SECONDS = 2.0
LEAD_TICKS = 5
"""A leader lease lasts at least this many ticks; else two scanners would take turns."""
MISSED_SECONDS = 60.0
"""A canary that has not ended this long after its deadline counts as missed."""
NOTHING_STAYS = Retention(handled_seconds=0.0, cancelled_seconds=0.0, dead_seconds=0.0)


@dataclass(slots=True, kw_only=True)
class CanaryReport:
    """What one pass did."""

    leading: bool = True
    armed: int = 0
    ended: int = 0
    missed: int = 0


class Canary:
    """Arms canaries, and measures how late they end."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        pool: Pool,
        tracker: Tracker,
        name: str,
        lease_seconds: float,
        interval: float,
    ) -> None:
        """``interval``: seconds between two canaries of a shard."""
        self._ledger = ledger
        self._pool = pool
        self._tracker = tracker
        self._name = name
        self._lead_seconds = max(lease_seconds, LEAD_TICKS * TICK_SECONDS)
        self._interval = interval
        self._starts = canaries(pool.homes, pool.home)
        self._ids = [start.run.run_id for start in self._starts]
        self._next_at = -math.inf
        """On this host's monotonic clock."""
        self._is_awaiting = False
        """True while a canary is under way."""
        self._judged: dict[int, float | None] = {}
        """By shard: the deadline of the last canary whose end was seen; None: none was seen yet."""
        self._missed: dict[int, float | None] = {}
        """By shard: the deadline of the last canary that was counted as missed."""
        self._lateness: dict[int, float] = {}
        """By shard: the lateness of its last canary, seconds."""

    async def run(self, stop: asyncio.Event, health: Health) -> None:
        """Send canaries until stopped."""
        metrics.CANARY_INTERVAL.set(self._interval)

        async def step() -> None:
            report = await self.once()
            health.doing = lambda: self._doing(report)
            await sleep(TICK_SECONDS, stop)

        await repeat(step, stop=stop, health=health)
        await self._pool.resign(ROLE, self._name)

    def _doing(self, report: CanaryReport) -> str:
        if not report.leading:
            return "another one leads"
        if not self._lateness:
            return "leading; no canary has ended yet"
        return f"leading; the last canaries were late by {max(self._lateness.values()):.3f} s"

    async def once(self) -> CanaryReport:
        """One pass: check the canaries under way; if it is time, send those again that have ended.

        Raises `PoolUnavailableError`, `LedgerUnavailableError`; the next pass checks again.
        """
        report = CanaryReport()
        if not await self._pool.lead(ROLE, self._name, self._lead_seconds):
            report.leading = self._is_awaiting = False
            self._judged.clear()
            self._lateness.clear()
            self._next_at = -math.inf
            return report
        is_time = time.monotonic() >= self._next_at
        if self._is_awaiting or is_time:
            ended = await self._look(report)
            if is_time:
                await self._send(ended, report)
                self._next_at = time.monotonic() + self._interval
        return report

    async def _look(self, report: CanaryReport) -> list[int]:
        """The shards whose canary is not under way."""
        now = await self._pool.now()
        rows = {row.run_id: row for row in await self._ledger.rows_of(self._ids)}
        ended: list[int] = []
        for shard, run_id in enumerate(self._ids):
            row = rows.get(run_id)
            if row is None:
                self._silent_since(shard, now)
                self._judged.setdefault(shard, None)
                ended.append(shard)
            elif row.state in CLOSED:
                self._judge(shard, row, now, report)
                ended.append(shard)
            else:
                self._await(shard, row, now, report)
        self._is_awaiting = len(ended) < len(self._ids)
        return ended

    def _silent_since(self, shard: int, at: float) -> None:
        """Start the shard's metrics at this instant, unless this process has set them already."""
        if shard not in self._missed:
            self._missed[shard] = None
            metrics.CANARY_LAST.labels(shard).set(at)
            metrics.CANARY_MISSED.labels(shard)  # a first miss must be seen as an increase

    def _judge(self, shard: int, row: LedgerRow, now: float, report: CanaryReport) -> None:
        """Count an ended canary once. If it ended before this process led, note only when."""
        is_new = self._judged.setdefault(shard, row.deadline) != row.deadline
        self._judged[shard] = row.deadline
        self._silent_since(shard, now if row.finished_at is None else row.finished_at)
        if row.state is not RunState.HANDLED or row.finished_at is None:
            if is_new:
                self._miss(shard, row, f"ended as {row.state}: {row.message}", report)
            return
        metrics.CANARY_LAST.labels(shard).set(row.finished_at)
        if is_new:
            late = max(0.0, row.finished_at - (row.deadline or 0.0))
            metrics.CANARY_LATENESS.labels(shard).observe(late)
            self._lateness[shard] = late
            report.ended += 1

    def _await(self, shard: int, row: LedgerRow, now: float, report: CanaryReport) -> None:
        """Check a canary that is under way; the one before it had ended when this one was due."""
        deadline = now if row.deadline is None else row.deadline
        self._judged.setdefault(shard, None)
        self._silent_since(shard, min(now, deadline))
        if now > deadline + MISSED_SECONDS:
            self._miss(shard, row, f"has not ended {MISSED_SECONDS:g} s after its deadline", report)

    def _miss(self, shard: int, row: LedgerRow, why: str, report: CanaryReport) -> None:
        if self._missed.get(shard) != row.deadline:
            self._missed[shard] = row.deadline
            metrics.CANARY_MISSED.labels(shard).inc()
            logger.warning("the canary of shard %d %s", shard, why, extra={"shard": shard})
            report.missed += 1

    async def _send(self, shards: Sequence[int], report: CanaryReport) -> None:
        """Send a canary to each of these shards. If the pool misses it, it is late like any run."""
        if not shards:
            return
        now = await self._pool.now()
        ids = [self._ids[shard] for shard in shards]
        # A member whose row is gone would be a dead letter.
        await self._pool.disarm(ids)
        await self._ledger.purge(ids, now + SECONDS, NOTHING_STAYS)  # workers' clocks run ahead
        self._is_awaiting = True
        starts = [self._starts[shard] for shard in shards]
        report.armed += await self._tracker.started(starts, now)
