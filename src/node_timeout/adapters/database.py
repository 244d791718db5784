"""Connections to the database: which driver, which isolation, which errors are temporary."""

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from sqlalchemy import event
from sqlalchemy.engine import URL, ExceptionContext
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    IntegrityError,
    InvalidRequestError,
    NoSuchModuleError,
    ProgrammingError,
)
from sqlalchemy.exc import DataError as SqlDataError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from node_timeout.adapters.postgres_hosts import connector, parse_url, take_hosts
from node_timeout.adapters.tls import Tls, told
from node_timeout.errors import (
    LedgerError,
    LedgerUnavailableError,
    NodeTimeoutError,
    SchemaError,
    SettingsError,
)

logger = logging.getLogger(__name__)

STATEMENT_SECONDS = 30.0
CONNECT_SECONDS = 10
DISPOSE_SECONDS = 3.0
TRANSACTION_TRIES = 5

DRIVERS = {
    "postgresql": ("postgresql+asyncpg", "postgres"),
    "postgres": ("postgresql+asyncpg", "postgres"),
    "mysql": ("mysql+aiomysql", "mysql"),
    "mariadb": ("mariadb+aiomysql", "mysql"),
    "sqlite": ("sqlite+aiosqlite", "sqlite"),
}

PLANNER = {
    # A plan that was cached while a table was small would scan it when it is large.
    "plan_cache_mode": "force_custom_plan",
    # Every statement finds its rows by their keys. Left alone, the planner reads all of a table of
    # 10,000 rows to find 250, which takes twice as long.
    "enable_seqscan": "off",
    "random_page_cost": "1.1",
    # What it compiles is over before it pays.
    "jit": "off",
}
"""PostgreSQL's settings of each connection."""

# Deadlock, serialization failure, lock wait time-out: nothing happened, try the whole again.
RETRIED_SQLSTATES = {"40001", "40P01", "55P03"}
RETRIED_MYSQL_CODES = {1205, 1213}
READ_ONLY_SQLSTATE = "25006"
# Data exception, integrity constraint violation, syntax error or missing right: whatever comes
# again will be refused again.
REFUSED_SQLSTATES = ("22", "23", "42")
# Text in the wrong character set, too long, out of range, refused by a trigger.
REFUSED_MYSQL_CODES = {1264, 1265, 1267, 1270, 1271, 1300, 1366, 1406, 1644, 3854, 3988}


def async_url(url: str) -> URL:
    """Pick the async driver of a plain URL; one that names its driver is left alone."""
    try:
        parsed = parse_url(url)
    except (ArgumentError, ValueError) as error:
        raise SettingsError("database_url is not a database URL") from error
    if "+" not in parsed.drivername:
        if parsed.drivername not in DRIVERS:
            raise SettingsError(
                f"database_url has the unknown scheme {parsed.drivername!r}, "
                f"use one of {', '.join(sorted(DRIVERS))}"
            )
        parsed = parsed.set(drivername=DRIVERS[parsed.drivername][0])
    return parsed


def create_engine(url: str, tls: Tls | None = None) -> AsyncEngine:
    """Build an engine; nothing is connected yet. Raises `SettingsError`."""
    tls = tls or Tls()
    parsed = async_url(url)
    family = parsed.get_backend_name()
    options: dict[str, Any] = {"hide_parameters": True}
    if family == "sqlite":
        # One writer at a time anyway: waiting for the connection is cheaper than for the lock.
        options |= {
            "connect_args": {"timeout": STATEMENT_SECONDS},
            "pool_size": 1,
            "max_overflow": 0,
        }
    else:
        timeout = "timeout" if "asyncpg" in parsed.drivername else "connect_timeout"
        options |= {
            "isolation_level": "READ COMMITTED",
            "pool_recycle": 1800,
            "pool_timeout": CONNECT_SECONDS,
            "connect_args": {timeout: CONNECT_SECONDS},
        }
        if tls.database:
            options["connect_args"]["ssl"] = tls.context
    if parsed.drivername == "postgresql+asyncpg":
        try:
            parsed, hosts = take_hosts(parsed)
        except ValueError as error:
            raise SettingsError("database_url has a list of hosts that cannot be read") from error
        if hosts:
            options["connect_args"]["async_creator_fn"] = connector(hosts, CONNECT_SECONDS)
    try:
        if tls.database and "aiomysql" in parsed.drivername:
            options["connect_args"]["async_creator_fn"] = _mysql_over_tls()
        engine = create_async_engine(parsed, **options)
    except (ModuleNotFoundError, NoSuchModuleError, InvalidRequestError) as error:
        extra = DRIVERS.get(family, ("", family))[1]
        raise SettingsError(
            f"no driver for database_url {parsed.drivername}://…: {error}; "
            f"pip install 'node-timeout[{extra}]'"
        ) from error
    if family == "sqlite":
        _prepare_sqlite(engine)
    elif family == "postgresql":
        _prepare_postgresql(engine)
    return engine


def _mysql_over_tls() -> Any:
    from node_timeout.adapters import mysql_tls  # noqa: PLC0415 - needs the extra

    return mysql_tls.connect


