"""The executing pool in Redis (or Valkey), in one key or several.

Keys and channels, all derived from the name of the pool:

    <pool>                          ZSET     member: run id, or <node_id>_<version> if an engine has
                                             put it there; score: deadline or lease expiry
    <pool>:{0} … <pool>:{n-1}       ZSET     the same, if the pool is split into n shards; <pool>
                                             is then still scanned for what an engine puts there
    <key of a ZSET>:wakeup          channel  an earlier deadline was armed there
    {<key of a ZSET>}:reconciled_run_id  STRING  run_id of the Redis whose shard was last compared
                                             with the ledger; in the slot of its ZSET
    <pool>:reconciler               STRING   name of the leading reconciler, with a time to live
    <pool>:surveyor                 STRING   name of the leading surveyor, likewise
    <pool>:canary                   STRING   name of the process that sends canaries, likewise
    {<pool>}:processes              ZSET     what each living process reports of itself; score: when
                                             it counts as gone
    {<pool>}:ledger_id              STRING   id of the ledger that the scanners of the pool serve
    {<key of a ZSET>}:check         none     used by `probe`; never exists
"""

import asyncio
import logging
import math
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from typing import TypeVar

from redis.exceptions import ResponseError

from node_timeout.domain.errors import PoolUnavailableError
from node_timeout.domain.run import DueRun
from node_timeout.ports.pool import OVERDUE_SECONDS, Behind, Claim, ClaimedMember, PoolCounts
from node_timeout.stores.redis.client import RedisClient, translated
from node_timeout.stores.redis.keys import (
    ledger_key,
    shard_number,
    tagged,
    wakeup_channel,
    zset_keys,
)
from node_timeout.stores.redis.pool_clock import PoolClock
from node_timeout.stores.redis.presence import RedisPresence
from node_timeout.stores.redis.probe import probe_channels, probe_commands, probe_keys
from node_timeout.stores.redis.wakeups import Wakeups
from node_timeout.stores.tls import Tls

logger = logging.getLogger(__name__)

T = TypeVar("T")

MEMBERS_PER_CALL = 500
ROLES = ("reconciler", "surveyor", "canary")
KNOWN_POLICIES = ("noeviction", "unknown")


