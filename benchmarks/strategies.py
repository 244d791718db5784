"""The strategies that are timed: named by the setting ``handlers``."""

import asyncio
import os

from redis.asyncio import Redis

from benchmarks.tally import Tally
from node_timeout import NodeTimeoutStrategy, TimedOutNode

CALLS = "bench:calls"
TALLY = Tally()


class Empty(NodeTimeoutStrategy):
    """Is counted."""

    async def deal_with_timeout_node(self, node: TimedOutNode) -> None:
        del node
        TALLY.add()


class Rpush(NodeTimeoutStrategy):
    """Is counted, and does one RPUSH of "<instant> <deadline>"."""

    redis: Redis | None = None

    async def deal_with_timeout_node(self, node: TimedOutNode) -> None:
        now = TALLY.add()
        if self.redis is None:
            self.redis = Redis.from_url(os.environ["BENCH_REDIS"])
        await self.redis.rpush(CALLS, f"{now!r} {node.deadline!r}")

    async def close(self) -> None:
        if self.redis is not None:
            await self.redis.aclose()


class Slow(NodeTimeoutStrategy):
    """Is counted, and waits for 50 ms."""

    async def deal_with_timeout_node(self, node: TimedOutNode) -> None:
        del node
        TALLY.add()
        await asyncio.sleep(0.05)
