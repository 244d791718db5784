"""What the scanners are set to, so that other processes can compare.

Revision 0004, after 0003. Versions that were made for 0002 go on with it.
"""

import sqlalchemy as sa
from sqlalchemy.dialects import mysql
from sqlalchemy.types import TypeEngine

from node_timeout.stores.sql.repeatable import create_table, drop_table

revision = "0004_since_0002"
down_revision = "0003_since_0002"
branch_labels = None
depends_on = None


def exact(length: int) -> TypeEngine[str]:
    binary = mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_bin")
    return sa.String(length).with_variant(binary, "mysql", "mariadb")


def upgrade() -> None:
    create_table(
        "node_timeout_setting",
        sa.Column("name", exact(64), primary_key=True),
        sa.Column("value", exact(255), nullable=False),
    )


def downgrade() -> None:
    drop_table("node_timeout_setting")
