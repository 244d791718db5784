"""Migrations: bring the tables to this version's revision, or back to an older one."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncConnection

from node_timeout.domain.errors import LedgerUnavailableError, SchemaError
from node_timeout.stores.sql.database import create_engine, dispose, transaction
from node_timeout.stores.sql.database_errors import translate
from node_timeout.stores.sql.tables import versions
from node_timeout.stores.sql.unicode import require_unicode
from node_timeout.stores.tls import Tls
from node_timeout.urls.redaction import presentable

LOCK_SECONDS = 3600
# One migration at a time per database; a lock ends with its connection at the latest.
# PostgreSQL's lock ends with the transaction that does everything, so it also works through a
# pooler. SQLite's transactions run one at a time anyway.
POSTGRESQL_LOCK = "SELECT pg_advisory_xact_lock(hashtext('node_timeout migrate'))"
MYSQL_LOCK_NAME = "CONCAT('node_timeout migrate ', MD5(DATABASE()))"
MYSQL_LOCK = f"SELECT GET_LOCK({MYSQL_LOCK_NAME}, {LOCK_SECONDS})"
MYSQL_UNLOCK = f"SELECT RELEASE_LOCK({MYSQL_LOCK_NAME})"


class Schema:
    """The tables of one database. `SqlLedger.check_schema` tells whether they are usable."""

    def __init__(self, url: str, *, tls: Tls | None = None) -> None:
        self.engine = create_engine(url, tls)

    async def close(self) -> None:
        await dispose(self.engine)

    @transaction
    async def revision(self, connection: AsyncConnection) -> str | None:
        """The revision of the database, None before the first."""
        return await connection.run_sync(_revision)

    async def migrate(self, revision: str = "head") -> str | None:
        """Upgrade, or downgrade to an older revision or "base"; return the new revision.

        Waits for another migration of this database. May be repeated after a kill at any point.
        """
        try:
            async with self.engine.connect() as connection:
                await require_unicode(connection)
                await connection.run_sync(_migrate, revision)
        except Exception as error:  # noqa: BLE001 - translated
            raise translate(error) from presentable(error)
        return await self.revision()


def alembic_config() -> Config:
    """Alembic's configuration with this package's migrations, wherever it is installed."""
    config = Config()
    config.set_main_option("script_location", str(_migrations()).replace("%", "%%"))
    return config


def _migrations() -> Path:
    package = Path(__file__).parents[2]
    installed, checkout = package / "migrations", package.parents[1] / "migrations"
    return installed if installed.is_dir() else checkout


def _revision(connection: Connection) -> str | None:
    context = MigrationContext.configure(connection, opts={"version_table": versions.name})
    return context.get_current_revision()


def _migrate(connection: Connection, revision: str) -> None:
    with _lock(connection):
        _migrate_alone(connection, revision)
        connection.commit()


@contextlib.contextmanager
def _lock(connection: Connection) -> Iterator[None]:
    if connection.dialect.name == "postgresql":
        connection.execute(text(POSTGRESQL_LOCK))
        yield
    elif connection.dialect.name in ("mysql", "mariadb"):
        if connection.execute(text(MYSQL_LOCK)).scalar() != 1:
            raise LedgerUnavailableError(
                f"database: another migration has been running for {LOCK_SECONDS} s"
            )
        try:
            yield
        except BaseException:
            connection.invalidate()  # closes it, which releases the lock
            raise
        connection.execute(text(MYSQL_UNLOCK))
    else:
        yield


def _migrate_alone(connection: Connection, revision: str) -> None:
    config = alembic_config()
    config.attributes["connection"] = connection
    script = ScriptDirectory.from_config(config)
    current = _revision(connection)
    known = {each.revision for each in script.walk_revisions()}
    if current is not None and current not in known:
        raise SchemaError(
            f"the database is at revision {current}, which this version does not know: another "
            f"version has made its tables"
        )
    older = revision == "base" or (
        current is not None
        and revision != "head"
        and revision in {each.revision for each in script.iterate_revisions(current, "base")}
    )
    (command.downgrade if older else command.upgrade)(config, revision)
