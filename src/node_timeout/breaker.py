"""A circuit breaker around the engine: while it is dead, no worker waits for it.

    closed ──failures in a row──▶ resting ──rest over──▶ one probe ──failed──▶ resting, longer
       ▲                                                     │
       └───────────────────────succeeded─────────────────────┘

A call refused while the engine rests was not made: it uses up no attempt of its node run.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from node_timeout import metrics
from node_timeout.errors import EngineRestingError, EngineUnavailableError
from node_timeout.node import TimedOutNode
from node_timeout.ports import Engine
from node_timeout.service import Backoff

logger = logging.getLogger(__name__)

T = TypeVar("T")

FAILURES_IN_A_ROW = 5


class GuardedEngine:
    """See `node_timeout.ports.Engine`; everything else is the guarded engine's own."""

    def __init__(
        self,
        engine: Engine,
        *,
        failures: int = FAILURES_IN_A_ROW,
        rest: Backoff | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._limit = failures
        self._rest = rest or Backoff(first=1.0, longest=60.0, random=lambda: 1.0)
        self._clock = clock
        self._failures = 0
        self._resting_until = 0.0
        self._probing = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    async def is_running(self, node: TimedOutNode) -> bool:
        return await self._guard(lambda: self._engine.is_running(node))

    async def forced_fail(self, node: TimedOutNode, reason: str) -> str:
        return await self._guard(lambda: self._engine.forced_fail(node, reason))

    async def forced_fail_and_skip(self, node: TimedOutNode, reason: str) -> str:
        return await self._guard(lambda: self._engine.forced_fail_and_skip(node, reason))

    async def close(self) -> None:
        await self._engine.close()

    async def _guard(self, call: Callable[[], Awaitable[T]]) -> T:
        probing = self._failures >= self._limit
        if probing:
            left = self._resting_until - self._clock()
            if left > 0 or self._probing:
                raise EngineRestingError(
                    f"the engine failed {self._failures} times in a row, it is left in peace",
                    retry_after=max(left, 1.0),
                )
            self._probing = True
        try:
            value = await call()
        except (EngineUnavailableError, TimeoutError, asyncio.CancelledError) as error:
            self._failed(error)
            raise
        except Exception:
            self._succeeded()  # it has answered
            raise
        else:
            self._succeeded()
            return value
        finally:
            if probing:
                self._probing = False

    def _failed(self, error: BaseException) -> None:
        self._failures += 1
        if self._failures < self._limit:
            return
        seconds = self._rest.seconds(self._failures - self._limit + 1)
        self._resting_until = self._clock() + seconds
        metrics.ENGINE_RESTING.set(1)
        if self._failures == self._limit:
            logger.error(
                "the engine failed %d times in a row (%s); its nodes wait until it answers",
                self._failures,
                str(error) or type(error).__name__,
            )

    def _succeeded(self) -> None:
        if self._failures >= self._limit:
            logger.warning("the engine answers again")
            metrics.ENGINE_RESTING.set(0)
        self._failures = 0
