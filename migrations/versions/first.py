"""The tables: configs, runs, history, settings.

The first. Until a release it changes in place, and its revision goes up: a database that an
earlier state of it has made is refused, not used as it is.
"""

import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql
from sqlalchemy.types import TypeEngine

from node_timeout.stores.sql.repeatable import create_index, create_table, drop_table

revision = "0002"
down_revision = None
branch_labels = None
depends_on = None


def exact(length: int) -> TypeEngine[str]:
    binary = mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_bin")
    bytewise = postgresql.VARCHAR(length, collation="C")
    return (
        sa.String(length)
        .with_variant(binary, "mysql", "mariadb")
        .with_variant(bytewise, "postgresql")
    )


def run_id() -> TypeEngine[bytes]:
    number: TypeEngine[bytes] = sa.LargeBinary(16)
    return number.with_variant(mysql.BINARY(16), "mysql", "mariadb").with_variant(
        postgresql.UUID(), "postgresql"
    )


def text() -> TypeEngine[str]:
    wide = mysql.TEXT(charset="utf8mb4", collation="utf8mb4_bin")
    return sa.Text().with_variant(wide, "mysql", "mariadb")


def upgrade() -> None:
    create_table(
        "node_timeout_config",
        sa.Column("root_pipeline_id", exact(128), primary_key=True),
        sa.Column("node_id", exact(128), primary_key=True),
        sa.Column("action", exact(64), nullable=False),
        sa.Column("timeout", sa.Double(), nullable=False, comment="seconds"),
        sa.Column("payload_json", text(), nullable=True, comment="for the strategy"),
        sa.Column("expires_at", sa.Double(), nullable=True, comment="its root pipeline has ended"),
    )
    create_index(
        "ix_node_timeout_config_expires",
        "node_timeout_config",
        ["expires_at", "root_pipeline_id", "node_id"],
    )
    create_index(
        "ix_node_timeout_config_node", "node_timeout_config", ["node_id", "root_pipeline_id"]
    )
    create_table(
        "node_timeout_run",
        sa.Column("run_id", run_id(), primary_key=True),
        sa.Column("root_pipeline_id", exact(128), nullable=False),
        sa.Column("node_id", exact(128), nullable=False),
        sa.Column("version", exact(64), nullable=False),
        sa.Column("action", exact(64), nullable=True),
        sa.Column("timeout", sa.Double(), nullable=True, comment="seconds"),
        sa.Column("payload_json", text(), nullable=True),
        sa.Column("trace", exact(55), nullable=True, comment="W3C traceparent"),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("started_at", sa.Double(), nullable=True, comment="by the engine's clock"),
        sa.Column("deadline", sa.Double(), nullable=True),
        sa.Column("extended", sa.Double(), nullable=True, comment="seconds, by changes"),
        sa.Column(
            "next_at",
            sa.Double(),
            nullable=True,
            comment="of an armed run: its deadline or next try",
        ),
        sa.Column("paused_at", sa.Double(), nullable=True),
        sa.Column("stopped_by", exact(16), nullable=True),
        sa.Column("lease_until", sa.Double(), nullable=True),
        sa.Column("lease_owner", exact(64), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("finished_at", sa.Double(), nullable=True),
        sa.Column("message", text(), nullable=True),
    )
    create_index("ix_node_timeout_run_next", "node_timeout_run", ["state", "next_at", "run_id"])
    create_index("ix_node_timeout_run_finished", "node_timeout_run", ["state", "finished_at"])
    create_index("ix_node_timeout_run_node", "node_timeout_run", ["node_id", "root_pipeline_id"])
    create_index("ix_node_timeout_run_root", "node_timeout_run", ["root_pipeline_id"])
    create_table(
        "node_timeout_history",
        sa.Column(
            "id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            sa.Identity(),
            primary_key=True,
            autoincrement=True,
        ),
        sa.Column("run_id", run_id(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("kind", exact(16), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("actor", exact(128), nullable=True),
        sa.Column("detail", text(), nullable=True),
        sa.Column("idempotency_key", exact(128), nullable=True),
    )
    create_index("ix_node_timeout_history_run", "node_timeout_history", ["run_id", "id"])
    create_table(
        "node_timeout_token",
        sa.Column("token_hash", exact(64), primary_key=True, comment="SHA-256 of its text"),
        sa.Column("token_id", exact(12), nullable=False),
        sa.Column("name", exact(128), nullable=False),
        sa.Column("role", exact(16), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("expires_at", sa.Double(), nullable=True),
        sa.Column("revoked_at", sa.Double(), nullable=True),
    )
    create_table(
        "node_timeout_setting",
        sa.Column("name", exact(64), primary_key=True),
        sa.Column("value", exact(255), nullable=False),
    )


def downgrade() -> None:
    for table in ("setting", "token", "history", "run", "config"):
        drop_table(f"node_timeout_{table}")
