"""One look at the stores for all who look at the same time."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

Found = TypeVar("Found")

FRESH_SECONDS = 5.0


class Shared(Generic[Found]):
    """What a look found, for some seconds; who asks meanwhile, and while it looks, gets the same.

    A look that fails is told to the one who asked; the next one looks again.
    """

    def __init__(
        self, look: Callable[[], Awaitable[Found]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._look = look
        self._clock = clock
        self._lock = asyncio.Lock()
        self._last: tuple[Found, float] | None = None
        """And until when it is fresh."""

    async def get(self) -> Found:
        """Raises what the look raises."""
        async with self._lock:
            if self._last is None or self._clock() >= self._last[1]:
                self._last = None
                found = await self._look()
                self._last = found, self._clock() + FRESH_SECONDS
            return self._last[0]
