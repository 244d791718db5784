"""The engine and the strategies of the chaos tests; they write the history.

engine:running     HASH    node id → current version
engine:effects     STRING  how many there were
engine:order       LIST    numbers of the tallied nodes, as they were acted on
engine:overloaded  STRING  while it is there, calls of the strategy `Overloaded` fail
history            LIST    see tests/chaos/history.py
"""

import asyncio
import json
import os
import resource
import time
from abc import abstractmethod
from collections.abc import Callable
from functools import wraps
from typing import Any

from nt_faults import FAULTS, HISTORY, RECORD, named
from redis import Redis as BlockingRedis
from redis.asyncio import Redis
from redis.exceptions import RedisError

from node_timeout import (
    EngineUnavailableError,
    NodeRunSupersededError,
    NodeTimeoutStrategy,
    StrategyResult,
    TimedOutNode,
)

RUNNING = "engine:running"
EFFECTS = "engine:effects"
ORDER = "engine:order"
OVERLOADED = "engine:overloaded"
ATTEMPTS_THAT_FAIL = 2
# Acts only on the version that runs, and tells the history whether it did.
ACT = """
local time = redis.call('TIME')
local event = cjson.decode(ARGV[3])
event['at'] = string.format('%.6f', tonumber(time[1]) + tonumber(time[2]) / 1e6)
local done = redis.call('HGET', KEYS[1], ARGV[1]) == ARGV[2]
if done then
  redis.call('HDEL', KEYS[1], ARGV[1])
  redis.call('INCR', KEYS[3])
end
event['kind'] = done and 'effect' or 'refused'
redis.call('RPUSH', KEYS[2], cjson.encode(event))
return done and 1 or 0
"""


# The same with next to no history: for a million nodes.
TALLY = """
if redis.call('HDEL', KEYS[1], ARGV[1]) == 1 then
  redis.call('INCR', KEYS[2])
  redis.call('RPUSH', KEYS[3], ARGV[2])
end
"""


def _told(call: Callable[..., Any]) -> Callable[..., Any]:
    """An engine that is not reached says so in the library's words."""

    @wraps(call)
    async def wrapped(*args: Any) -> Any:
        try:
            return await call(*args)
        except (RedisError, OSError) as error:
            raise EngineUnavailableError(str(error)) from error

    return wrapped


class ChaosEngine:
    """An engine whose every act is in the history, in the same step."""

    def __init__(self, settings: Any) -> None:
        del settings
        self.redis: Redis = Redis.from_url(os.environ["ENGINE_REDIS_URL"])

    async def is_running(self, node: TimedOutNode) -> bool:
        version = await self.redis.hget(RUNNING, node.node_id)
        return version is not None and version == node.version.encode()

    async def forced_fail(self, node: TimedOutNode, reason: str) -> str:
        return await self.act(node)

    async def forced_fail_and_skip(self, node: TimedOutNode, reason: str) -> str:
        return await self.act(node)

    async def act(self, node: TimedOutNode) -> str:
        event = {**named(node.run), "process": "engine"}
        done = await self.redis.eval(
            ACT, 3, RUNNING, HISTORY, EFFECTS, node.node_id, node.version, json.dumps(event)
        )
        if not done:
            raise NodeRunSupersededError("no longer running at this version")
        return "done"

    async def close(self) -> None:
        await self.redis.aclose()
        await FAULTS.history.close()


for _name in ("is_running", "act"):
    setattr(ChaosEngine, _name, _told(FAULTS.wrap("engine", _name, getattr(ChaosEngine, _name))))


class _Chaotic(NodeTimeoutStrategy):
    async def deal_with_timeout_node(self, node: TimedOutNode) -> StrategyResult:
        assert isinstance(self.engine, ChaosEngine)
        await FAULTS.history.record("called", [node.run])
        try:
            return StrategyResult(True, await self.act(node))
        finally:
            await FAULTS.history.record("returned", [node.run])

    async def act(self, node: TimedOutNode) -> str:
        return await self.engine.forced_fail(node, f"node {node.node_id} timed out")


class Chaos(_Chaotic):
    """Fails the node."""


class Tally(NodeTimeoutStrategy):
    """Counts the node, whose name is ``old<number>``."""

    async def deal_with_timeout_node(self, node: TimedOutNode) -> StrategyResult:
        assert isinstance(self.engine, ChaosEngine)
        number = node.node_id.removeprefix("old")
        keys = (RUNNING, EFFECTS, ORDER)
        await self.engine.redis.eval(TALLY, 3, *keys, node.node_id, number)
        return StrategyResult(True, "")


class Slow(_Chaotic):
    """Takes a while (seconds, NT_SLOW) before it fails the node."""

    async def act(self, node: TimedOutNode) -> str:
        await asyncio.sleep(float(os.environ.get("NT_SLOW", "0.05")))
        return await super().act(node)


class _AtFirst(_Chaotic):
    """Goes wrong at the first two attempts."""

    async def act(self, node: TimedOutNode) -> str:
        if node.attempt <= ATTEMPTS_THAT_FAIL:
            await self.go_wrong()
        return await super().act(node)

    @abstractmethod
    async def go_wrong(self) -> None: ...


class Hangs(_AtFirst):
    """Never ends."""

    async def go_wrong(self) -> None:
        await asyncio.Event().wait()


class HangsAfter(_Chaotic):
    """Acts, then does not return: succeeded, and timed out."""

    async def act(self, node: TimedOutNode) -> str:
        await super().act(node)
        await asyncio.Event().wait()
        return ""


class Raises(_AtFirst):
    """Has a bug."""

    async def go_wrong(self) -> None:
        raise RuntimeError("a bug")


class Exits(_AtFirst):
    """Ends the whole process."""

    async def go_wrong(self) -> None:
        os._exit(3)


class EatsMemory(_AtFirst):
    """Asks for memory until there is no more."""

    async def go_wrong(self) -> None:
        assert resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY
        eaten = []
        while True:
            eaten.append(bytearray(16 * 2**20))


class Overloaded(_Chaotic):
    """The engine is asked, and says: later; until it has recovered."""

    async def act(self, node: TimedOutNode) -> str:
        assert isinstance(self.engine, ChaosEngine)
        if await self.engine.redis.exists(OVERLOADED):
            raise EngineUnavailableError("overloaded")
        return await super().act(node)


class Sleeps(NodeTimeoutStrategy):
    """A plain function, which nobody can stop; at first it sleeps longer than a lease lasts."""

    def deal_with_timeout_node(self, node: TimedOutNode) -> StrategyResult:
        event = {**named(node.run), "process": "thread"}
        with BlockingRedis.from_url(os.environ["ENGINE_REDIS_URL"]) as redis:
            redis.eval(RECORD, 1, HISTORY, json.dumps(event | {"kind": "called"}))
            if node.attempt == 1:
                time.sleep(float(os.environ.get("NT_SLEEP", "4")))
            keys = (RUNNING, HISTORY, EFFECTS)
            done = redis.eval(ACT, 3, *keys, node.node_id, node.version, json.dumps(event))
        if not done:
            raise NodeRunSupersededError("no longer running at this version")
        return StrategyResult(True, "done")
