"""Fault 6: the database is down, slow, read-only, or has its connections killed."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from node_timeout import Settings
from node_timeout.stores.sql.database import create_engine, dispose
from tests.chaos.house import WORKER_LEASE, House, behind_proxy, changed, scaled
from tests.chaos.proxy import Proxy
from tests.chaos.results import Row
from tests.servers import MariadbServer, PostgresServer, RedisServer

DOWN_SECONDS = WORKER_LEASE + 2


class Database:
    """What is done to a database, by its own statements."""

    def __init__(self, server: PostgresServer | MariadbServer, url: str) -> None:
        self.server = server
        self.is_postgres = isinstance(server, PostgresServer)
        self.url = url
        self.name = url.rpartition("/")[2]
        self.engine = create_engine(url)

    async def run(self, *statements: str) -> list[Any]:
        """On one connection, each in a transaction of its own; the rows of the last."""
        rows: list[Any] = []
        autocommit = self.engine.execution_options(isolation_level="AUTOCOMMIT")
        async with autocommit.connect() as connection:
            for statement in statements:
                found = await connection.execute(text(statement))
                rows = list(found) if found.returns_rows else []
        return rows

    async def plain_user(self) -> str:
        """The URL of a user for whom ``read_only`` counts: it may do everything in its database."""
        if self.is_postgres:
            return self.url
        await self.run(
            "CREATE OR REPLACE USER 'plain'@'127.0.0.1' IDENTIFIED BY 'plain'",
            f"GRANT ALL ON `{self.name}`.* TO 'plain'@'127.0.0.1'",
        )
        return (
            urlsplit(self.url)._replace(netloc=f"plain:plain@127.0.0.1:{self.server.port}").geturl()
        )

    async def down(self) -> None:
        """Longer than a worker's lease."""
        self.server.kill()
        await asyncio.sleep(DOWN_SECONDS)
        await asyncio.to_thread(self.server.start)
        await self.engine.dispose(close=False)

    async def connections_killed(self) -> None:
        for _ in range(10):
            if self.is_postgres:
                await self.run(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    f"WHERE datname = '{self.name}' AND pid <> pg_backend_pid()"
                )
            else:
                for row in await self.run(
                    "SELECT id FROM information_schema.processlist "
                    f"WHERE db = '{self.name}' AND id <> connection_id()"
                ):
                    try:
                        await self.run(f"KILL {row.id}")
                    except DBAPIError:
                        continue  # gone by itself
            await asyncio.sleep(0.2)

    async def deadlocks(self) -> None:
        """Rows are locked in the other order than ours, and held for a moment.

        Until that has made at least one deadlock.
        """
        before, until = await self.deadlock_count(), time.monotonic() + 30
        for i in itertools.count():
            if i >= 10 and await self.deadlock_count() > before:
                return
            assert time.monotonic() < until, "no deadlock came about"
            try:
                async with self.engine.begin() as connection:
                    for direction in ("DESC", "ASC"):
                        await connection.execute(
                            text(
                                "SELECT run_id FROM node_timeout_run "
                                "WHERE state IN ('armed', 'executing') "
                                f"ORDER BY run_id {direction} LIMIT 20 FOR UPDATE"
                            )
                        )
                        await asyncio.sleep(0.1)
            except DBAPIError:
                continue  # this time we were the victim

    async def deadlock_count(self) -> int:
        """By the server's own count, which it tells with a delay."""
        if self.is_postgres:
            query = f"SELECT deadlocks FROM pg_stat_database WHERE datname = '{self.name}'"
        else:
            query = (
                "SELECT variable_value FROM information_schema.global_status "
                "WHERE variable_name = 'INNODB_DEADLOCKS'"
            )
        ((count,),) = await self.run(query)
        return int(count)

    async def slow(self) -> None:
        """Every statement waits for a lock on the whole table, for most of a lease."""
        async with self.engine.begin() as connection:
            if self.is_postgres:
                await connection.execute(text("LOCK TABLE node_timeout_run"))
            else:
                await connection.execute(text("LOCK TABLES node_timeout_run WRITE"))
            await asyncio.sleep(2.5)
            if not self.is_postgres:
                await connection.execute(text("UNLOCK TABLES"))

    async def read_only(self) -> None:
        if self.is_postgres:
            await self.run(f'ALTER DATABASE "{self.name}" SET default_transaction_read_only = on')
            await self.connections_killed()
            await self.run(
                "SET default_transaction_read_only = off",
                f'ALTER DATABASE "{self.name}" RESET default_transaction_read_only',
            )
            await self.connections_killed()
        else:
            await self.run("SET GLOBAL read_only = ON")
            try:
                await asyncio.sleep(2.5)
            finally:
                await self.run("SET GLOBAL read_only = OFF")


