"""The tables, for PostgreSQL, MySQL/MariaDB and SQLite. ``migrations/`` follows this file.

Ids are compared byte for byte on every database. Instants are doubles: Unix seconds, UTC.
"""

from sqlalchemy import Column, Double, Index, Integer, MetaData, String, Table, Text
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

HEAD_REVISION = "0004_since_0002"
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

ledger = Table(
    "node_timeout_ledger",
    metadata,
    Column("node_id", _exact(MAX_ID_LENGTH), primary_key=True),
    Column("version", _exact(MAX_VERSION_LENGTH), primary_key=True),
    Column("root_pipeline_id", _exact(MAX_ID_LENGTH), nullable=False),
    Column("action", _exact(MAX_ACTION_LENGTH), nullable=False),
    Column("state", String(16), nullable=False),
    Column("started_at", Double, nullable=True, comment="null: the engine armed the pool itself"),
    Column("deadline", Double, nullable=False),
    Column("due_at", Double, nullable=True, comment="armed: next try; executing: lease expiry"),
    Column("attempts", Integer, nullable=False),
    Column("finished_at", Double, nullable=True),
    Column("message", _text(), nullable=False),
    # The reconciler's sweep, in key order; also counts by state.
    Index("ix_node_timeout_ledger_due", "state", "due_at", "node_id", "version"),
    # The retention, the recent outcomes, and replays.
    Index("ix_node_timeout_ledger_finished", "state", "finished_at"),
)

settings = Table(
    "node_timeout_setting",
    metadata,
    Column("name", _exact(64), primary_key=True),
    Column("value", _exact(255), nullable=False),
)
"""What the scanners are set to, see `node_timeout.runtime.agreement`; and the ledger's own id."""
