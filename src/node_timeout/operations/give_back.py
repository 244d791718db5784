"""Give back: ledger → pool, in the form of bamboo's own app, for users who go back to it.

All scanners and workers must be stopped: this call takes the lead of the reconcilers, and raises if
a worker has a run. After a crash some runs are not given back yet; a second call does the rest.
"""

import math
import uuid
from dataclasses import dataclass, field

from node_timeout.dispatch.reconciler import ROLE
from node_timeout.domain import canary
from node_timeout.domain.errors import NodeTimeoutError
from node_timeout.domain.run import LedgerRow, RunState, foreign_member
from node_timeout.operations.pages import pages
from node_timeout.ports.directory import RunFilter
from node_timeout.ports.ledger import Ledger
from node_timeout.ports.pool import Pool


@dataclass(slots=True, kw_only=True)
class GiveBackReport:
    """What became of the open runs."""

    given: int = 0
    refused: list[str] = field(default_factory=list)
    """One sentence for each run that bamboo's own app cannot have."""


async def give_back(ledger: Ledger, pool: Pool, lease_seconds: float) -> GiveBackReport:
    """Write the open runs into the pool as ``<node_id>_<version>``, and remove our members.

    Raises `NodeTimeoutError` if a scanner or a worker runs.
    """
    name = f"give-back-{uuid.uuid4().hex}"
    report = GiveBackReport()
    await _lead(pool, name, lease_seconds)
    try:
        await _require_no_worker(ledger, await pool.now())
        starts = canary.canaries(pool.homes, pool.home)
        await pool.disarm([start.run.run_id for start in starts])  # bamboo's own app has none
        for state in (RunState.EXECUTING, RunState.ARMED, RunState.PAUSED):
            async for rows in pages(ledger, RunFilter(state=state)):
                await _lead(pool, name, lease_seconds)
                await _give(rows, pool, report)
    finally:
        await pool.resign(ROLE, name)
    return report


async def _lead(pool: Pool, name: str, seconds: float) -> None:
    if not await pool.lead(ROLE, name, seconds):
        raise NodeTimeoutError("a scanner is at work: stop all scanners and workers first")


async def _require_no_worker(ledger: Ledger, now: float) -> None:
    async for rows in pages(ledger, RunFilter(state=RunState.EXECUTING)):
        if any((row.lease_until or 0.0) > now for row in rows):
            raise NodeTimeoutError(
                "a worker has runs in its hands: stop all scanners and workers first"
            )


async def _give(rows: tuple[LedgerRow, ...], pool: Pool, report: GiveBackReport) -> None:
    members: dict[str, float] = {}
    for row in rows:
        # bamboo's scanner splits members at each underscore; one with two loses its whole batch.
        if row.state is RunState.PAUSED:
            report.refused.append(
                f"node {row.node_id!r}, version {row.version!r}, is paused, which bamboo's own app "
                f"does not know: nobody watches it any more"
            )
        elif "_" in row.node_id + row.version:
            report.refused.append(
                f"node {row.node_id!r}, version {row.version!r}, has an underscore: bamboo's own "
                f"app cannot read it, and nobody watches it any more"
            )
        else:
            deadline = row.deadline if row.deadline is not None else 0.0
            members[foreign_member(row.node_id, row.version)] = (
                deadline if math.isfinite(deadline) else 0.0
            )
    if members:
        await pool.give_back(members)
    if rows:
        await pool.disarm([row.run_id for row in rows])
    report.given += len(members)
