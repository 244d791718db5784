"""Presence in Redis: what each process says, for as long as it lasts, in one ZSET."""

import dataclasses
import json
import logging
from typing import Any

from node_timeout.ports.presence import PRESENCE_SECONDS, Process, ServiceState
from node_timeout.stores.redis.client import RedisClient

logger = logging.getLogger(__name__)


class RedisPresence:
    """See `node_timeout.ports.presence.Presence` for the contract."""

    def __init__(self, client: RedisClient, key: str) -> None:
        self.key = key
        self._client = client
        self._said = ""
        """By this process; an answer that was lost leaves it behind, and it ends by its time."""

    async def say(self, process: Process) -> None:
        text = json.dumps(dataclasses.asdict(process))
        await self._call(repr(PRESENCE_SECONDS), text)
        self._said = text

    async def leave(self) -> None:
        await self._call("0", "")
        self._said = ""

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

    async def _call(self, seconds: str, text: str) -> None:
        await self._client.call("presence", self.key, seconds, self._said, text)


def _read(text: bytes, seen_at: float) -> Process | None:
    """None for what another version, or anyone else, has written."""
    try:
        said: dict[str, Any] = json.loads(text)
        services = tuple(ServiceState(**each) for each in said.pop("services"))
        return Process(**said | {"services": services, "seen_at": seen_at})
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
