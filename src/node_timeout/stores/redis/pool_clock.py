"""The estimate of Redis's clock, for an event loop."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from node_timeout.domain.errors import PoolUnavailableError
from node_timeout.stores.redis.clock import GOOD_SECONDS, QUESTIONS, ClockEstimate

ANSWER_SECONDS = 1.0


class PoolClock(ClockEstimate):
    """The estimate for callers in one event loop."""

    def __init__(self, ask: Callable[[], Awaitable[float]]) -> None:
        """``ask`` returns Redis's time, or raises `PoolUnavailableError`."""
        super().__init__()
        self._ask = ask
        self._asking = asyncio.Lock()

    async def keep(self) -> None:
        """Ask again if the estimate is stale, one caller at a time; without an answer, keep it."""
        if self._offset is not None and self._asking.locked():
            return
        async with self._asking:
            if not self._is_stale():
                return
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    await self._synchronise()
            except (PoolUnavailableError, TimeoutError):
                self._not_answered()

    async def _synchronise(self) -> None:
        best = float("inf")
        for _ in range(QUESTIONS):
            sent = time.monotonic()
            best = self._answered(sent, await self._ask(), best)
            if best < GOOD_SECONDS:
                break
