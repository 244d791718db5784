"""Through PgBouncer in transaction mode: everything works, and nothing is left behind there.

The contract of the ledger, the migrations and the costs are tested through it as well, as one of
`tests.conftest.DATABASES`.
"""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import asyncpg
import pytest
from sqlalchemy import event

from node_timeout.settings import Settings
from node_timeout.stores.sql.ledger import SqlLedger
from node_timeout.stores.sql.postgres_sessions import PLANNER
from node_timeout.stores.sql.schema import Schema
from tests.conftest import _Databases
from tests.integration.test_outages import all_failed, arm, changed, serving
from tests.servers import PgbouncerServer, PostgresServer
from tests.support import config, configure, run, started

WATCHED = (*PLANNER, "jit")  # asyncpg sets the last one
SESSION = "SELECT pg_backend_pid(), (SELECT count(*) FROM pg_prepared_statements), " + ", ".join(
    f"current_setting('{name}')" for name in WATCHED
)


@pytest.fixture
async def pooled_url(databases: _Databases) -> str:
    return await databases.emptied("pgbouncer")


@pytest.fixture
def second_pgbouncer(postgres_server: PostgresServer) -> Iterator[PgbouncerServer]:
    with PgbouncerServer(postgres_server) as server:
        yield server


async def sessions(url: str, times: int = 40) -> dict[int, tuple[Any, ...]]:
    """What another application meets in the sessions that it is lent, by the server's process."""
    client = await asyncpg.connect(url, statement_cache_size=0)
    found: dict[int, tuple[Any, ...]] = {}
    for _ in range(times):
        async with client.transaction():
            pid, *rest = await client.fetchrow(SESSION)
        found.setdefault(pid, tuple(rest))
        assert found[pid] == tuple(rest)
    await client.close()
    return found


async def busy(ledger: SqlLedger, version: str = "v1") -> None:
    """Use every kind of statement, on several connections at once."""
    runs = [[run(f"n{task}-{i}", version) for i in range(20)] for task in range(6)]
    await configure(ledger, *(config(each.node_id) for some in runs for each in some))
    due = await asyncio.gather(*(ledger.arm(started(some), 1000.0) for some in runs))
    await asyncio.gather(*(ledger.arm(started([some[0]]), 1000.0) for some in runs))
    takings = await asyncio.gather(
        *(ledger.take(some, now=2000.0, lease_seconds=60, max_attempts=3) for some in due)
    )
    assert sum(len(taking.taken) for taking in takings) == 120
    held = await asyncio.gather(*(ledger.owners([each.run_id for each in some]) for some in runs))
    assert sum(map(len, held)) == 120


async def test_another_application_meets_nothing_of_ours(
    create_database: Callable[[str, str], str], postgres_url: str
) -> None:
    plain = await asyncpg.connect(postgres_url)
    default = [await plain.fetchval(f"SHOW {name}") for name in WATCHED]
    await plain.close()
    pooled_url = create_database("pgbouncer", "shared")
    schema = Schema(pooled_url)
    await schema.migrate()
    await schema.close()
    ledger = SqlLedger(pooled_url)
    for version in ("v1", "v2", "v3"):
        await busy(ledger, version)
    found = await sessions(pooled_url)
    assert len(found) > 1, "one session alone shows little"
    assert set(found.values()) == {(0, *default)}
    await ledger.close()


async def test_each_transaction_is_planned_as_directly(pooled_url: str) -> None:
    ledger = SqlLedger(pooled_url)
    for _ in range(2):
        async with ledger.engine.begin() as connection:
            for name, value in PLANNER.items():
                assert (await connection.exec_driver_sql(f"SHOW {name}")).scalar_one() == value
    await ledger.close()


async def test_directly_nothing_is_set_but_once_and_statements_are_kept(postgres_url: str) -> None:
    ledger = SqlLedger(postgres_url)
    statements: list[str] = []
    await ledger.check_schema()
    event.listen(
        ledger.engine.sync_engine, "before_cursor_execute", lambda *args: statements.append(args[2])
    )
    async with ledger.engine.begin() as connection:
        driver: Any = (await connection.get_raw_connection()).driver_connection
        for _ in range(3):
            await connection.exec_driver_sql("SELECT 'kept'")
        kept = await driver.fetchval(
            "SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE '%''kept''%'"
        )
    assert kept == 2, "this question itself, and the one kept for three"
    assert statements == ["SELECT 'kept'"] * 3
    await ledger.close()


async def test_a_node_is_dealt_with_through_a_pooler(settings: Settings, pooled_url: str) -> None:
    async with serving(changed(settings, database_url=pooled_url)) as (app, engine):
        await arm(app, engine, 0.5, *(f"n{i}" for i in range(50)))
        await all_failed(engine, 50)
    assert {prepared for prepared, *_ in (await sessions(pooled_url)).values()} == {0}


async def test_of_several_poolers_one_that_is_there_is_taken(
    pgbouncer_server: PgbouncerServer, second_pgbouncer: PgbouncerServer, pooled_url: str
) -> None:
    hosts = f"127.0.0.1:{pgbouncer_server.port},127.0.0.1:{second_pgbouncer.port}"
    ledger = SqlLedger(pooled_url.replace(f"127.0.0.1:{pgbouncer_server.port}", hosts))
    await busy(ledger)
    second_pgbouncer.kill()
    await configure(ledger, config("a"))
    assert await ledger.arm(started([run("a")]), 1000.0)
    await ledger.close()


async def test_a_pooler_that_restarts_is_found_again(
    second_pgbouncer: PgbouncerServer, pooled_url: str
) -> None:
    ledger = SqlLedger(second_pgbouncer.url_of(pooled_url))
    await configure(ledger, config("a"))
    await asyncio.to_thread(second_pgbouncer.stop)
    await asyncio.to_thread(second_pgbouncer.start)
    assert await ledger.arm(started([run("a")]), 1000.0)
    await ledger.close()
