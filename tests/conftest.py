"""Private servers, started once, and stores on them that each test finds empty."""

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from redis.asyncio import Redis
from sqlalchemy import text

from node_timeout.ports.exchange import Exchange
from node_timeout.setting_rules import PREFIX
from node_timeout.settings import Settings
from node_timeout.stores.memory.exchange import MemoryExchange
from node_timeout.stores.memory.ledger import MemoryLedger
from node_timeout.stores.rabbitmq.exchange import RabbitExchange
from node_timeout.stores.redis.pool import RedisPool
from node_timeout.stores.sql.ledger import SqlLedger
from node_timeout.stores.sql.schema import Schema
from tests.secret_watch import nothing_secret_is_logged  # noqa: F401 - a fixture
from tests.servers import (
    SECRET,
    MariadbServer,
    PgbouncerServer,
    PostgresServer,
    RabbitServer,
    RedisServer,
)

collect_ignore: list[str] = []
if find_spec("pipeline"):
    # The environment of `make test-bamboo`; elsewhere there is no bamboo-pipeline to test with.
    from tests.bamboo.house import house  # noqa: F401 - a fixture
else:
    collect_ignore = ["bamboo", "regressions/test_bamboo_defects.py"]
if os.environ.get("BKFLOW_PROJECT_PYTHON"):
    # By `make test-bkflow`, which makes the project's environment.
    from tests.bkflow.house import a_house, hands  # noqa: F401 - fixtures
else:
    collect_ignore = [*collect_ignore, "bkflow"]

