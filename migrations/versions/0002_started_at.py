"""When a node run entered RUNNING, so that a late event cannot cancel a newer run.

Revision 0002, after 0001.
"""

import sqlalchemy as sa

from node_timeout.stores.sql.repeatable import add_column, drop_column

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    add_column(
        "node_timeout_ledger",
        sa.Column(
            "started_at",
            sa.Double(),
            nullable=True,
            comment="null: the engine armed the pool itself",
        ),
    )


def downgrade() -> None:
    drop_column("node_timeout_ledger", "started_at")
