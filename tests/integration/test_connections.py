"""What a URL says reaches the server, and what the server says against it reaches the user."""

import asyncio
import socket
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aio_pika
import pytest
from redis.asyncio import Redis
from sqlalchemy import text

from node_timeout.domain.errors import (
    ExchangeUnavailableError,
    LedgerUnavailableError,
    PoolUnavailableError,
    SchemaError,
)
from node_timeout.stores.rabbitmq.exchange import RabbitExchange
from node_timeout.stores.redis.pool import RedisPool
from node_timeout.stores.sql.ledger import SqlLedger
from node_timeout.stores.sql.schema import Schema
from tests.servers import MariadbServer, PostgresServer, RabbitServer, RedisServer, free_port
from tests.support import config

EMOJI = "nœud-🕰-节点"


async def value(ledger: SqlLedger, statement: str) -> Any:
    async with ledger.engine.connect() as connection:
        return (await connection.execute(text(statement))).scalar_one()


async def test_a_connection_that_fails_is_closed_not_left_to_the_garbage_collector(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[aio_pika.Connection] = []
    make = aio_pika.Connection.__init__

    def noted(connection: aio_pika.Connection, *args: Any, **options: Any) -> None:
        made.append(connection)
        make(connection, *args, **options)

    monkeypatch.setattr(aio_pika.Connection, "__init__", noted)
    url = f"amqp://guest:guest@127.0.0.1:{free_port()}/"
    exchange = RabbitExchange(url, exchange="e", queues=["q"], queue_type="classic")
    with pytest.raises(ExchangeUnavailableError, match="Connect call failed"):
        await exchange.ensure()
    assert [connection.is_closed for connection in made] == [True]
    await exchange.close()


# PostgreSQL


@pytest.fixture
async def opened() -> AsyncIterator[Any]:
    """Opens a ledger; all are closed with the test."""
    ledgers: list[SqlLedger] = []

    def open_ledger(url: str) -> SqlLedger:
        ledgers.append(SqlLedger(url))
        return ledgers[-1]

    yield open_ledger
    for ledger in ledgers:
        await ledger.close()


async def test_parameters_of_libpq_reach_postgresql(postgres_url: str, opened: Any) -> None:
    ledger = opened(
        f"{postgres_url}?application_name=nt%20one&options=-c%20lock_timeout=7s&connect_timeout=5"
        "&target_session_attrs=read-write&channel_binding=prefer&gssencmode=disable"
    )
    assert await value(ledger, "SHOW application_name") == "nt one"
    assert await value(ledger, "SHOW lock_timeout") == "7s"
    assert await ledger.rows("nobody") == []


async def test_the_socket_is_kept_alive_as_the_url_says(postgres_url: str, opened: Any) -> None:
    ledger = opened(
        f"{postgres_url}?keepalives=1&keepalives_idle=31&keepalives_interval=7"
        "&keepalives_count=4&tcp_user_timeout=9000"
    )
    async with ledger.engine.connect() as connection:
        raw = await connection.get_raw_connection()
        found = raw.driver_connection._transport.get_extra_info("socket")
        assert found.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        tcp = {"KEEPIDLE": 31, "KEEPINTVL": 7, "KEEPCNT": 4, "USER_TIMEOUT": 9000}
        for name, expected in tcp.items():
            option = getattr(socket, f"TCP_{name}")
            assert found.getsockopt(socket.IPPROTO_TCP, option) == expected


async def test_caches_of_the_driver_may_be_switched_off(postgres_url: str, opened: Any) -> None:
    ledger = opened(
        f"{postgres_url}?statement_cache_size=0&prepared_statement_cache_size=0"
        "&max_cached_statement_lifetime=0&max_cacheable_statement_size=0&command_timeout=0.5"
    )
    assert await ledger.rows("nobody") == []
    with pytest.raises(TimeoutError):
        await value(ledger, "SELECT pg_sleep(20)")


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
async def test_connect_timeout_ends_the_wait_for_a_silent_server(kind: str, opened: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        ledger = opened(f"{kind}://me:s3cret@127.0.0.1:{port}/x?connect_timeout=0.2")
        async with asyncio.timeout(5):
            with pytest.raises(LedgerUnavailableError, match=r"127\.0\.0\.1.*: no answer") as error:
                await ledger.check_schema()
    assert "s3cret" not in str(error.value)


@pytest.fixture
def encoded_database(request: pytest.FixtureRequest, postgres_server: PostgresServer) -> str:
    name = f"enc_{uuid.uuid4().hex[:8]}"
    return postgres_server.create_database(name, encoding=request.param)


@pytest.mark.parametrize("encoded_database", ["LATIN1", "SQL_ASCII"], indirect=True)
async def test_a_postgresql_without_unicode_is_refused(encoded_database: str, opened: Any) -> None:
    schema = Schema(encoded_database)
    for call in (schema.migrate, opened(encoded_database).check_schema):
        with pytest.raises(SchemaError, match=r"encoding is (LATIN1|SQL_ASCII), which") as error:
            await call()
        assert "ENCODING 'UTF8'" in str(error.value)
    async with schema.engine.connect() as connection:
        found = await connection.execute(text("SELECT to_regclass('node_timeout_config')"))
        assert found.scalar_one() is None
    await schema.close()


# MySQL and MariaDB


@pytest.fixture(scope="module")
def deaf_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MariadbServer]:
    """Overlooks the character set that a client greets with, and has latin1 of its own."""
    deaf = ("--skip-character-set-client-handshake", "--character-set-server=latin1")
    with MariadbServer(tmp_path_factory.mktemp("deaf"), extra=deaf) as server:
        yield server


@pytest.mark.parametrize("init", ["", "?init_command=SET%20NAMES%20latin1"])
async def test_every_text_is_kept_whatever_the_server_prefers(
    deaf_server: MariadbServer, opened: Any, init: str
) -> None:
    url = deaf_server.create_database(f"deaf_{uuid.uuid4().hex[:8]}") + init
    schema = Schema(url)
    await schema.migrate()
    await schema.close()
    ledger = opened(url)
    assert await value(ledger, "SELECT @@character_set_server") == "latin1"
    for role in ("client", "connection", "results"):
        assert await value(ledger, f"SELECT @@character_set_{role}") == "utf8mb4"
    await ledger.save_configs([config(EMOJI)], [])
    assert await value(ledger, "SELECT node_id FROM node_timeout_config") == EMOJI
    assert await value(ledger, "SELECT HEX(node_id) FROM node_timeout_config") == (
        EMOJI.encode().hex().upper()
    )
    await ledger.check_schema()


async def test_any_database_keeps_every_text(any_ledger: SqlLedger) -> None:
    await any_ledger.save_configs([config(EMOJI)], [])
    assert await value(any_ledger, "SELECT node_id FROM node_timeout_config") == EMOJI


async def test_a_table_that_somebody_converted_is_refused(
    mariadb_server: MariadbServer, opened: Any
) -> None:
    url = mariadb_server.create_database(f"converted_{uuid.uuid4().hex[:8]}")
    schema, ledger = Schema(url), opened(url)
    await schema.migrate()
    await ledger.check_schema()
    async with schema.engine.begin() as connection:
        await connection.execute(
            text("ALTER TABLE node_timeout_run CONVERT TO CHARACTER SET utf8mb3")
        )
    for call in (schema.migrate, ledger.check_schema):
        with pytest.raises(SchemaError, match=r"node_timeout_run\.\w+ has .* utf8mb3_") as error:
            await call()
    async with schema.engine.begin() as connection:
        await connection.execute(text(str(error.value).partition("run: ")[2]))
    await ledger.check_schema()
    await schema.close()


async def test_parameters_reach_mysql(mariadb_server: MariadbServer, opened: Any) -> None:
    ledger = opened(f"{mariadb_server.url}?init_command=SET%20%40nt=7&program_name=nt")
    assert await value(ledger, "SELECT @nt") == 7


async def test_the_socket_of_mysql_is_used(mariadb_server: MariadbServer, opened: Any) -> None:
    path = mariadb_server.data / "server.sock"
    url = f"mysql://test:{mariadb_server.password}@localhost/test?unix_socket={path}"
    assert await value(opened(url), "SELECT 1") == 1


# Redis


async def test_the_database_and_name_of_a_redis_url_are_used(redis_server: RedisServer) -> None:
    url = redis_server.url.removesuffix("/0")
    async with Redis.from_url(redis_server.url) as redis:
        for where, name in ((f"{url}/5", "five"), (f"{url}?db=6", "six")):
            mark = "&" if "?" in where else "?"
            pool = RedisPool(f"{where}{mark}client_name={name}&socket_keepalive=1", "urls_pool")
            await pool.ping()
            (client,) = [each for each in await redis.client_list() if each["name"] == name]
            assert client["db"] == {"five": "5", "six": "6"}[name]
            await pool.close()


async def test_a_redis_socket_is_used(redis_server: RedisServer, tmp_path: Path) -> None:
    path = Path("/tmp") / f"nt-{uuid.uuid4().hex[:8]}.sock"
    extra = ("--unixsocket", str(path))
    with RedisServer(tmp_path, password="s3cret-socket", extra=extra):
        pool = RedisPool(f"unix://:s3cret-socket@{path}?db=2", "urls_pool")
        await pool.ping()
        await pool.close()


async def test_a_database_that_redis_has_not_is_said(redis_server: RedisServer) -> None:
    pool = RedisPool(redis_server.url.removesuffix("/0") + "/4000", "urls_pool")
    with pytest.raises(PoolUnavailableError, match="DB index is out of range"):
        await pool.ping()
    await pool.close()


# RabbitMQ


@pytest.fixture(scope="module")
def vhosts(rabbit_server: RabbitServer) -> RabbitServer:
    """With vhosts and users that each refuse a connection in a way of its own."""
    ctl = rabbit_server.ctl
    everything = (".*", ".*", ".*")
    for vhost in ("full", "forbidden"):
        ctl("add_vhost", vhost)
    ctl("set_permissions", "-p", "full", "guest", *everything)
    ctl("set_vhost_limits", "-p", "full", '{"max-connections": 0}')
    ctl("add_user", "limited", "s3cret-limited")
    ctl("set_permissions", "limited", *everything)
    ctl("set_user_limits", "limited", '{"max-connections": 0}')
    return rabbit_server


@pytest.mark.parametrize(
    ("login", "vhost", "says"),
    [
        ("guest:{}", "absent", "NOT_ALLOWED - vhost absent not found"),
        ("guest:{}", "forbidden", "NOT_ALLOWED - access to vhost 'forbidden' refused for user 'gu"),
        ("guest:{}", "full", "vhost 'full' refused for user 'guest': connection limit (0)"),
        ("limited:s3cret-limited", "", "user 'limited': user connection limit (0) is reached"),
        ("guest:{}x", "", "ACCESS_REFUSED - Login was refused"),
        ("nobody:{}", "", "ACCESS_REFUSED - Login was refused"),
        ("guest:{}", "?auth=external", "the server lets log in only by "),
    ],
)
async def test_the_reason_of_rabbitmq_reaches_the_user(
    vhosts: RabbitServer, login: str, vhost: str, says: str
) -> None:
    login = login.format(vhosts.password)
    one = f"amqp://{login}@127.0.0.1:{vhosts.port}/{vhost}"
    for url in (one, f"{one},amqp://u:s3cret-two@no-such-host.invalid:1/"):
        exchange = RabbitExchange(url, exchange="x", queues=["q"], queue_type="classic")
        with pytest.raises(ExchangeUnavailableError) as error:
            await exchange.ensure()
        said = str(error.value)
        assert says in said
        assert f"127.0.0.1:{vhosts.port}: " in said
        assert "Connection.OpenOk" not in said
        assert "\n" not in said
        assert "s3cret" not in said
    assert "no-such-host.invalid:1: " in said
    assert "not known" in said or "resolution" in said


async def test_the_parameters_of_an_amqp_url_are_used(
    vhosts: RabbitServer, names: dict[str, str]
) -> None:
    queue = names["dispatch_queue"]
    exchange = RabbitExchange(
        f"{vhosts.url}?heartbeat=37&name=mine&happy_eyeballs_delay=0.2&interleave=1",
        exchange=names["dispatch_exchange"],
        queues=[queue],
        queue_type="classic",
        name="host:1",
    )
    await exchange.ensure()
    listed = await asyncio.to_thread(
        vhosts.ctl, "-q", "list_connections", "timeout", "client_properties"
    )
    (line,) = [each for each in listed.splitlines() if "mine publish host:1" in each]
    assert line.split()[0] == "37"
    await exchange.close()
