"""Canary: a run of our own goes the whole way, so that a way that is blocked is seen at once.

One scanner at a time leads (a lease in Redis). Every few seconds it arms a run in each shard of the
pool, due a second later. That run goes through ledger, pool, scanner, RabbitMQ and worker as any
other, but for the engine, which knows nothing of it. How late it was recorded is a metric; so is
that one has not ended. The row of one that has ended is deleted at once.
"""

import asyncio
import itertools
import logging
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

from node_timeout import metrics
from node_timeout.arming.tracker import Tracker
from node_timeout.domain.canary import ROOT, SECONDS, canary
from node_timeout.domain.events import NodeStarted
from node_timeout.domain.run import CLOSED, LedgerRow, RunState
from node_timeout.ports.directory import RunFilter
from node_timeout.ports.ledger import Ledger, Retention
from node_timeout.ports.pool import Pool
from node_timeout.runtime.loop import Health, repeat, sleep

logger = logging.getLogger(__name__)

ROLE = "canary"
TICK_SECONDS = 2.0
AT_ONCE = 500
"""So many are looked at in a pass."""
MISSED_SECONDS = 60.0
"""A canary that has not ended so long after its deadline is not waited for any longer."""
NOTHING_STAYS = Retention(handled_seconds=0.0, cancelled_seconds=0.0, dead_seconds=0.0)


@dataclass(slots=True, kw_only=True)
class CanaryReport:
    """What one pass did."""

    leading: bool = True
    armed: int = 0
    ended: int = 0
    missed: int = 0


class Canary:
    """Arms canaries, and measures how they end."""

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
        """``interval`` is how often each shard gets one, seconds."""
        self._ledger = ledger
        self._pool = pool
        self._tracker = tracker
        self._name = name
        self._lease_seconds = lease_seconds
        self._interval = interval
        self._next_at = -math.inf
        """On this host's monotonic clock."""
        self._awaited: dict[str, tuple[int, float]] = {}
        """Shard and deadline of each canary that has not ended, by run id."""
        self._lateness: dict[int, float] = {}
        """Of the last one of each shard."""

    async def run(self, stop: asyncio.Event, health: Health) -> None:
        """Send canaries until stopped."""

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
        """One pass: look at those that are under way, and send new ones if it is time.

        Raises `PoolUnavailableError`, `LedgerUnavailableError`; what is under way is looked at in
        the next pass.
        """
        report = CanaryReport()
        if not await self._pool.lead(ROLE, self._name, self._lease_seconds):
            report.leading = False
            self._awaited.clear()
            self._lateness.clear()
            self._next_at = -math.inf
            return report
        if self._next_at == -math.inf:
            self._begin_to_lead(await self._pool.now())
        is_time = time.monotonic() >= self._next_at
        if self._awaited or is_time:
            await self._look(report)
        if is_time:
            self._next_at = time.monotonic() + self._interval
            await self._send(report)
        return report

    def _begin_to_lead(self, now: float) -> None:
        """From now on the silence of each shard counts."""
        for shard in range(self._pool.homes):
            metrics.CANARY_LAST.labels(shard).set(now)
            metrics.CANARY_MISSED.labels(shard)  # a first miss must be seen as an increase

    async def _send(self, report: CanaryReport) -> None:
        """One to each shard. What the pool misses is late, as it would be for an engine's run."""
        now = await self._pool.now()
        starts = self._one_for_each_shard(now)
        await self._tracker.started(starts, now)
        for shard, start in enumerate(starts):
            self._awaited[start.run.run_id] = shard, now + SECONDS
        report.armed += len(starts)

    def _one_for_each_shard(self, now: float) -> list[NodeStarted]:
        """A version decides which shard a run is in."""
        return [
            next(
                each for each in _versions(shard, now) if self._pool.home(each.run.run_id) == shard
            )
            for shard in range(self._pool.homes)
        ]

    async def _look(self, report: CanaryReport) -> None:
        """Also at those that were given up here, or sent by a leader that is gone: they end too."""
        now = await self._pool.now()
        page = await self._ledger.find(RunFilter(root_pipeline_id=ROOT), AT_ONCE)
        closed = [row for row in page.rows if row.state in CLOSED]
        for row in closed:
            shard, deadline = self._awaited.pop(row.run_id, (None, 0.0))
            if shard is None:
                continue
            if row.state is RunState.HANDLED and row.finished_at is not None:
                self._ended(row, shard, max(0.0, row.finished_at - deadline))
                report.ended += 1
            else:
                self._missed(shard, f"ended as {row.state}: {row.message}")
                report.missed += 1
        overdue = [each for each, (_, at) in self._awaited.items() if at + MISSED_SECONDS < now]
        for run_id in overdue:
            shard, _ = self._awaited.pop(run_id)
            self._missed(shard, f"did not end within {MISSED_SECONDS:g} s of its deadline")
            report.missed += 1
        if closed:
            # Its worker's clock may be a little ahead.
            await self._ledger.purge([row.run_id for row in closed], now + SECONDS, NOTHING_STAYS)

    def _ended(self, row: LedgerRow, shard: int, late: float) -> None:
        metrics.CANARY_LATENESS.labels(shard).observe(late)
        metrics.CANARY_LAST.labels(shard).set(row.finished_at or 0.0)
        self._lateness[shard] = late

    def _missed(self, shard: int, why: str) -> None:
        metrics.CANARY_MISSED.labels(shard).inc()
        logger.warning("the canary of shard %d %s", shard, why, extra={"shard": shard})


def _versions(shard: int, now: float) -> Iterator[NodeStarted]:
    return (canary(shard, f"{now:.3f}-{i}") for i in itertools.count())
