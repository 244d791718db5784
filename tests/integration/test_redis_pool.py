"""What only the pool in Redis has to mind."""

import asyncio

import pytest

from node_timeout.stores.redis.pool import RedisPool
from tests.servers import RedisServer


@pytest.mark.parametrize("turns", range(12))
async def test_it_closes_whatever_its_listener_is_at(redis_server: RedisServer, turns: int) -> None:
    """Python 3.11 loses a cancellation that comes while SUBSCRIBE is being sent."""
    pool = RedisPool(redis_server.url, "closing")
    await pool.ping()
    waiting = asyncio.create_task(pool.shards[0].wait(60))
    for _ in range(turns):
        await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await asyncio.wait_for(pool.close(), 5)
    assert waiting.done()