async def dispose(engine: AsyncEngine) -> None:
    """Close the connections; those that a silent server does not let go in time are dropped."""
    try:
        async with asyncio.timeout(DISPOSE_SECONDS):
            await engine.dispose()
    except TimeoutError:
        await engine.dispose(close=False)


def _prepare_postgresql(engine: AsyncEngine) -> None:
    """Set the planner; see `PLANNER`.

    A connection that no longer takes writes is dropped, with all others of the pool.
    """

    @event.listens_for(engine.sync_engine, "connect")
    def connected(connection: Any, _record: object) -> None:
        cursor = connection.cursor()
        settings = ", ".join(
            f"set_config('{name}', '{value}', false)" for name, value in PLANNER.items()
        )
        cursor.execute(f"SELECT {settings}")
        cursor.close()
        connection.commit()

    @event.listens_for(engine.sync_engine, "handle_error")
    def failed(context: ExceptionContext) -> None:
        # The host has become a standby, or is about to: a new connection finds the primary.
        if _sqlstate(context.original_exception) == READ_ONLY_SQLSTATE:
            context.is_disconnect = True


def _prepare_sqlite(engine: AsyncEngine) -> None:
    """Write-ahead log, and transactions that take the write lock at once: no lock upgrades."""

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
    """On the same connections, see `in_autocommit`."""


P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S", bound=HasEngine)
A = TypeVar("A", bound=HasEngines)

Method = Callable[Concatenate[S, P], Coroutine[Any, Any, R]]
Body = Callable[Concatenate[S, AsyncConnection, P], Coroutine[Any, Any, R]]


def in_autocommit(engine: AsyncEngine) -> AsyncEngine:
    """The engine without transactions, where that saves round trips; made once, as making it costs
    as much as a query.
    """
    if engine.dialect.name == "postgresql":
        return engine.execution_options(isolation_level="AUTOCOMMIT")
    return engine  # there it would cost a statement to change the mode


def transaction(body: Body[S, P, R]) -> Method[S, P, R]:
    """Make a method that takes a connection into one that runs in a transaction of its own.

    Deadlocks and connections that were lost while idle are tried again. Raises
    `LedgerUnavailableError` for what a later try may cure, `SchemaError` for missing tables,
    `LedgerError` for what the database refuses.
    """
    return _tried_again(body, lambda self: self.engine.begin())


def autocommitting(body: Body[A, P, R]) -> Method[A, P, R]:
    """As `transaction`, for statements that can stand each for itself: fewer round trips."""
    return _tried_again(body, lambda self: self.autocommit_engine.begin())


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
                if attempt == TRANSACTION_TRIES or not _may_pass(error.__cause__):
                    raise
            await asyncio.sleep(random.random() * 0.02 * attempt)
        raise AssertionError  # pragma: no cover - the loop returns or raises

    return method


def _may_pass(error: BaseException | None) -> bool:
    """True if the next try may succeed at once: a lost race, or a connection gone stale."""
    original = getattr(error, "orig", None)
    return (
        _sqlstate(original) in RETRIED_SQLSTATES
        or _mysql_code(original) in RETRIED_MYSQL_CODES
        or "database is locked" in str(original)
        or getattr(error, "connection_invalidated", False)
    )


@contextlib.asynccontextmanager
async def _translated() -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(STATEMENT_SECONDS):
            yield
    except NodeTimeoutError:
        raise
    except Exception as error:
        raise translate(error) from error


def translate(error: Exception) -> Exception:
    """The error of this package that a driver's error means; other errors are returned as is."""
    text = _first_line(getattr(error, "orig", None) or error)
    if isinstance(error, DBAPIError) and _no_such_table(error.orig):
        return SchemaError("the database has no node-timeout tables; run: node-timeout migrate")
    if isinstance(error, IntegrityError | SqlDataError | ProgrammingError) or _is_refused(error):
        return LedgerError(f"database: {text}")
    driver = type(error).__module__.partition(".")[0]
    if isinstance(error, DBAPIError | PoolTimeoutError | OSError | TimeoutError) or driver in {
        "asyncpg",
        "aiomysql",
        "pymysql",
        "sqlite3",
    }:
        return LedgerUnavailableError(f"database: {text}")
    return error


def _is_refused(error: Exception) -> bool:
    """True if the database, or its driver, refuses what the statement holds."""
    original = getattr(error, "orig", None)
    return (
        isinstance(original or error, UnicodeError)
        or (_sqlstate(original) or "").startswith(REFUSED_SQLSTATES)
        or _mysql_code(original) in REFUSED_MYSQL_CODES
    )


def _no_such_table(original: Any) -> bool:
    return (
        _sqlstate(original) == "42P01"
        or _mysql_code(original) == 1146  # noqa: PLR2004 - ER_NO_SUCH_TABLE
        or "no such table" in str(original)
    )


def _sqlstate(original: Any) -> str | None:
    return getattr(original, "sqlstate", None) or getattr(original, "pgcode", None)


def _mysql_code(original: Any) -> Any:
    return next(iter(getattr(original, "args", ())), None)


def _first_line(error: BaseException) -> str:
    return (told(error).strip() or type(error).__name__).splitlines()[0][:500]
