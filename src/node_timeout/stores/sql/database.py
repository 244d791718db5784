"""Connections to the database and transactions on them: driver, isolation, retries."""

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from sqlalchemy import event
from sqlalchemy.engine import URL, ExceptionContext
from sqlalchemy.exc import InvalidRequestError, NoSuchModuleError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from node_timeout.domain.errors import LedgerUnavailableError, NodeTimeoutError, SettingsError
from node_timeout.setting_rules import variable
from node_timeout.stores.sql import postgres_sessions
from node_timeout.stores.sql.database_errors import is_read_only, may_pass, translate
from node_timeout.stores.sql.postgres_hosts import connector, driver_options
from node_timeout.stores.tls import Tls
from node_timeout.urls.addresses import Host
from node_timeout.urls.database import read_database_url
from node_timeout.urls.redaction import presentable

logger = logging.getLogger(__name__)

STATEMENT_SECONDS = 30.0
CONNECT_SECONDS = 10
DISPOSE_SECONDS = 3.0
TRANSACTION_TRIES = 5
MYSQL_CHARSET = "utf8mb4"

DRIVERS = {
    "postgresql": ("postgresql+asyncpg", "postgres"),
    "mysql": ("mysql+aiomysql", "mysql"),
    "mariadb": ("mariadb+aiomysql", "mysql"),
    "sqlite": ("sqlite+aiosqlite", "sqlite"),
}
"""By family of URL: the driver, and the extra that installs it."""


def create_engine(
    url: str, tls: Tls | None = None, *, named: str = variable("database_url")
) -> AsyncEngine:
    """Build an engine; do not connect yet. Raises `SettingsError`, which mentions ``named``."""
    tls = tls or Tls()
    try:
        read = read_database_url(url)
    except ValueError as error:
        raise SettingsError(f"{named}: {error}") from None
    driver, extra = DRIVERS[read.family]
    host = read.hosts[0] if len(read.hosts) == 1 else Host(name="", port=None)
    parsed = URL.create(
        driver, read.user, read.password, host.name or None, host.port, database=read.name
    )
    options: dict[str, Any] = {"hide_parameters": True}
    connect_args: dict[str, Any]
    if read.family == "sqlite":
        connect_args = {"timeout": STATEMENT_SECONDS, **read.parameters}
        # SQLite has one writer at a time; waiting for a connection is cheaper than for its lock.
        options |= {"pool_size": 1, "max_overflow": 0}
    else:
        options |= {
            "isolation_level": "READ COMMITTED",
            "pool_recycle": 1800,
            "pool_timeout": CONNECT_SECONDS,
        }
        seconds = read.parameters.get("connect_timeout", CONNECT_SECONDS)
        if read.family == "postgresql":
            connect_args = {
                "timeout": seconds,
                "async_creator_fn": connector(read.hosts, seconds, read.parameters),
                **driver_options(read.parameters),
            }
        else:
            connect_args = {"connect_timeout": seconds, **read.parameters, "charset": MYSQL_CHARSET}
        if tls.database:
            connect_args["ssl"] = tls.context
    try:
        if "aiomysql" in driver:
            connect_args["async_creator_fn"] = _mysql_connect()
        engine = create_async_engine(parsed, connect_args=connect_args, **options)
    except (ModuleNotFoundError, NoSuchModuleError, InvalidRequestError) as error:
        raise SettingsError(
            f"no driver for {read.family} ({named}): {error}; pip install 'node-timeout[{extra}]', "
            "or set it to the database that you use"
        ) from error
    if read.family == "sqlite":
        _prepare_sqlite(engine)
    elif read.family == "postgresql":
        _prepare_postgresql(engine)
    else:
        _prepare_mysql(engine)
    return engine


def _mysql_connect() -> Any:
    from node_timeout.stores.sql import mysql_connection  # noqa: PLC0415 - needs the extra

    return mysql_connection.connect


