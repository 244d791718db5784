"""Settings that must agree between processes, and which pool belongs to which ledger.

The database is what all processes share, whatever else they are set to. So the scanners write there
what they have, each time they start; other processes compare, when they start and by `check`:

    scanner starts ──▶ its settings into the ledger, the ledger's id into the pool
    worker, library, check ──▶ the same settings? this ledger's id in my pool?

The scanner that started last is right, so a setting is changed by restarting the scanners first.
No process is stopped by a difference: during such a change there is one.
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
    """Compares this process with the scanners."""

    def __init__(self, *, ledger: Ledger, pool: Pool, settings: Mapping[str, str]) -> None:
        """``settings`` are those that must agree, by the name that a user knows them by."""
        self._ledger = ledger
        self._pool = pool
        self._settings = settings
        self._comparing: asyncio.Task[None] | None = None

    async def close(self) -> None:
        if self._comparing:
            await ended(self._comparing)

    async def declare(self) -> None:
        """A scanner: say what is right. Logs what another scanner was set to."""
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
        """Any other process: a sentence for each difference; none before a scanner has started."""
        return problems(self._settings, await self._ledger.settings(), await self._pool.ledger_id())

    async def compare(self) -> None:
        """Log the problems, once the stores answer; they have no other effect."""
        for text in await self.problems():
            logger.error("%s", text)

    def compare_beside(self) -> None:
        """Compare in the background, once; if a store does not answer, at the next call again."""
        if self._comparing is None:
            self._comparing = asyncio.create_task(self._compare_once(), name="compare settings")

    async def _compare_once(self) -> None:
        try:
            await self.compare()
        except TemporaryError:
            self._comparing = None
        except NodeTimeoutError as error:
            logger.debug("settings not compared: %s", error)