class RedisPool:
    """See `node_timeout.ports.Pool` for the contract."""

    def __init__(self, url: str, name: str, shards: int = 1, *, tls: Tls | None = None) -> None:
        """Raises ValueError for an unreadable URL, `SettingsError` for unreadable TLS files."""
        self._client = RedisClient(url, tls)
        self._name = name
        keys = zset_keys(name, shards)
        self._clock = PoolClock(self._time)
        self._wakeups = Wakeups(self._client, keys)
        self.shards = tuple(
            RedisShard(self._client, key, self._wakeups, self._clock) for key in keys
        )
        self._hashed = self.shards[:shards]
        self._run_ids: dict[str, str] = {}
        self.presence = RedisPresence(self._client, f"{tagged(name)}:processes")
        self._ledger_key = ledger_key(name)
        self._ledger_id: str | None = None

    async def close(self) -> None:
        await self._wakeups.close()
        await self._client.close()

    async def ping(self) -> None:
        await _all(shard.identity() for shard in self.shards)

    async def eviction_policy(self) -> str:
        """Redis's ``maxmemory-policy``; ``unknown`` if reading it is not allowed.

        In a cluster it is that of a server that may evict, if there is one.
        """
        async with translated():
            try:
                policies = await self._client.config("maxmemory-policy")
            except ResponseError:
                return "unknown"
        return next((each for each in policies if each not in KNOWN_POLICIES), policies[0])

    async def _time(self) -> float:
        """The time of the server that has the pool's own key: a cluster must use one clock."""
        return float((await self._client.call("claim", self._name, 0, "1", "0"))[0])

    async def now(self) -> float:
        await self._clock.keep()
        return self._clock.now()

    async def passed(self) -> float | None:
        await self._clock.keep()
        return self._clock.passed()

    async def arm(self, due: Sequence[DueRun]) -> int:
        return await self._add("NX", due)

    async def lower(self, due: Sequence[DueRun]) -> int:
        return await self._add("LT", due)

    async def put_back(self, due: Sequence[DueRun]) -> None:
        await _all(shard.put_back(here) for shard, here in self._by_shard(due).items())

    async def _add(self, mode: str, due: Sequence[DueRun]) -> int:
        places = self._by_shard(due)
        return sum(await _all(shard.add(mode, here) for shard, here in places.items()))

    def _by_shard(self, due: Sequence[DueRun]) -> "dict[RedisShard, list[DueRun]]":
        places: dict[RedisShard, list[DueRun]] = {}
        for each in due:
            places.setdefault(self._shard_of(each.run_id), []).append(each)
        return places

    async def disarm(self, members: Sequence[str]) -> int:
        places = self._places(members)
        return sum(await _all(shard.remove(here) for shard, here in places.items()))

    async def behind(self, due: Sequence[DueRun], slack_seconds: float) -> Behind:
        places = self._places([each.run_id for each in due])
        found = await _all(shard.scores(here) for shard, here in places.items())
        scores: dict[str, float] = {}
        for run_id, score in (pair for some in found for pair in some.items()):
            scores[run_id] = min(score, scores.get(run_id, math.inf))
        now = await self.now()
        return Behind(
            absent=frozenset(each.run_id for each in due if each.run_id not in scores),
            late=frozenset(
                each.run_id
                for each in due
                if scores.get(each.run_id, 0.0) > max(each.due_at, now) + slack_seconds
            ),
        )

    async def give_back(self, members: Mapping[str, float]) -> None:
        await self.shards[-1].put(members)

    @property
    def homes(self) -> int:
        return len(self._hashed)

    def home(self, run_id: str) -> int:
        return shard_number(run_id, len(self._hashed))

    def _shard_of(self, member: str) -> "RedisShard":
        return self._hashed[self.home(member)]

    def _places(self, members: Iterable[str]) -> "dict[RedisShard, list[str]]":
        """The members by shard; a member is listed for each shard that may hold it."""
        places: dict[RedisShard, list[str]] = {}
        for member in members:
            for shard in {self._shard_of(member), self.shards[-1]}:
                places.setdefault(shard, []).append(member)
        return places

    async def counts(self) -> PoolCounts:
        now = await self.now()
        counts = await _all(shard.counts(now) for shard in self.shards)
        return PoolCounts(
            armed=sum(each.armed for each in counts),
            overdue=sum(each.overdue for each in counts),
            oldest_overdue_seconds=max(each.oldest_overdue_seconds for each in counts),
            overdue_for={
                seconds: sum(each.overdue_for[seconds] for each in counts)
                for seconds in OVERDUE_SECONDS
            },
        )

    async def lead(self, role: str, leader: str, seconds: float) -> bool:
        key = f"{self._name}:{role}"
        return bool(await self._client.call("lead", key, leader, int(seconds * 1000)))

    async def resign(self, role: str, leader: str) -> None:
        try:
            await self._client.call("lead", f"{self._name}:{role}", leader, 0)
        except PoolUnavailableError as error:
            logger.warning("the lead of the %s ends by its time only: %s", role, error)

    async def may_have_lost_data(self) -> bool:
        identities = await _all(shard.identity() for shard in self.shards)
        self._run_ids = {
            shard.marker_key: run_id
            for shard, (run_id, _) in zip(self.shards, identities, strict=True)
        }
        return any(run_id != marker for run_id, marker in identities)

    async def mark_reconciled(self) -> None:
        """Mark the servers seen when the loss was noticed; a newer server is noticed again."""
        async with translated():
            for marker_key, run_id in self._run_ids.items():
                await self._client.commands.set(marker_key, run_id)
        if self._ledger_id is not None:
            await self.mark_ledger(self._ledger_id)

    async def ledger_id(self) -> str | None:
        async with translated():
            found = await self._client.commands.get(self._ledger_key)
        return found.decode(errors="replace") if isinstance(found, bytes) else found

    async def mark_ledger(self, ledger_id: str) -> None:
        self._ledger_id = ledger_id
        async with translated():
            await self._client.commands.set(self._ledger_key, ledger_id)

    async def probe(self) -> None:
        keys = [shard.key for shard in self.shards]
        for shard in self.shards:
            scratch = f"{tagged(shard.key)}:check"
            await probe_commands(self._client, scratch, wakeup_channel(shard.key))
        roles = [f"{self._name}:{role}" for role in ROLES]
        markers = [shard.marker_key for shard in self.shards]
        await probe_keys(
            self._client, [*keys, self.presence.key], [*markers, *roles, self._ledger_key]
        )
        await probe_channels(self._client, [wakeup_channel(key) for key in keys])


