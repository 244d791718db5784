"""Repeats a step through outages until it succeeds, or the worker stops."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from node_timeout.domain.errors import TemporaryError
from node_timeout.runtime.loop import Health, until_available

T = TypeVar("T")


class StoppedError(Exception):
    """The worker was stopped during an outage."""


class Insistence:
    """Repeats steps; each step must be safe to repeat, whatever the last try did."""

    def __init__(self, health: Health) -> None:
        """``health`` reports the outages."""
        self._health = health

    async def __call__(self, step: Callable[[], Awaitable[T]], stop: asyncio.Event) -> T:
        """Return what the step returns. Raises `StoppedError` if the worker stops first."""
        try:
            return await step()
        except TemporaryError as error:
            self._health.failed(error)
        value = await until_available(step, stop=stop, health=self._health)
        if value is None:
            raise StoppedError
        return value
