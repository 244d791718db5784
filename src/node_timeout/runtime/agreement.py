"""Settings that must agree between processes, and which pool belongs to which ledger.

All processes share the database, whatever else they are set to. So scanners write their settings
there each time they start. Other processes compare theirs when they start and in `check`:

    scanner starts ──▶ its settings into the ledger, the ledger's id into the pool
    worker, library, check ──▶ the same settings? this ledger's id in my pool?

The scanner that started last is right, so restart the scanners first to change a setting. A
difference stops no process: during such a change there always is one.
"""

import asyncio
import logging
from collections.abc import Mapping

from node_timeout.domain.agreement import LEDGER_ID, differences, problems
from node_timeout.domain.errors import NodeTimeoutError, TemporaryError
from node_timeout.ports.ledger import Ledger
from node_timeout.ports.pool import Pool
from node_timeout.tasks import ended

logger = logging.getLogger(__name__)


class Agreement:
    """Compares the settings of this process with those of the scanners."""

    def __init__(self, *, ledger: Ledger, pool: Pool, settings: Mapping[str, str]) -> None:
        """``settings``: those that must agree, by the names that users know."""
        self._ledger = ledger
        self._pool = pool
        self._settings = settings
        self._comparing: asyncio.Task[None] | None = None

    async def close(self) -> None:
        if self._comparing:
            await ended(self._comparing)

    async def declare(self) -> None:
        """For scanners: store this scanner's settings. Logs how the previous scanner differed."""
        stored = await self._ledger.declare(self._settings)
        for text in differences(self._settings, stored, "in the scanner that started before"):
            logger.warning("%s", text)
        marked = await self._pool.ledger_id()
        if marked not in (None, stored[LEDGER_ID]):
            logger.error(
                "the pool in Redis was served by scanners of another database: two installations "
                "need a pool (%s) each, or a Redis each",
                next(iter(self._settings)),
            )
        await self._pool.mark_ledger(stored[LEDGER_ID])

    async def problems(self) -> list[str]:
        """For other processes: one sentence per difference; none before a scanner has started."""
        return problems(self._settings, await self._ledger.settings(), await self._pool.ledger_id())

    async def compare(self) -> None:
        """Log the problems; they have no other effect. Raises if a store does not answer."""
        for text in await self.problems():
            logger.error("%s", text)

    def compare_beside(self) -> None:
        """Compare in the background, once; if a store does not answer, again at the next call."""
        if self._comparing is None:
            self._comparing = asyncio.create_task(self._compare_once(), name="compare settings")

    async def _compare_once(self) -> None:
        try:
            await self.compare()
        except TemporaryError:
            self._comparing = None
        except NodeTimeoutError as error:
            logger.debug("settings not compared: %s", error)
