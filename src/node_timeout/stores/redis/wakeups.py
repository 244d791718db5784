"""Wake-ups: messages that wake an idle scanner when an earlier deadline is armed."""

import asyncio
import contextlib
import logging
from collections.abc import Sequence

from redis.exceptions import RedisClusterException, RedisError, ResponseError

from node_timeout.stores.redis.client import RedisClient, noticed
from node_timeout.stores.redis.keys import wakeup_channel
from node_timeout.tasks import ended

logger = logging.getLogger(__name__)

LISTEN_SECONDS = 5.0
SUBSCRIBE_AGAIN_SECONDS = 1.0


class Wakeups:
    """Receives the wake-ups of all shards on one connection, opened at the first wait."""

    def __init__(self, client: RedisClient, keys: Sequence[str]) -> None:
        self._client = client
        self._events = {wakeup_channel(key): asyncio.Event() for key in keys}
        self._listener: asyncio.Task[None] | None = None
        self._refused = False

    async def wait(self, key: str, seconds: float) -> None:
        if self._listener is None:
            self._listener = asyncio.create_task(self._listen(), name="wake-up listener")
        event = self._events[wakeup_channel(key)]
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(event.wait(), seconds)
        event.clear()

    async def close(self) -> None:
        if self._listener:
            await ended(self._listener)

    async def _listen(self) -> None:
        """Listen for ever. While it cannot, scanners find deadlines at their scan interval."""
        while True:
            try:
                with noticed():
                    await self._hear()
            except (RedisError, RedisClusterException, OSError) as error:
                refused = isinstance(error, ResponseError) and not self._refused
                logger.log(logging.WARNING if refused else logging.DEBUG, "no wake-ups: %s", error)
                self._refused = self._refused or refused  # logged as a warning once
            await asyncio.sleep(SUBSCRIBE_AGAIN_SECONDS)

    async def _hear(self) -> None:
        async with self._client.pubsub() as pubsub:
            await pubsub.subscribe(*self._events)
            for event in self._events.values():
                event.set()  # something may have been armed before
            while True:
                heard = await pubsub.get_message(timeout=LISTEN_SECONDS)
                if heard is not None:
                    self._events[heard["channel"].decode()].set()
