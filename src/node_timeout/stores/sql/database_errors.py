"""Classifies errors: temporary, refused for good, forbidden, or not from the database."""

from typing import Any

from sqlalchemy.exc import DataError as SqlDataError
from sqlalchemy.exc import DBAPIError, IntegrityError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from node_timeout.domain.errors import LedgerError, LedgerUnavailableError, SchemaError
from node_timeout.stores.tls import reason_of

# Deadlock, serialization failure, lock wait time-out: nothing happened; repeat the transaction.
RETRIED_SQLSTATES = {"40001", "40P01", "55P03"}
RETRIED_MYSQL_CODES = {1205, 1213}
READ_ONLY_SQLSTATE = "25006"
# Data exception, integrity constraint violation, syntax error or missing right: a repeat would be
# refused again.
REFUSED_SQLSTATES = ("22", "23", "42")
# Text in the wrong character set, too long, out of range, refused by a trigger.
REFUSED_MYSQL_CODES = {1264, 1265, 1267, 1270, 1271, 1300, 1366, 1406, 1644, 3854, 3988}
# Forbidden to this user, or on this host.
FORBIDDEN_SQLSTATES = {"42501", READ_ONLY_SQLSTATE}
FORBIDDEN_MYSQL_CODES = {1142, 1143, 1227, 1290, 1792, 1836}


def may_pass(error: BaseException | None) -> bool:
    """True if a retry may succeed at once: after a lost race, or a stale connection."""
    original = getattr(error, "orig", None)
    return (
        _sqlstate(original) in RETRIED_SQLSTATES
        or _mysql_code(original) in RETRIED_MYSQL_CODES
        or "database is locked" in str(original)
        or getattr(error, "connection_invalidated", False)
    )


def is_read_only(original: Any) -> bool:
    """Whether the driver reports that the server accepts no writes."""
    return _sqlstate(original) == READ_ONLY_SQLSTATE


def is_forbidden(error: Exception) -> bool:
    """Whether the database refuses a statement to this user, or on this host."""
    original = getattr(error, "orig", None)
    return (
        _sqlstate(original) in FORBIDDEN_SQLSTATES
        or _mysql_code(original) in FORBIDDEN_MYSQL_CODES
        or "readonly database" in str(original)
    )


def translate(error: Exception) -> Exception:
    """Translate a driver's error to one of this package; return other errors unchanged."""
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
    """True if the database, or its driver, refuses the content of the statement."""
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
    return (reason_of(error).strip() or type(error).__name__).splitlines()[0][:500]
