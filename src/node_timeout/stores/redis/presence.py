"""Presence in Redis: one ZSET with what each process reports, and how long that is valid."""

import dataclasses
import json
import logging
import math

from node_timeout.ports.presence import PRESENCE_SECONDS, Process, ServiceState
from node_timeout.stores.redis.client import RedisClient

logger = logging.getLogger(__name__)


class RedisPresence:
    """See `node_timeout.ports.presence.Presence` for the contract."""

    def __init__(self, client: RedisClient, key: str) -> None:
        self.key = key
        self._client = client
        self._said: dict[str, str] = {}
        """The last text by name; if an answer is lost, the old text stays until it expires."""

    async def say(self, process: Process) -> None:
        text = json.dumps(dataclasses.asdict(process))
        await self._call(repr(PRESENCE_SECONDS), self._said.get(process.name, ""), text)
        self._said[process.name] = text

    async def leave(self, name: str) -> None:
        await self._call("0", self._said.get(name, ""), "")
        self._said.pop(name, None)

    async def processes(self) -> list[Process]:
        found = await self._client.call("presence", self.key, "0", "", "")
        alive: dict[str, Process] = {}
        for text, until in zip(found[::2], found[1::2], strict=True):
            process = _read(text, float(until) - PRESENCE_SECONDS)
            if process is None:
                logger.debug("what a process says of itself cannot be read: %.200r", text)
            elif process.name not in alive or alive[process.name].seen_at < process.seen_at:
                alive[process.name] = process
        return sorted(alive.values(), key=lambda process: (process.started_at, process.name))

    async def _call(self, seconds: str, before: str, text: str) -> None:
        await self._client.call("presence", self.key, seconds, before, text)


def _read(text: bytes, seen_at: float) -> Process | None:
    """None if it cannot be read. Further fields, from a newer version, are ignored."""
    try:
        said = json.loads(text)
        started_at = float(said["started_at"])
        services = tuple(
            ServiceState(
                name=str(each["name"]),
                ready=bool(each["ready"]),
                failures=int(each["failures"]),
                doing=str(each["doing"]),
            )
            for each in said["services"]
        )
        process = Process(
            name=str(said["name"]),
            host=str(said["host"]),
            pid=int(said["pid"]),
            version=str(said["version"]),
            started_at=started_at,
            services=services,
            seen_at=seen_at,
        )
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None
    return process if math.isfinite(started_at) else None
