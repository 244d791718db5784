"""Timeout configs and the ledger.

Revision 0001, the first.
"""

import sqlalchemy as sa
from sqlalchemy.dialects import mysql
from sqlalchemy.types import TypeEngine

from node_timeout.stores.sql.repeatable import create_index, create_table, drop_table

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def exact(length: int) -> TypeEngine[str]:
    binary = mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_bin")
    return sa.String(length).with_variant(binary, "mysql", "mariadb")


def text() -> TypeEngine[str]:
    wide = mysql.TEXT(charset="utf8mb4", collation="utf8mb4_bin")
    return sa.Text().with_variant(wide, "mysql", "mariadb")


def upgrade() -> None:
    create_table(
        "node_timeout_config",
        sa.Column("node_id", exact(128), primary_key=True),
        sa.Column("root_pipeline_id", exact(128), nullable=False),
        sa.Column("action", exact(64), nullable=False),
        sa.Column("timeout", sa.Double(), nullable=False, comment="seconds"),
    )
    create_index("ix_node_timeout_config_root", "node_timeout_config", ["root_pipeline_id"])
    create_table(
        "node_timeout_ledger",
        sa.Column("node_id", exact(128), primary_key=True),
        sa.Column("version", exact(64), primary_key=True),
        sa.Column("root_pipeline_id", exact(128), nullable=False),
        sa.Column("action", exact(64), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("deadline", sa.Double(), nullable=False),
        sa.Column(
            "due_at",
            sa.Double(),
            nullable=True,
            comment="armed: next try; executing: lease expiry",
        ),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("finished_at", sa.Double(), nullable=True),
        sa.Column("message", text(), nullable=False),
    )
    create_index(
        "ix_node_timeout_ledger_due",
        "node_timeout_ledger",
        ["state", "due_at", "node_id", "version"],
    )
    create_index("ix_node_timeout_ledger_finished", "node_timeout_ledger", ["state", "finished_at"])
    create_index(
        "ix_node_timeout_ledger_root", "node_timeout_ledger", ["root_pipeline_id", "state"]
    )


def downgrade() -> None:
    drop_table("node_timeout_ledger")
    drop_table("node_timeout_config")
