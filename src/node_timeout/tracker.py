"""Tracker: state events of the engine → ledger, then pool.

The ledger comes first and is enough: what the pool misses, the reconciler puts right.
"""

import logging
from collections.abc import Sequence

from node_timeout import metrics
from node_timeout.errors import PoolUnavailableError
from node_timeout.events import NodeLeft, NodeStarted
from node_timeout.node import NodeRun
from node_timeout.ports import Ledger, Pool

logger = logging.getLogger(__name__)


class Tracker:
    """Arms node runs that enter RUNNING, disarms nodes that leave it."""

    def __init__(self, *, ledger: Ledger, pool: Pool) -> None:
        self._ledger = ledger
        self._pool = pool

    async def nodes_started(self, events: Sequence[NodeStarted]) -> int:
        """Arm the runs whose nodes have a config; return how many are armed.

        Raises `LedgerUnavailableError` (nothing is armed then). Without Redis it succeeds: the
        reconciler arms them later.
        """
        armed = await self._ledger.arm(events, await self._pool.now()) if events else []
        if armed:
            metrics.ARMED_TOTAL.inc(len(armed))
            try:
                await self._pool.arm(armed)
            except PoolUnavailableError as error:
                self._missed("armed", [due.run for due in armed], error)
        return len(armed)

    async def nodes_left(self, events: Sequence[NodeLeft]) -> int:
        """Disarm every armed version of the nodes; return how many runs the ledger cancelled.

        Versions that started after the event are left alone: it came late. A run named with its
        version leaves the pool also if the ledger does not know it, as when the engine fills the
        pool itself. Raises `LedgerUnavailableError`.
        """
        cancelled, _ = await self._leave(events)
        return cancelled

    async def cancel(self, event: NodeLeft) -> int:
        """As `nodes_left`, but a run that only the pool knew counts too."""
        return max(await self._leave([event]))

    async def _leave(self, events: Sequence[NodeLeft]) -> tuple[int, int]:
        """Return how many runs the ledger has cancelled, and how many have left the pool."""
        if not events:
            return 0, 0
        disarming = await self._ledger.disarm(events, await self._pool.now())
        metrics.DISARMED.inc(len(disarming.cancelled))
        named = [
            NodeRun(node_id=event.node_id, version=event.version)
            for event in events
            if event.version is not None and not event.known_only
        ]
        gone = dict.fromkeys([*disarming.cancelled, *named])
        kept = set(disarming.kept)
        leaving = [run for run in gone if run not in kept]
        removed = 0
        if leaving:
            try:
                removed = await self._pool.disarm(leaving)
            except PoolUnavailableError as error:
                self._missed("disarmed", leaving, error)
        return len(disarming.cancelled), removed

    def _missed(self, what: str, runs: Sequence[NodeRun], error: Exception) -> None:
        metrics.ARM_FAILURES.inc(len(runs))
        for run in runs:
            logger.warning(
                "node run %s of node %s is %s in the ledger only: %s",
                run.version,
                run.node_id,
                what,
                error,
                extra={"node_id": run.node_id, "version": run.version},
            )
