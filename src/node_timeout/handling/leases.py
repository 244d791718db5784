"""Leases: a worker keeps its rows while it works on them, however long a strategy takes.

    taken ──every third of the lease──▶ renewed, all in one statement
      └──not renewed in time, or lost to another──▶ its attempts are stopped before the lease ends

A killed worker renews nothing, so other workers take over its rows when the lease ends.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from node_timeout.domain.errors import TemporaryError
from node_timeout.domain.run import Outcome
from node_timeout.ports.ledger import Ledger
from node_timeout.ports.pool import Pool

logger = logging.getLogger(__name__)

LOST = "the lease of its worker was lost"


@dataclass(eq=False, slots=True, kw_only=True)
class Leased:
    """Runs whose rows this worker holds, with their attempts."""

    owner: str
    """The token of their leases."""
    lease_ends: float
    """On this host's monotonic clock."""
    claimed: Mapping[str, float | None] = field(default_factory=dict)
    """By run id: the lease in the pool under which the run's message was sent."""
    attempts: dict[str, asyncio.Task[Outcome | None]] = field(default_factory=dict)
    """The attempts that are not recorded yet, by run id."""

    def stop(self, run_id: str) -> None:
        if attempt := self.attempts.get(run_id):
            attempt.cancel(LOST)


class Leases:
    """Renews the leases of runs that the worker still works on."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        pool: Pool,
        lease_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger = ledger
        self._pool = pool
        self._lease_seconds = lease_seconds
        self._clock = clock
        self._leased: set[Leased] = set()

    def keep(self, leased: Leased) -> None:
        self._leased.add(leased)

    def let_go(self, leased: Leased) -> None:
        self._leased.discard(leased)

    async def run(self) -> None:
        """Renew until cancelled."""
        while True:
            await asyncio.sleep(self._lease_seconds / 3)
            try:
                await self.once()
            except Exception:  # the edge of the loop: the next pass may succeed in time
                logger.exception("the leases of this worker could not be renewed")

    async def once(self) -> None:
        """Renew the leases of unrecorded runs; stop attempts whose lease is lost or soon ends."""
        open_runs = {run_id: leased for leased in self._leased for run_id in leased.attempts}
        if not open_runs:
            return
        began = self._clock()
        owners = sorted({leased.owner for leased in open_runs.values()})
        try:
            async with asyncio.timeout(self._lease_seconds / 3):
                until = await self._pool.now() + self._lease_seconds
                renewed = await self._ledger.renew(list(open_runs), owners, until)
        except (TemporaryError, TimeoutError) as error:
            logger.warning("%d leases could not be renewed: %s", len(open_runs), error)
        else:
            for leased in set(open_runs.values()):
                leased.lease_ends = began + self._lease_seconds
            for run_id, leased in open_runs.items():
                if run_id not in renewed:
                    leased.stop(run_id)
        # The next pass would come too late for these.
        last_call = self._clock() + self._lease_seconds / 3
        for run_id, leased in open_runs.items():
            if leased.lease_ends <= last_call:
                leased.stop(run_id)
