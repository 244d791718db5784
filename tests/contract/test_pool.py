"""The contract of the executing pool, on Redis, on the Valkey that `dev` embeds, and in memory."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from node_timeout.domain.errors import PoolUnavailableError
from node_timeout.domain.run import DueRun
from node_timeout.embedded.dev import embedded
from node_timeout.ports.pool import Pool
from node_timeout.stores.memory.pool import MemoryPool
from node_timeout.stores.redis.pool import RedisPool
from node_timeout.testing.contracts.pool import *  # noqa: F403 - the suite
from node_timeout.testing.contracts.pool import FUTURE, due
from tests.servers import RedisServer, free_port
from tests.support import absent, id_of


@contextlib.asynccontextmanager
async def server(kind: str, redis_server: RedisServer, tmp_path: Path) -> AsyncIterator[str]:
    if kind == "redis":
        async with Redis.from_url(redis_server.url) as client:
            await client.flushall()
        yield redis_server.url
    else:
        async with embedded(tmp_path) as stores:
            yield stores.redis_url


@pytest.fixture(params=["redis", "valkey", "memory"])
async def pool(
    request: pytest.FixtureRequest, redis_server: RedisServer, tmp_path: Path
) -> AsyncIterator[Pool]:
    """Of the suite."""
    if request.param == "memory":
        yield MemoryPool()
        return
    async with server(request.param, redis_server, tmp_path) as url:
        pool = RedisPool(url, "contract_pool")
        yield pool
        await pool.close()


@pytest.fixture(params=["redis", "valkey"])
async def url(
    request: pytest.FixtureRequest, redis_server: RedisServer, tmp_path: Path
) -> AsyncIterator[str]:
    async with server(request.param, redis_server, tmp_path) as url:
        yield url


@pytest.fixture
async def redis_pool(url: str) -> AsyncIterator[RedisPool]:
    pool = RedisPool(url, "contract_pool")
    yield pool
    await pool.close()


async def test_an_instant_that_has_passed_is_not_after_the_servers_own(
    redis_pool: RedisPool, url: str
) -> None:
    async with Redis.from_url(url) as redis:
        for _ in range(20):
            passed = await redis_pool.passed()
            seconds, microseconds = await redis.time()
            assert passed is not None
            assert passed <= seconds + microseconds / 1e6
            assert await redis_pool.now() - passed < 0.5


async def test_an_earlier_deadline_wakes_a_waiting_scanner(redis_pool: RedisPool, url: str) -> None:
    other = RedisPool(url, "contract_pool")
    await redis_pool.arm(await due(redis_pool, FUTURE, "late"))
    await redis_pool.shards[0].wait(0.2)  # subscribes
    waiting = asyncio.create_task(redis_pool.shards[0].wait(60))
    await other.arm(await due(other, FUTURE / 2, "earlier"))
    await asyncio.wait_for(waiting, 5)
    waiting = asyncio.create_task(redis_pool.shards[0].wait(0.3))
    await other.arm(await due(other, FUTURE * 2, "later"))
    started = asyncio.get_running_loop().time()
    await waiting
    assert asyncio.get_running_loop().time() - started > 0.25, "a later deadline wakes nobody"
    await other.close()


async def test_lost_data_is_noticed_until_it_is_reconciled(redis_pool: RedisPool, url: str) -> None:
    assert await redis_pool.may_have_lost_data()
    await redis_pool.mark_reconciled()
    assert not await redis_pool.may_have_lost_data()
    async with Redis.from_url(url) as client:
        await client.flushall()
    assert await redis_pool.may_have_lost_data()


async def test_its_clock_is_rediss(redis_pool: RedisPool, url: str) -> None:
    async with Redis.from_url(url) as client:
        seconds, microseconds = await client.time()
    assert await redis_pool.now() - (seconds + microseconds / 1e6) == pytest.approx(0, abs=0.5)


async def test_a_member_that_is_no_text_can_be_claimed_and_finished(
    redis_pool: RedisPool, url: str
) -> None:
    async with Redis.from_url(url) as client:
        await client.zadd("contract_pool", {b"\xff\xfe": 1.0})
    claim = await redis_pool.shards[0].claim(10, 5)
    assert (
        await redis_pool.shards[0].finish([each.member for each in claim.members], claim.lease) == 1
    )


async def test_without_redis_every_call_says_so_and_the_clock_goes_on() -> None:
    pool = RedisPool(f"redis://127.0.0.1:{free_port()}/0", "nowhere")
    some = [DueRun(run_id=id_of("a"), due_at=1.0)]
    for call in (
        lambda: pool.arm(some),
        lambda: pool.shards[0].claim(1, 1),
        lambda: pool.disarm([some[0].run_id]),
        lambda: absent(pool, [some[0].run_id]),
        pool.counts,
        pool.may_have_lost_data,
        pool.ping,
    ):
        with pytest.raises(PoolUnavailableError, match="Redis"):
            await call()
    assert await pool.now() > 1e9
    await pool.resign("reconciler", "nobody")
    await pool.close()
