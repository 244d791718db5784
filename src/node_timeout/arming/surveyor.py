"""Surveyor: engine → ledger. Asks the engine for running nodes, and arms runs whose event was lost.

An engine may crash after a node enters RUNNING and before it sends the event, or send it while the
database is down. One worker at a time leads (a lease in Redis) and walks the configs of root
pipelines that have not ended, one bounded page per pass. It arms the runs that the engine says are
running and that the ledger does not know, or believes to have ended. Their deadline counts from the
start that the engine names.

So the cost of a round depends on the pipelines under way. bamboo cannot be asked for all running
nodes: it has no index for that, and keeps the states of all pipelines for ever.
"""

import asyncio
import logging
import time
from dataclasses import dataclass, replace

from node_timeout import metrics
from node_timeout.arming.tracker import Tracker
from node_timeout.domain.errors import EngineUnavailableError
from node_timeout.domain.events import NodeStarted
from node_timeout.domain.run import Node
from node_timeout.ports.engine import SurveyableEngine
from node_timeout.ports.ledger import Ledger
from node_timeout.ports.pool import Pool
from node_timeout.runtime.loop import Health, repeat, sleep, unless_stopped

logger = logging.getLogger(__name__)

ROLE = "surveyor"
BATCH_SIZE = 500
TICK_SECONDS = 1.0
ANSWER_SECONDS = 30.0
EVENT_SECONDS = 10.0
"""Younger runs are skipped: their event may still be on its way."""


@dataclass(slots=True, kw_only=True)
class SurveyReport:
    """What one pass found."""

    leading: bool = True
    asked: int = 0
    """Nodes that the engine was asked about."""
    armed: int = 0
    surveyed: bool = False
    """The pass reached the last config."""


class Surveyor:
    """Asks the engine for node runs that the ledger has missed."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        pool: Pool,
        engine: SurveyableEngine,
        tracker: Tracker,
        name: str,
        lease_seconds: float,
        pause: float,
    ) -> None:
        """``pause``: seconds between two surveys."""
        self._ledger = ledger
        self._pool = pool
        self._engine = engine
        self._tracker = tracker
        self._name = name
        self._lease_seconds = lease_seconds
        self._pause = pause
        self._cursor: Node | None = None
        self._next_at = 0.0
        """On this host's monotonic clock."""

    async def run(self, stop: asyncio.Event, health: Health) -> None:
        async def step() -> None:
            report = await unless_stopped(self.once(), stop)
            if report:
                health.doing = lambda: "leading" if report.leading else "another one leads"
            await sleep(TICK_SECONDS, stop)

        await repeat(step, stop=stop, health=health)
        await self._pool.resign(ROLE, self._name)

    async def once(self) -> SurveyReport:
        """One pass: at most `BATCH_SIZE` configs.

        Raises `PoolUnavailableError`, `LedgerUnavailableError`, `EngineUnavailableError`; the next
        pass then starts where this one started.
        """
        report = SurveyReport()
        if not await self._pool.lead(ROLE, self._name, self._lease_seconds):
            self._cursor, report.leading = None, False
            return report
        if time.monotonic() < self._next_at:
            return report
        nodes = await self._ledger.configured(self._cursor, BATCH_SIZE)
        if nodes:
            await self._survey(nodes, report)
        report.surveyed = len(nodes) < BATCH_SIZE
        self._cursor = None if report.surveyed else nodes[-1]
        if report.surveyed:
            self._next_at = time.monotonic() + self._pause
        return report

    async def _survey(self, nodes: list[Node], report: SurveyReport) -> None:
        now = await self._pool.now()
        configured = set(nodes)
        running = {
            event.run: replace(event, seen_at=now)
            for event in await self._ask(nodes)
            if event.node in configured and event.started_at(now) <= now - EVENT_SECONDS
        }
        missed = await self._ledger.untracked(list(running)) if running else []
        report.asked += len(nodes)
        report.armed += await self._tracker.started([running[run] for run in missed], now)
        if report.armed:
            metrics.SURVEYED.inc(report.armed)
            logger.warning(
                "%d node runs are running in the engine and were not armed; they are now, "
                "node %s among them",
                report.armed,
                missed[0].node_id,
            )

    async def _ask(self, nodes: list[Node]) -> list[NodeStarted]:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await self._engine.running(nodes)
        except TimeoutError as error:
            raise EngineUnavailableError(f"no answer within {ANSWER_SECONDS:g} s") from error
