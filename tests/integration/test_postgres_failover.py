"""PostgreSQL fails over to a standby: the host that takes writes is found, and nothing is lost."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from node_timeout.domain.errors import LedgerUnavailableError, SettingsError
from node_timeout.domain.run import RunState
from node_timeout.settings import Settings
from node_timeout.stores.sql import database
from node_timeout.stores.sql.ledger import SqlLedger
from node_timeout.stores.sql.schema import Schema
from node_timeout.urls.database import read_database_url
from tests.clusters import PostgresPair
from tests.integration.test_outages import all_failed, arm, changed, serving
from tests.servers import PostgresServer, free_port
from tests.support import config, wait_until


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[PostgresPair]:
    with PostgresPair(tmp_path) as pair:
        yield pair


@pytest.fixture
async def pair_url(pair: PostgresPair) -> str:
    url = pair.create_database("node_timeout")
    schema = Schema(url)
    await schema.migrate()
    await schema.close()
    return url


@pytest.fixture
async def pair_ledger(pair_url: str) -> AsyncIterator[SqlLedger]:
    ledger = SqlLedger(pair_url)
    yield ledger
    await ledger.close()


async def answer(ledger: SqlLedger, question: str) -> str:
    async with ledger.engine.connect() as connection:
        return str(await connection.scalar(text(question)))


async def port_of(ledger: SqlLedger) -> int:
    return int(await answer(ledger, "SELECT inet_server_port()"))


async def test_the_primary_is_killed_under_load(
    settings: Settings, pair: PostgresPair, pair_url: str
) -> None:
    settings = changed(
        settings, database_url=pair_url, strategy_timeout=2, reconcile_pause=1, redispatch_after=1.5
    )
    async with serving(settings) as (app, engine):
        for tenth in range(40):
            await arm(app, engine, 0.5 + tenth / 10, *(f"n{tenth}-{i}" for i in range(10)))
        await wait_until(lambda: len(engine.failed) >= 20)
        pair.kill_primary()
        await asyncio.to_thread(pair.promote)
        await all_failed(engine, 400, 40)

        async def all_closed() -> bool:
            closed = (await app.ledger.counts(await app.pool.now())).last_hour
            # Stale: the engine had been called, but its answer not been recorded.
            states = (RunState.HANDLED, RunState.STALE)
            return sum(closed.get(state, 0) for state in states) == 400

        await wait_until(all_closed, 40)
        await asyncio.to_thread(pair.rejoin)
        await arm(app, engine, 0.1, "after")
        await all_failed(engine, 401)


async def test_the_primary_falls_silent_under_load(
    settings: Settings, pair: PostgresPair, pair_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when its machine is lost: nobody closes the connections to it."""
    monkeypatch.setattr(database, "STATEMENT_SECONDS", 2.0)
    settings = changed(
        settings, database_url=pair_url, strategy_timeout=2, reconcile_pause=1, redispatch_after=1.5
    )
    async with serving(settings) as (app, engine):
        for tenth in range(40):
            await arm(app, engine, 0.5 + tenth / 10, *(f"n{tenth}-{i}" for i in range(10)))
        await wait_until(lambda: len(engine.failed) >= 20)
        pair.primary.pause()
        await asyncio.to_thread(pair.promote)
        await all_failed(engine, 400, 60)


async def test_a_host_that_takes_no_writes_any_more_is_left(
    pair: PostgresPair, pair_ledger: SqlLedger
) -> None:
    """Its connections are still open, and it would answer reads."""
    former = pair.primary
    await pair_ledger.save_configs([config("a")], [])
    assert await port_of(pair_ledger) == former.port
    pair.promote()
    former.sql("ALTER SYSTEM SET default_transaction_read_only = on")
    former.sql("SELECT pg_reload_conf()")

    async def read_only() -> bool:
        return await answer(pair_ledger, "SHOW default_transaction_read_only") == "on"

    await wait_until(read_only)
    assert await port_of(pair_ledger) == former.port
    await pair_ledger.save_configs([config("a", 20)], [])
    assert await port_of(pair_ledger) == pair.primary.port


async def test_while_there_is_no_primary_each_host_is_told(
    pair: PostgresPair, pair_ledger: SqlLedger
) -> None:
    pair.kill_primary()
    with pytest.raises(LedgerUnavailableError) as error:
        await pair_ledger.save_configs([config("a")], [])
    assert f"127.0.0.1:{pair.standby.port}: is not read-write now" in str(error.value)
    assert f"127.0.0.1:{pair.primary.port}: " in str(error.value)
    pair.promote()
    await pair_ledger.save_configs([config("a")], [])


async def test_a_silent_host_is_left_for_the_next(
    postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "CONNECT_SECONDS", 0.6)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hosts = f"127.0.0.1:{silent.getsockname()[1]},127.0.0.1:{postgres_server.port}"
        login = f"postgres:{postgres_server.password}"
        ledger = SqlLedger(f"postgresql://{login}@{hosts}/postgres")
        async with asyncio.timeout(5):
            assert await port_of(ledger) == postgres_server.port
        await ledger.close()


async def test_passwords_are_not_in_the_error_of_several_hosts() -> None:
    hosts = f"127.0.0.1:{free_port()},127.0.0.1:{free_port()}"
    ledger = SqlLedger(f"postgresql://me:s3cret@{hosts}/x")
    with pytest.raises(LedgerUnavailableError, match=r"127\.0\.0\.1:\d+: .*; ") as error:
        await ledger.check_schema()
    assert "s3cret" not in str(error.value)
    await ledger.close()


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:p@one:5433,[::1]/x?application_name=a",
        "postgres://u:p@/x?host=one:5433&host=[::1]&application_name=a",
        "postgresql+asyncpg://u:p@/x?host=one,[::1]&port=5433,5432&application_name=a",
    ],
)
def test_both_forms_of_several_hosts_are_read(url: str) -> None:
    read = read_database_url(url)
    assert [f"{host.name} {host.port or 5432}" for host in read.hosts] == ["one 5433", "::1 5432"]
    assert (read.user, read.password, read.name) == ("u", "p", "x")
    assert read.parameters == {"application_name": "a"}


def test_one_port_may_serve_all_hosts_and_a_socket_is_a_host() -> None:
    read = read_database_url("postgresql:///x?host=one,two&port=6432")
    assert [str(host) for host in read.hosts] == ["one:6432", "two:6432"]
    (host,) = read_database_url("postgresql:///x?host=/run/postgresql").hosts
    assert (host.name, host.port) == ("/run/postgresql", None)


@pytest.mark.parametrize(
    "hosts", ["?host=one,", "?host=a,b,c&port=1,2", "?host=a,b&port=1,2,3", "?host=a:x,b"]
)
def test_hosts_that_cannot_be_read_are_a_mistake(hosts: str) -> None:
    with pytest.raises(SettingsError, match="list of hosts") as error:
        SqlLedger(f"postgresql://u:s3cret@/x{hosts}")
    assert "s3cret" not in str(error.value)
