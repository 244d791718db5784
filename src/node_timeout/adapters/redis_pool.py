"""The executing pool in Redis (or Valkey).

Keys, all derived from the name of the pool:

    <pool>                     ZSET    member <node_id>_<version>, score = deadline or lease expiry
    <pool>:wakeup              channel an earlier deadline was armed
    <pool>:reconciler          STRING  name of the leading reconciler, with a time to live
    <pool>:surveyor            STRING  name of the leading surveyor, likewise
    <pool>:reconciled_run_id   STRING  run_id of the Redis that the ledger was last compared with
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Sequence
from functools import cached_property
from importlib.resources import files
from typing import Any, TypeVar

from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from node_timeout.errors import PoolUnavailableError
from node_timeout.node import DueRun, NodeRun
from node_timeout.ports import Claim, ClaimedMember, PoolCounts

logger = logging.getLogger(__name__)

T = TypeVar("T")

MEMBERS_PER_CALL = 500
SOCKET_SECONDS = 3.0
CALL_SECONDS = 5.0
LISTEN_SECONDS = 5.0


class RedisPool:
    """See `node_timeout.ports.Pool` for the contract."""

    def __init__(self, url: str, name: str) -> None:
        self._redis: Redis = Redis.from_url(
            url,
            socket_timeout=SOCKET_SECONDS,
            socket_connect_timeout=SOCKET_SECONDS,
            health_check_interval=30,
            # Every call here may be repeated: see the port.
            retry=Retry(ExponentialBackoff(cap=0.2, base=0.01), 2),
            retry_on_error=[RedisConnectionError, RedisTimeoutError, ReadOnlyError],
        )
        self._name = name
        self._channel = f"{name}:wakeup"
        self._marker_key = f"{name}:reconciled_run_id"
        self._run_id = ""
        self._clock = _PoolClock()
        self._wakeup = asyncio.Event()
        self._listener: asyncio.Task[None] | None = None

    async def close(self) -> None:
        if self._listener:
            self._listener.cancel()
            await asyncio.gather(self._listener, return_exceptions=True)
        await self._redis.aclose()

    async def ping(self) -> None:
        async with _translated():
            await self._redis.ping()

    async def eviction_policy(self) -> str:
        """Redis's ``maxmemory-policy``; ``unknown`` where asking is not allowed."""
        async with _translated():
            try:
                policy = await self._redis.config_get("maxmemory-policy")
            except ResponseError:
                return "unknown"
        return str(policy.get("maxmemory-policy", "unknown"))

    async def now(self) -> float:
        await self._clock.keep(self._redis)
        return self._clock.now()

    async def arm(self, due: Sequence[DueRun]) -> int:
        return await self._add("NX", due)

    async def rearm(self, due: Sequence[DueRun]) -> None:
        await self._add("ANY", due)

    async def _add(self, mode: str, due: Sequence[DueRun]) -> int:
        added = 0
        for chunk in _chunks(due):
            pairs = [part for each in chunk for part in (repr(each.due_at), each.run.member)]
            added += int(await self._call("arm", [self._name], mode, self._channel, *pairs))
        return added

    async def disarm(self, runs: Sequence[NodeRun]) -> int:
        removed = 0
        for chunk in _chunks(runs):
            async with _translated():
                removed += await self._redis.zrem(self._name, *(run.member for run in chunk))
        return removed

    async def claim(self, limit: int, lease_seconds: float) -> Claim:
        reply = await self._call("claim", [self._name], limit, repr(lease_seconds))
        now, lease, next_due_at, *pairs = (
            part.decode("utf-8", "surrogateescape") for part in reply
        )
        return Claim(
            members=tuple(
                ClaimedMember(member=member, deadline=float(score))
                for member, score in zip(pairs[::2], pairs[1::2], strict=True)
            ),
            lease=float(lease),
            now=float(now),
            next_due_at=float(next_due_at) if next_due_at else None,
        )

    async def finish(self, members: Sequence[str], lease: float) -> int:
        removed = 0
        for chunk in _chunks(members):
            names = [_encode(member) for member in chunk]
            removed += int(await self._call("finish", [self._name], repr(lease), *names))
        return removed

    async def release(self, members: Sequence[ClaimedMember], lease: float) -> int:
        released = 0
        for chunk in _chunks(members):
            pairs = [part for each in chunk for part in (repr(each.deadline), _encode(each.member))]
            released += int(await self._call("release", [self._name], repr(lease), *pairs))
        return released

    async def absent(self, runs: Sequence[NodeRun]) -> list[NodeRun]:
        found: list[NodeRun] = []
        for chunk in _chunks(runs):
            async with _translated():
                scores = await self._redis.zmscore(self._name, [run.member for run in chunk])
            found += [run for run, score in zip(chunk, scores, strict=True) if score is None]
        return found

    async def wait(self, seconds: float) -> None:
        if self._listener is None:
            self._listener = asyncio.create_task(self._listen(), name="wake-up listener")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wakeup.wait(), seconds)
        self._wakeup.clear()

    async def _listen(self) -> None:
        """Hear wake-ups; while this cannot, deadlines are found by the scan interval."""
        while True:
            try:
                async with self._redis.pubsub(ignore_subscribe_messages=True) as pubsub:
                    await pubsub.subscribe(self._channel)
                    self._wakeup.set()  # something may have been armed before
                    while True:
                        if await pubsub.get_message(timeout=LISTEN_SECONDS) is not None:
                            self._wakeup.set()
            except (RedisError, OSError) as error:
                logger.debug("no wake-ups: %s", error)
            await asyncio.sleep(1)

    async def counts(self) -> PoolCounts:
        now = await self.now()
        async with self._pipeline() as pipeline:
            pipeline.zcard(self._name)
            pipeline.zcount(self._name, "-inf", repr(now))
            pipeline.zrange(self._name, 0, 0, withscores=True)
            armed, overdue, first = await pipeline.execute()
        oldest = max(0.0, now - float(first[0][1])) if first else 0.0
        return PoolCounts(armed=armed, overdue=overdue, oldest_overdue_seconds=oldest)

    async def lead(self, role: str, leader: str, seconds: float) -> bool:
        key = f"{self._name}:{role}"
        return bool(await self._call("lead", [key], leader, int(seconds * 1000)))

    async def resign(self, role: str, leader: str) -> None:
        with contextlib.suppress(PoolUnavailableError):
            await self._call("lead", [f"{self._name}:{role}"], leader, 0)

    async def may_have_lost_data(self) -> bool:
        async with self._pipeline() as pipeline:
            pipeline.get(self._marker_key)
            pipeline.info("server")
            marker, server = await pipeline.execute()
        self._run_id = str(server.get("run_id", "unknown"))
        return marker is None or marker.decode(errors="replace") != self._run_id

    async def mark_reconciled(self) -> None:
        async with _translated():
            await self._redis.set(self._marker_key, self._run_id)

    @contextlib.asynccontextmanager
    async def _pipeline(self) -> AsyncIterator[Pipeline]:
        async with _translated(), self._redis.pipeline(transaction=False) as pipeline:
            yield pipeline

    async def _call(self, script: str, keys: list[str], *args: Any) -> Any:
        async with _translated():
            return await self._scripts[script](keys=keys, args=args)

    @cached_property
    def _scripts(self) -> dict[str, Any]:
        folder = files("node_timeout.adapters") / "lua"
        return {
            name: self._redis.register_script((folder / f"{name}.lua").read_text())
            for name in ("arm", "claim", "finish", "release", "lead")
        }