FAULTS: dict[str, tuple[Callable[[Database], Awaitable[None]], str]] = {
    "kill -9": (Database.down, f"down for {DOWN_SECONDS:g} s, longer than a lease"),
    "connections killed": (Database.connections_killed, "all of them, 10 times in 2 s"),
    "deadlocks": (Database.deadlocks, "rows locked in the other order, 10 times or more"),
    "table locked": (Database.slow, "for 2.5 s, most of a lease"),
    "read-only": (Database.read_only, "for 2 s"),
}


@pytest.fixture(params=["postgresql", "mariadb"])
async def database(
    request: pytest.FixtureRequest, databases: Any
) -> AsyncIterator[tuple[Database, str]]:
    url = await databases.emptied(request.param)
    server = request.getfixturevalue(
        {"postgresql": "postgres_server", "mariadb": "mariadb_server"}[request.param]
    )
    database = Database(server, url)
    yield database, await database.plain_user()
    server.start()
    await dispose(database.engine)


# SQLAlchemy drops a connection that is killed while it is being set up. It closes when it is
# collected, and its parts warn of that, each in its own words.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", FAULTS)
async def test_the_database_fails_under_load(
    settings: Settings,
    engine_server: RedisServer,
    database: tuple[Database, str],
    tmp_path: Any,
    name: str,
    row: Row,
) -> None:
    fault, tried = FAULTS[name]
    stores, url = database
    times = scaled(1, 3)
    kind = "PostgreSQL" if stores.is_postgres else "MariaDB"
    row.of(fault=f"{kind}: {name}", tried=f"{tried}, under load", times=times)
    here = changed(settings, database_url=url)
    async with House(here, engine_server.url, tmp_path, row) as house:
        await house.spawn("scan")
        await house.spawn("worker")
        async with house.steadily(per_second=100):
            for _ in range(times):
                await asyncio.sleep(0.5)
                with house.outage():
                    await fault(stores)
                await asyncio.sleep(1)
        await house.verdict(late_seconds=10)


def slow_commits(proxy: Proxy) -> None:
    proxy.commit_delay = 1.0


def lost_commit_answers(proxy: Proxy) -> None:
    proxy.loses_commit_answers = True


COMMITS: dict[str, tuple[Callable[[Proxy], None], str]] = {
    "slow commits": (slow_commits, "each COMMIT takes a second, for 3 s"),
    "commits unanswered": (
        lost_commit_answers,
        "each COMMIT is done and its connection reset, for 3 s",
    ),
}


@pytest.mark.parametrize("name", COMMITS)
async def test_commits_are_slow_or_unanswered(
    settings: Settings,
    engine_server: RedisServer,
    database: tuple[Database, str],
    tmp_path: Any,
    name: str,
    row: Row,
) -> None:
    """The processes reach the database by a proxy that knows a COMMIT when it sees one."""
    fault, tried = COMMITS[name]
    stores, _ = database
    times = scaled(1, 3)
    kind = "PostgreSQL" if stores.is_postgres else "MariaDB"
    row.of(fault=f"{kind}: {name}", tried=f"{tried}, under load", times=times)
    direct = changed(settings, database_url=stores.url)
    async with (
        behind_proxy(direct, "database_url") as (proxy, here),
        House(direct, engine_server.url, tmp_path, row) as house,
    ):
        await house.spawn("scan", settings=here)
        await house.spawn("worker", settings=here)
        async with house.steadily(per_second=100):
            for _ in range(times):
                await asyncio.sleep(0.5)
                struck = proxy.commits_struck
                with house.outage():
                    fault(proxy)
                    await asyncio.sleep(3)
                    proxy.heal()
                assert proxy.commits_struck > struck
                await asyncio.sleep(1)
        await house.verdict(late_seconds=10)
