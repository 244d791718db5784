"""A house on stores that these tests may kill, and an engine that no fault touches."""

import json
import os
import random
import sys
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path

import pytest
from _pytest._code.code import ExceptionRepr
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff

from node_timeout import Settings
from tests.chaos import results
from tests.chaos.results import Row
from tests.servers import RabbitServer, RedisServer

sys.path.insert(0, str(Path(__file__).parent / "planted"))

from tests.chaos.house import SETTINGS, House

ROW = pytest.StashKey[Row]()
PASSED = pytest.StashKey[bool]()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whoever asks for a row owes one; before any test is left out."""
    rows = [item.nodeid for item in items if "row" in getattr(item, "fixturenames", ())]
    results.write({"expected": test} for test in rows)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failure tells the seed that repeats it; the row learns what became of its test."""
    report = yield
    if report.when == "call":
        item.stash[PASSED] = report.passed
    row = item.stash.get(ROW, None)
    if report.failed and row and isinstance(report.longrepr, ExceptionRepr):
        report.longrepr.addsection("to repeat it", f"CHAOS_SEED={row.seed}")
    return report


@pytest.fixture
def row(request: pytest.FixtureRequest) -> Iterator[Row]:
    """The line of the results that this test is to fill in; written behind it in any case."""
    seed = os.environ.get("CHAOS_SEED") or str(random.SystemRandom().randrange(1_000_000))
    print(f"\nCHAOS_SEED={seed}", flush=True)
    row = request.node.stash[ROW] = Row(test=request.node.nodeid, seed=seed)
    yield row
    line = row.line(passed=request.node.stash.get(PASSED, False))
    print(json.dumps(line))
    results.write([line])
    assert row.is_judged or not request.node.stash.get(PASSED, False), "a test without a verdict"


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
    settings: Settings, engine_server: RedisServer, tmp_path: Path, row: Row
) -> AsyncIterator[House]:
    async with House(settings, engine_server.url, tmp_path, row) as house:
        yield house
