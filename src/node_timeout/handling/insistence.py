"""A step is repeated until no outage stops it, or the worker stops."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from node_timeout.domain.errors import TemporaryError
from node_timeout.runtime.loop import Health, until_available

T = TypeVar("T")


class StoppedError(Exception):
    """The worker stops in the middle of an outage."""


class Insistence:
    """Repeats steps; each of them may be repeated whatever came of the last time."""

    def __init__(self, health: Health) -> None:
        """``health`` says that something is in the way."""
        self._health = health

    async def __call__(self, step: Callable[[], Awaitable[T]], stop: asyncio.Event) -> T:
        """What the step returns. Raises `StoppedError` if the worker stops before."""
        try:
            return await step()
        except TemporaryError as error:
            self._health.failed(error)
        value = await until_available(step, stop=stop, health=self._health)
        if value is None:
            raise StoppedError
        return value
