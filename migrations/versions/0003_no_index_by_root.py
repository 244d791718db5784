"""No index by root pipeline: all that arms or changes a state wrote it, and nearly nothing read it.

Revision 0003, after 0002. Versions that were made for 0002 go on with it.
"""

from node_timeout.stores.sql.repeatable import create_index, drop_index

revision = "0003_since_0002"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    drop_index("ix_node_timeout_ledger_root", "node_timeout_ledger")
    drop_index("ix_node_timeout_config_root", "node_timeout_config")


def downgrade() -> None:
    create_index("ix_node_timeout_config_root", "node_timeout_config", ["root_pipeline_id"])
    create_index(
        "ix_node_timeout_ledger_root", "node_timeout_ledger", ["root_pipeline_id", "state"]
    )