NO_CANARY = f"{PREFIX}CANARY_INTERVAL"
TABLES = [f"node_timeout_{name}" for name in ("run", "config", "setting", "history", "token")]
DATABASES = ("sqlite", "postgresql", "mariadb", "pgbouncer")
"""The last is PostgreSQL behind PgBouncer in transaction mode."""


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the person who runs the tests leaks in.

    No canary either, but where it is tested: others count the runs that there are.
    """
    for name in list(os.environ):
        if name.startswith(PREFIX):
            monkeypatch.delenv(name)
    monkeypatch.setenv(NO_CANARY, "0")


@pytest.fixture(autouse=True)
async def no_leaked_tasks() -> AsyncIterator[None]:
    """Whatever a test starts, it ends."""
    yield
    until = asyncio.get_running_loop().time() + 2
    while others := asyncio.all_tasks() - {asyncio.current_task()}:
        assert asyncio.get_running_loop().time() < until, f"tasks left behind: {others}"
        await asyncio.sleep(0.01)


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    directory = tmp_path_factory.mktemp("redis")
    with RedisServer(directory, password=f"{SECRET}-redis") as server:
        yield server


@pytest.fixture(scope="session")
def rabbit_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitServer]:
    directory = tmp_path_factory.mktemp("rabbit")
    with RabbitServer(directory, password=f"{SECRET}-rabbit") as server:
        yield server


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    directory = tmp_path_factory.mktemp("postgres")
    with PostgresServer(directory, password=f"{SECRET}-postgres") as server:
        yield server


@pytest.fixture(scope="session")
def mariadb_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MariadbServer]:
    directory = tmp_path_factory.mktemp("mariadb")
    with MariadbServer(directory, password=f"{SECRET}-mariadb") as server:
        yield server


@pytest.fixture(scope="session")
def pgbouncer_server(postgres_server: PostgresServer) -> Iterator[PgbouncerServer]:
    with PgbouncerServer(postgres_server) as server:
        yield server


@pytest.fixture(scope="session")
def create_database(request: pytest.FixtureRequest) -> Callable[[str, str], str]:
    """Create a database of a kind, not SQLite, by name; return its URL."""

    def create(kind: str, name: str) -> str:
        fixture = {"mariadb": "mariadb_server"}.get(kind, "postgres_server")
        url: str = request.getfixturevalue(fixture).create_database(name)
        if kind == "pgbouncer":
            url = request.getfixturevalue("pgbouncer_server").url_of(url)
        return url

    return create


class _Databases:
    """One migrated database a kind, made at first use."""

    def __init__(self, create: Callable[[str, str], str], directory: Path) -> None:
        self._create_database = create
        self._directory = directory
        self._urls: dict[str, str] = {}

    async def url(self, kind: str) -> str:
        if kind not in self._urls:
            self._urls[kind] = self._create(kind)
            schema = Schema(self._urls[kind])
            await schema.migrate()
            await schema.close()
        return self._urls[kind]

    async def emptied(self, kind: str) -> str:
        url = await self.url(kind)
        ledger = SqlLedger(url)
        async with ledger.engine.begin() as connection:
            for table in TABLES:
                await connection.execute(text(f"DELETE FROM {table}"))
        await ledger.close()
        return url

    def _create(self, kind: str) -> str:
        if kind == "sqlite":
            return f"sqlite:///{self._directory / 'ledger.db'}"
        return self._create_database(kind, f"node_timeout_{kind}")


@pytest.fixture(scope="session")
def databases(
    create_database: Callable[[str, str], str], tmp_path_factory: pytest.TempPathFactory
) -> _Databases:
    return _Databases(create_database, tmp_path_factory.mktemp("databases"))


@pytest.fixture(params=DATABASES)
async def any_database_url(request: pytest.FixtureRequest, databases: _Databases) -> str:
    """Each of the databases in turn."""
    return await databases.emptied(request.param)


@pytest.fixture
async def sqlite_url(databases: _Databases) -> str:
    return await databases.emptied("sqlite")


@pytest.fixture
async def postgres_url(databases: _Databases) -> str:
    return await databases.emptied("postgresql")


@pytest.fixture
async def any_ledger(any_database_url: str) -> AsyncIterator[SqlLedger]:
    ledger = SqlLedger(any_database_url)
    yield ledger
    await ledger.close()


@pytest.fixture(params=[*DATABASES, "memory"])
async def any_store(
    request: pytest.FixtureRequest, databases: _Databases
) -> AsyncIterator[SqlLedger | MemoryLedger]:
    """A ledger in each of the databases, and in memory."""
    if request.param == "memory":
        yield MemoryLedger()
        return
    ledger = SqlLedger(await databases.emptied(request.param))
    yield ledger
    await ledger.close()


@pytest.fixture
async def ledger(sqlite_url: str) -> AsyncIterator[SqlLedger]:
    ledger = SqlLedger(sqlite_url)
    yield ledger
    await ledger.close()


@pytest.fixture
async def redis(redis_server: RedisServer) -> AsyncIterator[Redis]:
    """A bare client of the emptied Redis."""
    client = Redis.from_url(redis_server.url)
    await client.flushall()
    yield client
    await client.aclose()


@pytest.fixture
async def pool(redis: Redis, redis_server: RedisServer) -> AsyncIterator[RedisPool]:
    pool = RedisPool(redis_server.url, "test_pool")
    yield pool
    await pool.close()


@pytest.fixture
def memory_exchange() -> MemoryExchange:
    return MemoryExchange()


@pytest.fixture
def names() -> dict[str, str]:
    """Names of an exchange and a dispatch queue that no other test uses."""
    unique = uuid.uuid4().hex[:12]
    return {"dispatch_exchange": f"exchange-{unique}", "dispatch_queue": f"dispatch-{unique}"}


@pytest.fixture
async def rabbit(
    rabbit_server: RabbitServer, names: dict[str, str]
) -> AsyncIterator[RabbitExchange]:
    """A RabbitMQ exchange with a dispatch queue and one handle queue, ``<dispatch>-slow``."""
    dispatch = names["dispatch_queue"]
    exchange = RabbitExchange(
        rabbit_server.url,
        exchange=names["dispatch_exchange"],
        queues=[dispatch, f"{dispatch}-slow"],
        queue_type="quorum",
    )
    yield exchange
    await exchange.close()


@pytest.fixture(params=["rabbit", "memory_exchange"])
def exchange(request: pytest.FixtureRequest) -> Exchange:
    """RabbitMQ, and the one in memory."""
    found: Exchange = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def queue(names: dict[str, str]) -> str:
    """The dispatch queue of both."""
    return names["dispatch_queue"]


@pytest.fixture
async def settings(
    redis: Redis,
    redis_server: RedisServer,
    rabbit_server: RabbitServer,
    postgres_url: str,
    names: dict[str, str],
) -> Settings:
    """Settings of the real stores, PostgreSQL among them, with an engine that only tells."""
    return Settings(
        database_url=postgres_url,
        redis_url=redis_server.url,
        amqp_url=rabbit_server.url,
        engine="dry_run",
        **names,
    )
