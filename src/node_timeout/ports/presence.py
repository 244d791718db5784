"""Presence: which processes of node-timeout are alive, as they report it themselves."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

PRESENCE_SECONDS = 30.0
"""A process that has not reported for this long counts as gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceState:
    """A service of a process: a scanner, a worker, a listener, …"""

    name: str
    ready: bool
    """Its last pass succeeded."""
    failures: int
    """Failed passes in a row."""
    doing: str
    """What it is doing, in words; may be empty."""

    @property
    def role(self) -> str:
        """The name's first word: ``scanner`` for "scanner 3", which serves the third shard."""
        return self.name.partition(" ")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A process as it last reported itself. Instants are Unix seconds by the clock of Redis."""

    name: str
    """Unique, also among processes of one host."""
    host: str
    pid: int
    version: str
    """The version of node-timeout."""
    started_at: float
    services: tuple[ServiceState, ...]
    seen_at: float = 0.0
    """When it last reported; set by the store."""


class Presence(Protocol):
    """Where processes report that they are alive; a report expires after `PRESENCE_SECONDS`.

    Each call may raise `PoolUnavailableError`.
    """

    async def say(self, process: Process) -> None:
        """Report that this process is alive now."""
        ...

    async def leave(self, name: str) -> None:
        """Remove the report of the process of this name."""
        ...

    async def processes(self) -> Sequence[Process]:
        """The processes that are alive, oldest first."""
        ...
