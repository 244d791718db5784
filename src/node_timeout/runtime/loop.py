"""How a service runs: pass after pass until stopped, through outages, without spinning."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from node_timeout import metrics
from node_timeout.domain.errors import QueueMismatchError, SchemaError, TemporaryError
from node_timeout.tasks import ended

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Exponential back-off with full jitter; ``first`` and ``longest`` are seconds."""

    first: float = 0.1
    longest: float = 0.5
    random: Callable[[], float] = field(default=random.random)

    def seconds(self, failures: int) -> float:
        """Seconds to wait after this many failures in a row (1 or more)."""
        ceiling: float = min(self.longest, self.first * 2.0 ** min(failures - 1, 60))
        return self.random() * ceiling


@dataclass(slots=True, kw_only=True)
class Health:
    """Whether a service's last pass succeeded; /readyz reports it."""

    name: str
    ready: bool = False
    failures: int = 0
    doing: Callable[[], str] = field(default=lambda: "")
    """Returns what the service is doing now, in words."""

    def succeeded(self) -> None:
        if self.failures:
            logger.info("%s recovered after %d failed passes", self.name, self.failures)
        self.ready, self.failures = True, 0

    def failed(self, error: BaseException) -> None:
        """Count a failure; log an outage once, any other error each time, with its traceback."""
        self.ready = False
        self.failures += 1
        metrics.LOOP_ERRORS.labels(self.name).inc()
        if not isinstance(error, TemporaryError):
            logger.error("%s: a pass failed", self.name, exc_info=error)
        elif self.failures == 1:
            logger.warning("%s: %s; trying again until it succeeds", self.name, error)


async def sleep(seconds: float, stop: asyncio.Event) -> None:
    """Sleep, but return at once when stopped."""
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return


async def unless_stopped(work: Coroutine[Any, Any, T], stop: asyncio.Event) -> T | None:
    """Await ``work``; if stopped before it ends, cancel it and return None."""
    stopped = asyncio.ensure_future(stop.wait())
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        await ended(task, stopped)


async def repeat(
    step: Callable[[], Awaitable[None]],
    *,
    stop: asyncio.Event,
    health: Health,
    backoff: Backoff | None = None,
) -> None:
    """Call ``step`` (one pass and its pause) until stopped; back off after a failed step.

    Raises `QueueMismatchError` and `SchemaError`, which someone has to repair.
    """
    backoff = backoff or Backoff()
    while not stop.is_set():
        try:
            await step()
        except (QueueMismatchError, SchemaError):
            raise  # a retry cannot cure these
        except Exception as error:  # noqa: BLE001 - the edge of the loop
            health.failed(error)
            await sleep(max(0.02, backoff.seconds(health.failures)), stop)
        else:
            health.succeeded()


async def until_available(
    call: Callable[[], Awaitable[T]],
    *,
    stop: asyncio.Event,
    health: Health,
    backoff: Backoff | None = None,
) -> T | None:
    """Call until it raises no `TemporaryError`; None if stopped first. Raises other errors."""
    backoff = backoff or Backoff()
    while not stop.is_set():
        try:
            value = await call()
        except TemporaryError as error:
            health.failed(error)
            await sleep(max(0.02, backoff.seconds(health.failures)), stop)
        else:
            health.succeeded()
            return value
    return None
