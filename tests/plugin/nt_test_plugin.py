"""A package as a user would write it: an engine and two strategies, found by their entry points.

The engine's state is in Redis, so that a test sees what worker processes do to it:

    engine:running   HASH  node id → current version
    engine:effects   LIST  JSON {node_id, version, effect, deadline, at}, in order; ``at`` by the
                           clock of Redis
"""

import asyncio
import json
import os

from redis.asyncio import Redis

from node_timeout import (
    NodeRunSupersededError,
    NodeTimeoutStrategy,
    Settings,
    StrategyResult,
    TimedOutNode,
)

ACT = """
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then
  return 0
end
redis.call('HDEL', KEYS[1], ARGV[1])
local time = redis.call('TIME')
local effect = cjson.decode(ARGV[3])
effect['at'] = string.format('%.6f', tonumber(time[1]) + tonumber(time[2]) / 1e6)
redis.call('RPUSH', KEYS[2], cjson.encode(effect))
return 1
"""


class RecordingEngine:
    """Keeps the version of each running node; an effect is recorded and ends it, in one step."""

    def __init__(self, settings: Settings) -> None:
        del settings
        self.redis: Redis = Redis.from_url(os.environ["ENGINE_REDIS_URL"])

    async def is_running(self, node: TimedOutNode) -> bool:
        version = await self.redis.hget("engine:running", node.node_id)
        return version is not None and version == node.version.encode()

    async def forced_fail(self, node: TimedOutNode, reason: str) -> str:
        await self.act(node, "failed")
        return "failed"

    async def forced_fail_and_skip(self, node: TimedOutNode, reason: str) -> str:
        await self.act(node, "skipped")
        return "failed and skipped"

    async def act(self, node: TimedOutNode, effect: str) -> None:
        record = {
            "node_id": node.node_id,
            "version": node.version,
            "effect": effect,
            "deadline": repr(node.deadline),
        }
        keys = ("engine:running", "engine:effects")
        done = await self.redis.eval(ACT, 2, *keys, node.node_id, node.version, json.dumps(record))
        if not done:
            raise NodeRunSupersededError("no longer running at this version")

    async def close(self) -> None:
        await self.redis.aclose()


class PageOperator(NodeTimeoutStrategy):
    """Notes who has to be called, and leaves the node running."""

    async def deal_with_timeout_node(self, node: TimedOutNode) -> StrategyResult:
        assert isinstance(self.engine, RecordingEngine)
        await self.engine.redis.rpush("pages", node.node_id)
        return StrategyResult(True, "operator paged")


class Hang(NodeTimeoutStrategy):
    """Takes its time, then fails the node."""

    async def deal_with_timeout_node(self, node: TimedOutNode) -> StrategyResult:
        assert isinstance(self.engine, RecordingEngine)
        await self.engine.redis.rpush("hanging", node.node_id)
        await asyncio.sleep(float(os.environ.get("HANG_SECONDS", "1")))
        return StrategyResult(True, await self.engine.forced_fail(node, "hung"))
