"""What only the pool in Redis has to mind."""

import asyncio

import pytest

from node_timeout.domain.errors import PoolUnavailableError
from node_timeout.domain.run import DueRun
from node_timeout.stores.redis import wakeups as room
from node_timeout.stores.redis.pool import RedisPool
from tests.servers import RedisServer
from tests.support import id_of


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


async def test_a_write_on_a_closed_connection_is_an_outage(
    pool: RedisPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a closed transport of Python 3.12 answers; the listener hears again after it."""
    failed = asyncio.Event()

    def closed(*_: object) -> None:
        failed.set()
        raise TypeError("'NoneType' object is not callable")

    due = [DueRun(run_id=id_of("a"), due_at=await pool.now() + 60)]
    with monkeypatch.context() as patch:
        patch.setattr(asyncio.StreamWriter, "writelines", closed)
        for call in (pool.ping(), pool.arm(due), pool.counts(), pool.disarm([id_of("a")])):
            with pytest.raises(PoolUnavailableError, match="a connection was closed in use"):
                await call
        patch.setattr(room, "SUBSCRIBE_AGAIN_SECONDS", 0)
        failed.clear()
        waiting = asyncio.create_task(pool.shards[0].wait(60))
        await asyncio.wait_for(failed.wait(), 5)
    await pool.ping()
    await asyncio.wait_for(waiting, 10)