async def dispose(engine: AsyncEngine) -> None:
    """Close the connections; drop those that a silent server does not close in time."""
    try:
        async with asyncio.timeout(DISPOSE_SECONDS):
            await engine.dispose()
    except TimeoutError:
        await engine.dispose(close=False)


def _prepare_postgresql(engine: AsyncEngine) -> None:
    """Drop a connection that no longer accepts writes, with all others of its pool."""
    postgres_sessions.prepare(engine)

    @event.listens_for(engine.sync_engine, "handle_error")
    def failed(context: ExceptionContext) -> None:
        # The host is, or is about to become, a standby: a new connection finds the primary.
        if is_read_only(context.original_exception):
            context.is_disconnect = True


def _prepare_mysql(engine: AsyncEngine) -> None:
    """Set the character set again: a server may be configured to ignore the one that the client
    sends when it connects, and ``init_command`` may have chosen another.
    """

    @event.listens_for(engine.sync_engine, "connect")
    def connected(connection: Any, _record: object) -> None:
        cursor = connection.cursor()
        cursor.execute(f"SET NAMES {MYSQL_CHARSET}")
        cursor.close()


def _prepare_sqlite(engine: AsyncEngine) -> None:
    """Use the write-ahead log, and take the write lock at the begin: no lock upgrades."""

    @event.listens_for(engine.sync_engine, "connect")
    def connected(connection: Any, _record: object) -> None:
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=NORMAL")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def begun(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")


class HasEngine(Protocol):
    engine: AsyncEngine


class HasEngines(HasEngine, Protocol):
    autocommit_engine: AsyncEngine
    """An engine on the same connections, see `in_autocommit`."""


P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S", bound=HasEngine)
A = TypeVar("A", bound=HasEngines)

Method = Callable[Concatenate[S, P], Coroutine[Any, Any, R]]
Body = Callable[Concatenate[S, AsyncConnection, P], Coroutine[Any, Any, R]]


def in_autocommit(engine: AsyncEngine) -> AsyncEngine:
    """The engine without transactions, if that saves round trips. Build it once: that costs as much
    as a query.
    """
    if engine.dialect.name == "postgresql":
        return engine.execution_options(isolation_level="AUTOCOMMIT")
    return engine  # for other databases a change of mode costs a statement


def transaction(body: Body[S, P, R]) -> Method[S, P, R]:
    """Turn a method that takes a connection into one that runs in a transaction of its own.

    It is repeated after a deadlock, or if the connection was lost while idle. Raises
    `LedgerUnavailableError` for faults that may pass, `SchemaError` for missing tables,
    `LedgerError` for what the database refuses.
    """
    return _tried_again(body, lambda self: self.engine.begin())


def autocommitting(body: Body[A, P, R]) -> Method[A, P, R]:
    """Like `transaction`, for statements that need not be atomic together: fewer round trips."""
    return _tried_again(body, lambda self: self.autocommit_engine.begin())


def rolled_back(body: Body[S, P, R]) -> Method[S, P, R]:
    """Like `transaction`, but it is always rolled back."""
    return _tried_again(body, lambda self: self.engine.connect())


def _tried_again(
    body: Body[S, P, R],
    connect: Callable[[S], contextlib.AbstractAsyncContextManager[AsyncConnection]],
) -> Method[S, P, R]:
    @wraps(body)
    async def method(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        for attempt in range(1, TRANSACTION_TRIES + 1):
            try:
                async with _translated(), connect(self) as connection:
                    return await body(self, connection, *args, **kwargs)
            except LedgerUnavailableError as error:
                if attempt == TRANSACTION_TRIES or not may_pass(error.__cause__):
                    raise
            await asyncio.sleep(random.random() * 0.02 * attempt)
        raise AssertionError  # pragma: no cover - the loop returns or raises

    return method


@contextlib.asynccontextmanager
async def _translated() -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(STATEMENT_SECONDS):
            yield
    except NodeTimeoutError:
        raise
    except Exception as error:  # noqa: BLE001 - translated
        raise translate(error) from presentable(error)
