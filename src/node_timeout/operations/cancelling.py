"""Cancelling: armed runs of a node, of one version of it, or of a root pipeline, by a person."""

from collections.abc import AsyncIterator
from dataclasses import replace

from node_timeout.arming.roots import ambiguity, find_roots
from node_timeout.arming.tracker import Tracker
from node_timeout.domain.events import NodeLeft
from node_timeout.domain.leaving import is_open
from node_timeout.domain.run import LedgerRow, RunState
from node_timeout.operations.choosing import Choice
from node_timeout.operations.pages import pages
from node_timeout.ports.ledger import Ledger
from node_timeout.ports.pool import Pool


async def cancel(
    ledger: Ledger,
    pool: Pool,
    tracker: Tracker,
    choice: Choice,
    *,
    actor: str,
    reason: str | None,
    dry_run: bool,
) -> int:
    """See `NodeTimeout.cancel`."""
    if dry_run:
        return await _count(ledger, pool, choice)
    if choice.node_id is None:
        return await _cancel_root(ledger, pool, tracker, choice, actor, reason)
    return await tracker.cancel(
        NodeLeft(
            node_id=choice.node_id,
            version=choice.version,
            root_pipeline_id=choice.root_pipeline_id,
            only_version=choice.version is not None,
            actor=actor,
            reason=reason,
        )
    )


async def _count(ledger: Ledger, pool: Pool, choice: Choice) -> int:
    """Raises `AmbiguousNodeError` where cancelling would."""
    if choice.node_id is not None and choice.root_pipeline_id is None:
        rooted = await find_roots([NodeLeft(node_id=choice.node_id)], ledger)
        if rooted.ambiguous:
            raise ambiguity(rooted)
        for event in rooted.events:
            choice = replace(choice, root_pipeline_id=event.root_pipeline_id)
    return sum([len(rows) async for rows, _ in _open_runs(ledger, pool, choice)])


async def _cancel_root(
    ledger: Ledger,
    pool: Pool,
    tracker: Tracker,
    choice: Choice,
    actor: str,
    reason: str | None,
) -> int:
    """Page by page; a crash leaves the rest armed, and it may be called again."""
    cancelled = 0
    async for rows, now in _open_runs(ledger, pool, choice):
        events = [
            NodeLeft.of(row.run, only_version=True, actor=actor, reason=reason) for row in rows
        ]
        gone, _ = await tracker.left(events, now)
        cancelled += gone
    return cancelled


async def _open_runs(
    ledger: Ledger, pool: Pool, choice: Choice
) -> AsyncIterator[tuple[list[LedgerRow], float]]:
    """Runs that can be cancelled, and the instant at which they could: those that are armed, then
    those that a worker has taken ahead of their deadline.
    """
    for state in (RunState.ARMED, RunState.EXECUTING):
        async for page in pages(ledger, choice.of(state)):
            now = await pool.now()
            if rows := [row for row in page if is_open(row, now)]:
                yield rows, now