class RedisShard:
    """One ZSET of the pool. See `node_timeout.ports.Shard` for the contract."""

    def __init__(self, client: RedisClient, key: str, wakeups: Wakeups, clock: PoolClock) -> None:
        self.key = key
        self.marker_key = f"{tagged(key)}:reconciled_run_id"
        self._client = client
        self._wakeups = wakeups
        self._clock = clock

    async def claim(self, limit: int, lease_seconds: float, ahead_seconds: float = 0.0) -> Claim:
        reply = await self._client.call(
            "claim", self.key, limit, repr(lease_seconds), repr(ahead_seconds)
        )
        now, lease, next_due_at, *pairs = (
            part.decode("utf-8", "surrogateescape") for part in reply
        )
        self._clock.observe(float(now))
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
            removed += int(await self._client.call("finish", self.key, repr(lease), *names))
        return removed

    async def release(self, members: Sequence[ClaimedMember], lease: float) -> int:
        released = 0
        for chunk in _chunks(members):
            pairs = [part for each in chunk for part in (repr(each.deadline), _encode(each.member))]
            released += int(await self._client.call("release", self.key, repr(lease), *pairs))
        return released

    async def wait(self, seconds: float) -> None:
        await self._wakeups.wait(self.key, seconds)

    async def add(self, mode: str, due: Sequence[DueRun]) -> int:
        added = 0
        channel = wakeup_channel(self.key)
        for chunk in _chunks(due):
            pairs = [part for each in chunk for part in (repr(each.due_at), each.run_id)]
            count, now = await self._client.call("arm", self.key, mode, channel, *pairs)
            self._clock.observe(float(now))
            added += int(count)
        return added

    async def put_back(self, due: Sequence[DueRun]) -> None:
        for chunk in _chunks(due):
            triples = [
                part
                for each in chunk
                for part in (_or_empty(each.lease), repr(each.due_at), each.run_id)
            ]
            channel = wakeup_channel(self.key)
            now = await self._client.call("put_back", self.key, channel, *triples)
            self._clock.observe(float(now))

    async def remove(self, members: Sequence[str]) -> int:
        removed = 0
        for chunk in _chunks(members):
            async with translated():
                removed += await self._client.commands.zrem(self.key, *chunk)
        return removed

    async def put(self, members: Mapping[str, float]) -> None:
        for chunk in _chunks(list(members.items())):
            async with translated():
                await self._client.commands.zadd(self.key, dict(chunk))

    async def scores(self, members: Sequence[str]) -> dict[str, float]:
        """The scores of those members that are in this shard."""
        found: dict[str, float] = {}
        for chunk in _chunks(members):
            async with translated():
                scores = await self._client.commands.zmscore(self.key, list(chunk))
            pairs = zip(chunk, scores, strict=True)
            found |= {each: float(score) for each, score in pairs if score is not None}
        return found

    async def counts(self, now: float) -> PoolCounts:
        async with translated():
            armed = await self._client.commands.zcard(self.key)
            overdue = await self._client.commands.zcount(self.key, "-inf", repr(now))
            first = await self._client.commands.zrange(self.key, 0, 0, withscores=True)
            oldest = max(0.0, now - float(first[0][1])) if first else 0.0
            overdue_for = {
                seconds: await self._client.commands.zcount(self.key, "-inf", repr(now - seconds))
                if oldest >= seconds
                else 0  # the usual case: no need to ask
                for seconds in OVERDUE_SECONDS
            }
        return PoolCounts(
            armed=armed,
            overdue=overdue,
            oldest_overdue_seconds=oldest,
            overdue_for=overdue_for,
        )

    async def identity(self) -> tuple[str, str]:
        """The run_id of the server that has this key, and the run_id in its marker."""
        run_id, marker = await self._client.call("identity", self.marker_key)
        return run_id.decode(), marker.decode(errors="replace")


async def _all(calls: Iterable[Awaitable[T]]) -> list[T]:
    """Make every call even if one fails: a shard that is down does not block the others."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if not isinstance(result, BaseException)]


def _or_empty(number: float | None) -> str:
    return "" if number is None else repr(number)


def _encode(member: str) -> bytes:
    return member.encode("utf-8", "surrogateescape")


def _chunks(items: Sequence[T]) -> list[Sequence[T]]:
    return [items[i : i + MEMBERS_PER_CALL] for i in range(0, len(items), MEMBERS_PER_CALL)]
