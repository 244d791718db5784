"""The tables, for PostgreSQL, MySQL/MariaDB and SQLite; ``migrations/`` must match this file.

Ids are compared byte for byte on every database. Instants are doubles: Unix seconds, UTC.
"""

import uuid
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Column,
    ColumnElement,
    Dialect,
    Double,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    cast,
)
from sqlalchemy.dialects import mysql, postgresql
from sqlalchemy.types import TypeDecorator, TypeEngine

from node_timeout.domain import run_id
from node_timeout.domain.ids import MAX_ID_LENGTH, MAX_TRACE_LENGTH, MAX_VERSION_LENGTH
from node_timeout.domain.orders import MAX_KEY_LENGTH
from node_timeout.domain.timeout_config import MAX_ACTION_LENGTH
from node_timeout.domain.tokens import MAX_NAME_LENGTH
from node_timeout.stores.ledger_rows import CONFIGS, HISTORY, RUNS, SETTINGS, TOKENS


def _exact(length: int) -> TypeEngine[str]:
    """Text that is compared and sorted byte for byte, which no default collation does."""
    binary = mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_bin")
    bytewise = postgresql.VARCHAR(length, collation="C")
    return (
        String(length).with_variant(binary, "mysql", "mariadb").with_variant(bytewise, "postgresql")
    )


def _text() -> TypeEngine[str]:
    wide = mysql.TEXT(charset="utf8mb4", collation="utf8mb4_bin")
    return Text().with_variant(wide, "mysql", "mariadb")


class RunId(TypeDecorator[str]):
    """A run id: UUID in PostgreSQL, else 16 bytes; text in Python."""

    impl = LargeBinary(16)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name == "postgresql":
            return dialect.type_descriptor(postgresql.UUID(as_uuid=True))
        if dialect.name in ("mysql", "mariadb"):
            return dialect.type_descriptor(mysql.BINARY(16))
        return dialect.type_descriptor(LargeBinary(16))

    def process_bind_param(self, value: str | None, dialect: Dialect) -> Any:
        if value is None:
            return None
        number = run_id.to_bytes(value)
        return uuid.UUID(bytes=number) if dialect.name == "postgresql" else number

    def process_result_value(self, value: Any, dialect: Dialect) -> str | None:
        del dialect
        if value is None:
            return None
        return run_id.from_database(value)


UUIDS = ARRAY(postgresql.UUID(as_uuid=True))


def as_uuids(texts: ColumnElement[Any]) -> ColumnElement[Any]:
    """An array of texts, `hexadecimal` run ids, as UUID[].

    With a UUID[] parameter, asyncpg would have to ask the server about the type on each connection.
    """
    return cast(texts, UUIDS)


def hexadecimal(value: str) -> str:
    """A run id in the form in which PostgreSQL reads a UUID."""
    return run_id.to_bytes(value).hex()


metadata = MetaData()

HEAD_REVISION = "0002"
"""The newest migration, which makes the tables of this file."""

versions = Table(
    "node_timeout_alembic_version", MetaData(), Column("version_num", String(32), nullable=False)
)
"""Alembic's own table; not part of ``metadata``, since alembic creates it."""

NEXT_INDEX = "ix_node_timeout_run_next"
FINISHED_INDEX = "ix_node_timeout_run_finished"

configs = Table(
    CONFIGS,
    metadata,
    Column("root_pipeline_id", _exact(MAX_ID_LENGTH), primary_key=True),
    Column("node_id", _exact(MAX_ID_LENGTH), primary_key=True),
    Column("action", _exact(MAX_ACTION_LENGTH), nullable=False),
    Column("timeout", Double, nullable=False, comment="seconds"),
    Column("payload_json", _text(), nullable=True, comment="for the strategy"),
    Column("expires_at", Double, nullable=True, comment="its root pipeline has ended"),
    # Expired configs; and those without an expiry, in key order, for the surveyor.
    Index("ix_node_timeout_config_expires", "expires_at", "root_pipeline_id", "node_id"),
    # The roots of a node, for events and pool members that name no root.
    Index("ix_node_timeout_config_node", "node_id", "root_pipeline_id"),
)

runs = Table(
    RUNS,
    metadata,
    Column("run_id", RunId, primary_key=True),
    Column("root_pipeline_id", _exact(MAX_ID_LENGTH), nullable=False),
    Column("node_id", _exact(MAX_ID_LENGTH), nullable=False),
    Column("version", _exact(MAX_VERSION_LENGTH), nullable=False),
    Column("action", _exact(MAX_ACTION_LENGTH), nullable=True),
    Column("timeout", Double, nullable=True, comment="seconds"),
    Column("payload_json", _text(), nullable=True),
    Column("trace", _exact(MAX_TRACE_LENGTH), nullable=True, comment="W3C traceparent"),
    Column("state", String(16), nullable=False),
    Column("started_at", Double, nullable=True, comment="by the engine's clock"),
    Column("deadline", Double, nullable=True),
    Column("extended", Double, nullable=True, comment="seconds, by changes"),
    Column("next_at", Double, nullable=True, comment="of an armed run: its deadline or next try"),
    Column("paused_at", Double, nullable=True),
    Column("stopped_by", _exact(16), nullable=True),
    Column("lease_until", Double, nullable=True),
    Column("lease_owner", _exact(64), nullable=True),
    Column("attempts", Integer, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("finished_at", Double, nullable=True),
    Column("message", _text(), nullable=True),
    # The reconciler's sweep, in key order; also counts by state, and the few executing rows.
    Index(NEXT_INDEX, "state", "next_at", "run_id"),
    # The retention, the recent outcomes, and replays.
    Index(FINISHED_INDEX, "state", "finished_at"),
    # The leavings of a node, and everything of a node.
    Index("ix_node_timeout_run_node", "node_id", "root_pipeline_id"),
    Index("ix_node_timeout_run_root", "root_pipeline_id"),
)
"""One row per node run; see `node_timeout.domain.run.LedgerRow`."""

history = Table(
    HISTORY,
    metadata,
    Column(
        "id",
        BigInteger().with_variant(Integer, "sqlite"),
        Identity(),
        primary_key=True,
        autoincrement=True,
    ),
    Column("run_id", RunId, nullable=False),
    Column("at", Double, nullable=False),
    Column("kind", _exact(16), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("actor", _exact(MAX_ID_LENGTH), nullable=True),
    Column("detail", _text(), nullable=True),
    Column("idempotency_key", _exact(MAX_KEY_LENGTH), nullable=True),
    Index("ix_node_timeout_history_run", "run_id", "id"),
)
"""What happened to runs beyond the normal course; deleted with the run."""

tokens = Table(
    TOKENS,
    metadata,
    Column("token_hash", _exact(64), primary_key=True, comment="SHA-256 of its text"),
    Column("token_id", _exact(12), nullable=False),
    Column("name", _exact(MAX_NAME_LENGTH), nullable=False),
    Column("role", _exact(16), nullable=False),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double, nullable=True),
    Column("revoked_at", Double, nullable=True),
)
"""Who may use the HTTP API; see `node_timeout.domain.tokens`."""

settings = Table(
    SETTINGS,
    metadata,
    Column("name", _exact(64), primary_key=True),
    Column("value", _exact(255), nullable=False),
)
"""The scanners' settings, see `node_timeout.runtime.agreement`; and the ledger's own id."""
