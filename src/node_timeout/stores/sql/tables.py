"""The tables, for PostgreSQL, MySQL/MariaDB and SQLite. ``migrations/`` follows this file.

Ids are compared byte for byte on every database. Instants are doubles: Unix seconds, UTC.
"""

from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    Identity,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
)
from sqlalchemy.dialects import mysql
from sqlalchemy.types import TypeEngine

from node_timeout.domain.run import MAX_ID_LENGTH, MAX_VERSION_LENGTH
from node_timeout.domain.timeout_config import MAX_ACTION_LENGTH


def _exact(length: int) -> TypeEngine[str]:
    """Text that MySQL's default collation would otherwise compare without case."""
    binary = mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_bin")
    return String(length).with_variant(binary, "mysql", "mariadb")


def _text() -> TypeEngine[str]:
    wide = mysql.TEXT(charset="utf8mb4", collation="utf8mb4_bin")
    return Text().with_variant(wide, "mysql", "mariadb")


metadata = MetaData()

HEAD_REVISION = "0001"
"""The newest migration: the tables are as in this file."""

versions = Table(
    "node_timeout_alembic_version", MetaData(), Column("version_num", String(32), nullable=False)
)
"""Alembic's own table; not part of ``metadata``, as alembic makes it."""

configs = Table(
    "node_timeout_config",
    metadata,
    Column("node_id", _exact(MAX_ID_LENGTH), primary_key=True),
    Column("root_pipeline_id", _exact(MAX_ID_LENGTH), nullable=False),
    Column("action", _exact(MAX_ACTION_LENGTH), nullable=False),
    Column("timeout", Double, nullable=False, comment="seconds"),
)

runs = Table(
    "node_timeout_run",
    metadata,
    Column("node_id", _exact(MAX_ID_LENGTH), primary_key=True),
    Column("version", _exact(MAX_VERSION_LENGTH), primary_key=True),
    Column("root_pipeline_id", _exact(MAX_ID_LENGTH), nullable=True),
    Column("action", _exact(MAX_ACTION_LENGTH), nullable=True),
    Column("state", String(16), nullable=False),
    Column("started_at", Double, nullable=True, comment="by the engine's clock"),
    Column("deadline", Double, nullable=True),
    Column("next_at", Double, nullable=True, comment="of an armed run: its deadline or next try"),
    Column("lease_until", Double, nullable=True),
    Column("lease_owner", _exact(64), nullable=True),
    Column("attempts", Integer, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("finished_at", Double, nullable=True),
    Column("message", _text(), nullable=True),
    # The reconciler's sweep, in key order; also counts by state, and the few that are executing.
    Index("ix_node_timeout_run_next", "state", "next_at", "node_id", "version"),
    # The retention, the recent outcomes, and replays.
    Index("ix_node_timeout_run_finished", "state", "finished_at"),
)
"""One row per node run; see `node_timeout.domain.run.LedgerRow`."""

history = Table(
    "node_timeout_history",
    metadata,
    Column(
        "id",
        BigInteger().with_variant(Integer, "sqlite"),
        Identity(),
        primary_key=True,
        autoincrement=True,
    ),
    Column("node_id", _exact(MAX_ID_LENGTH), nullable=False),
    Column("version", _exact(MAX_VERSION_LENGTH), nullable=False),
    Column("at", Double, nullable=False),
    Column("kind", _exact(16), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("actor", _exact(MAX_ID_LENGTH), nullable=True),
    Column("detail", _text(), nullable=True),
    Index("ix_node_timeout_history_run", "node_id", "version", "id"),
)
"""What happened to runs beyond their plain course; it goes with its run."""

settings = Table(
    "node_timeout_setting",
    metadata,
    Column("name", _exact(64), primary_key=True),
    Column("value", _exact(255), nullable=False),
)
"""What the scanners are set to, see `node_timeout.runtime.agreement`; and the ledger's own id."""
