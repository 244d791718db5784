"""Words that many tests use: those of `node_timeout.testing`, and rows as SQL has them."""

from collections.abc import Sequence
from typing import Any

from node_timeout.domain.run import DueRun, LedgerRow, NodeRun, RunState
from node_timeout.domain.timeout_config import TimeoutConfig
from node_timeout.ports.pool import Pool
from node_timeout.stores.ledger_rows import values_of
from node_timeout.testing.engine import FakeEngine
from node_timeout.testing.words import (
    ROOT,
    config,
    configure,
    due,
    foreign,
    gone,
    id_of,
    left,
    names_of,
    run,
    started,
    tree_of,
    wait_until,
)

__all__ = [
    "ROOT",
    "FakeEngine",
    "absent",
    "armed_row",
    "config",
    "configure",
    "due",
    "foreign",
    "gone",
    "id_of",
    "left",
    "names_of",
    "run",
    "started",
    "tree_of",
    "wait_until",
]


async def absent(pool: Pool, run_ids: Sequence[str]) -> list[str]:
    """Those that are not in the pool, whatever their instant."""
    found = await pool.behind([DueRun(run_id=each, due_at=1e300) for each in run_ids], 0.0)
    return [each for each in run_ids if each in found.absent]


def armed_row(
    run: NodeRun, config: TimeoutConfig | None, started_at: float | None, deadline: float
) -> dict[str, Any]:
    """The columns of an armed run."""
    return values_of(
        LedgerRow(
            root_pipeline_id=run.root_pipeline_id,
            node_id=run.node_id,
            version=run.version,
            action=config.action if config else None,
            state=RunState.ARMED,
            started_at=started_at,
            deadline=deadline,
            next_at=deadline,
        )
    )
