"""A house on stores that these tests may kill, and an engine that no fault touches."""

import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff

from node_timeout import Settings
from tests.servers import RabbitServer, RedisServer

sys.path.insert(0, str(Path(__file__).parent / "planted"))

from tests.chaos.house import SETTINGS, House


@pytest.fixture(scope="session")
def engine_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("engine")) as server:
        yield server


@pytest.fixture(scope="session")
def pool_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    extra = ["--slowlog-log-slower-than", "1000", "--slowlog-max-len", "100000"]
    with RedisServer(tmp_path_factory.mktemp("pool"), extra=extra) as server:
        yield server


@pytest.fixture
async def pool_redis(pool_server: RedisServer) -> AsyncIterator[Redis]:
    """A bare client of the emptied Redis of the pool."""
    pool_server.start()
    retry = Retry(ExponentialBackoff(cap=0.5, base=0.05), 10)
    async with Redis.from_url(pool_server.url, retry=retry) as client:
        await client.flushall()
        await client.slowlog_reset()
        yield client


@pytest.fixture
def settings(
    pool_server: RedisServer,
    pool_redis: Redis,
    rabbit_server: RabbitServer,
    postgres_url: str,
    names: dict[str, str],
) -> Settings:
    rabbit_server.start()
    return Settings(
        database_url=postgres_url,
        redis_url=pool_server.url,
        amqp_url=rabbit_server.url,
        **names,
        **SETTINGS,
    )


@pytest.fixture
async def house(
    settings: Settings, engine_server: RedisServer, tmp_path: Path
) -> AsyncIterator[House]:
    async with House(settings, engine_server.url, tmp_path) as house:
        yield house
