"""Checks that the user of Redis may do all that services do, by doing it.

Commands are called one by one, since Redis does not say which command of a script it refused.
Nothing is ever written: the commands change only existing members and values, and none exist.
"""

import contextlib
import uuid
from collections.abc import AsyncIterator, Sequence

from redis.exceptions import ReadOnlyError, ResponseError

from node_timeout.domain.errors import PoolUnavailableError
from node_timeout.stores.redis.client import RedisClient, translated

HEAR_SECONDS = 0.2
"""Pause before publishing again: the first message may come before the subscription."""


async def probe_commands(client: RedisClient, scratch: str, channel: str) -> None:
    """Call each command of the scripts, on a key that does not exist."""
    for call in (
        ("TIME",),
        ("INFO", "server"),
        ("ZADD", scratch, "XX", "1", "a"),
        ("ZSCORE", scratch, "a"),
        ("ZMSCORE", scratch, "a"),
        ("ZCARD", scratch),
        ("ZCOUNT", scratch, "-inf", "1"),
        ("ZRANGE", scratch, "0", "0"),
        ("ZRANGEBYSCORE", scratch, "-inf", "1"),
        ("ZREVRANGEBYSCORE", scratch, "1", "-inf"),
        ("ZREM", scratch, "a"),
        ("SET", scratch, "a", "XX"),
        ("GET", scratch),
        ("DEL", scratch),
        ("PUBLISH", channel, ""),
    ):
        async with allowed(" on ".join(call[:2])):
            await client.call("call", scratch, *call)


async def probe_keys(client: RedisClient, sets: Sequence[str], strings: Sequence[str]) -> None:
    """Access the pool's keys, with a name that no member and no leader has."""
    nobody = f"check {uuid.uuid4().hex}"
    for key in sets:
        async with allowed(f"a script, or ZREM, on {key!r}"):
            await client.call("claim", key, 0, "1", "0")
            async with translated():
                await client.commands.zrem(key, nobody)
    for key in strings:
        async with allowed(f"a script, or SET and GET, on {key!r}"):
            await client.call("lead", key, nobody, 0)


async def probe_channels(client: RedisClient, channels: Sequence[str]) -> None:
    """Subscribe to each channel, publish there, and receive it."""
    unheard = set(channels)
    what = f"SUBSCRIBE to {' '.join(channels)!r}"
    async with allowed(what), translated(), client.pubsub() as pubsub:
        await pubsub.subscribe(*channels)
        while unheard:
            for channel in unheard:
                await client.commands.publish(channel, "")
            heard = await pubsub.get_message(timeout=HEAR_SECONDS)
            if heard is not None:
                unheard.discard(heard["channel"].decode())


@contextlib.asynccontextmanager
async def allowed(what: str) -> AsyncIterator[None]:
    """Name ``what`` in the error if Redis refuses it."""
    try:
        yield
    except PoolUnavailableError as error:
        cause = error.__cause__
        if isinstance(cause, ReadOnlyError):
            raise PoolUnavailableError(
                "Redis takes no writes: it is a replica; name its primary in redis_url"
            ) from error
        if isinstance(cause, ResponseError):
            raise PoolUnavailableError(
                f"Redis refuses {what}: {str(error).removeprefix('Redis: ')}"
            ) from error
        raise
