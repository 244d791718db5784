"""One query of the stores, shared by all callers who ask at the same time."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

Found = TypeVar("Found")

FRESH_SECONDS = 5.0


class Shared(Generic[Found]):
    """Caches the result of ``look`` for some seconds; callers who ask during a look share it.

    If a look fails, only the caller who started it gets the error; the next one looks again.
    """

    def __init__(
        self, look: Callable[[], Awaitable[Found]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._look = look
        self._clock = clock
        self._lock = asyncio.Lock()
        self._last: tuple[Found, float] | None = None
        """The last result, and until when it is fresh."""

    async def get(self) -> Found:
        """Raises what ``look`` raises."""
        async with self._lock:
            if self._last is None or self._clock() >= self._last[1]:
                self._last = None
                found = await self._look()
                self._last = found, self._clock() + FRESH_SECONDS
            return self._last[0]