class _PoolClock:
    """Redis's clock, kept by asking for the time now and then.

    The error is at most the duration of the best of a few requests, and it is on the late side: a
    deadline computed from it is never before the one Redis would have computed.
    """

    RESYNC_SECONDS = 10.0
    GOOD_SECONDS = 0.001
    STEP_SECONDS = 0.5
    ANSWER_SECONDS = 1.0
    ASK_AGAIN_SECONDS = 2.0

    def __init__(self) -> None:
        self._asking = asyncio.Lock()
        self._ask_again_at = 0.0
        self._offset: float | None = None
        self._synchronised_at = 0.0
        self._wall_offset = 0.0

    async def keep(self, redis: Redis) -> None:
        """Ask again if it is time to, one caller at once; without an answer go on estimating."""
        if self._offset is not None and self._asking.locked():
            return
        async with self._asking:
            if not self._is_stale():
                return
            try:
                async with _translated(self.ANSWER_SECONDS):
                    await self._synchronise(redis)
            except PoolUnavailableError:
                self._ask_again_at = time.monotonic() + self.ASK_AGAIN_SECONDS

    def _is_stale(self) -> bool:
        """True if never asked, long ago, or if this host's own clock stepped or slept since."""
        if time.monotonic() < self._ask_again_at:
            return False
        wall_offset = time.time() - time.monotonic()
        return (
            self._offset is None
            or time.monotonic() - self._synchronised_at > self.RESYNC_SECONDS
            or abs(wall_offset - self._wall_offset) > self.STEP_SECONDS
        )

    async def _synchronise(self, redis: Redis) -> None:
        best = float("inf")
        for _ in range(4):
            sent = time.monotonic()
            seconds, microseconds = await redis.time()
            took = time.monotonic() - sent
            if took < best:
                best = took
                self._offset = seconds + microseconds / 1e6 - sent
            if took < self.GOOD_SECONDS:
                break
        self._synchronised_at = time.monotonic()
        self._wall_offset = time.time() - time.monotonic()

    def now(self) -> float:
        """Estimate; this host's own clock if Redis was never reached."""
        return time.monotonic() + self._offset if self._offset is not None else time.time()


def _encode(member: str) -> bytes:
    return member.encode("utf-8", "surrogateescape")


def _chunks(items: Sequence[T]) -> list[Sequence[T]]:
    return [items[i : i + MEMBERS_PER_CALL] for i in range(0, len(items), MEMBERS_PER_CALL)]


@contextlib.asynccontextmanager
async def _translated(time_limit: float = CALL_SECONDS) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(time_limit):
            yield
    except (RedisError, OSError, TimeoutError) as error:
        raise PoolUnavailableError(f"Redis: {str(error) or type(error).__name__}") from error
