"""Presence: which processes of node-timeout are alive, as they say themselves."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

PRESENCE_SECONDS = 30.0
"""A process that has said nothing for so long counts as gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceState:
    """A service of a process: a scanner, a worker, a listener, …"""

    name: str
    ready: bool
    """Its last pass succeeded."""
    failures: int
    """Failed passes in a row."""
    doing: str
    """In words; empty if it does not say."""

    @property
    def role(self) -> str:
        """``scanner`` of "scanner 3", which serves the third shard."""
        return self.name.partition(" ")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A process as it said it was. Instants are Unix seconds by the clock of Redis."""

    name: str
    """Unique, also among processes of one host."""
    host: str
    pid: int
    version: str
    """Of node-timeout."""
    started_at: float
    services: tuple[ServiceState, ...]
    seen_at: float = 0.0
    """When it last said so: that is for the store to know."""


class Presence(Protocol):
    """Where processes say that they are alive; what they say lasts `PRESENCE_SECONDS`.

    Each call raises `PoolUnavailableError`.
    """

    async def say(self, process: Process) -> None:
        """Say that this process is alive now."""
        ...

    async def leave(self, name: str) -> None:
        """Take back what the process of this name has said."""
        ...

    async def processes(self) -> Sequence[Process]:
        """Those that are alive, the oldest first."""
        ...
