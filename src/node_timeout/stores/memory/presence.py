"""Presence inside one process, for tests."""

import dataclasses
from collections.abc import Callable

from node_timeout.ports.presence import PRESENCE_SECONDS, Process


class MemoryPresence:
    """See `node_timeout.ports.presence.Presence` for the contract."""

    def __init__(self, clock: Callable[[], float], said: dict[str, Process] | None = None) -> None:
        """``said``: a dict shared with other instances, if they are to see each other."""
        self._clock = clock
        self._said = {} if said is None else said

    async def say(self, process: Process) -> None:
        self._said[process.name] = dataclasses.replace(process, seen_at=self._clock())

    async def leave(self, name: str) -> None:
        self._said.pop(name, None)

    async def processes(self) -> list[Process]:
        now = self._clock()
        alive = [each for each in self._said.values() if now - each.seen_at < PRESENCE_SECONDS]
        return sorted(alive, key=lambda process: (process.started_at, process.name))
