"""Cancelling: armed runs of a node, of one version of it, or of a root pipeline, by a person."""

from dataclasses import replace

from node_timeout.arming.roots import ambiguity, find_roots
from node_timeout.arming.tracker import Tracker
from node_timeout.domain.errors import InvalidInputError
from node_timeout.domain.events import NodeLeft
from node_timeout.domain.run import RunState
from node_timeout.operations.choosing import Choice, count
from node_timeout.ports.directory import Cursor
from node_timeout.ports.ledger import Ledger
from node_timeout.ports.pool import Pool

BATCH_SIZE = 500


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
    if choice.everything:
        raise InvalidInputError("choose a node or a root pipeline to cancel")
    if dry_run:
        return await _count(ledger, choice)
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


async def _count(ledger: Ledger, choice: Choice) -> int:
    """Raises `AmbiguousNodeError` where cancelling would."""
    if choice.node_id is not None and choice.root_pipeline_id is None:
        rooted = await find_roots([NodeLeft(node_id=choice.node_id)], ledger)
        if rooted.ambiguous:
            raise ambiguity(rooted)
        for event in rooted.events:
            choice = replace(choice, root_pipeline_id=event.root_pipeline_id)
    return await count(ledger, choice.of(RunState.ARMED))


async def _cancel_root(
    ledger: Ledger,
    pool: Pool,
    tracker: Tracker,
    choice: Choice,
    actor: str,
    reason: str | None,
) -> int:
    """Page by page; a crash leaves the rest armed, and it may be called again."""
    now = await pool.now()
    cancelled = 0
    after: Cursor | None = None
    while True:
        page = await ledger.find(choice.of(RunState.ARMED), BATCH_SIZE, after)
        events = [
            NodeLeft(
                node_id=row.node_id,
                version=row.version,
                root_pipeline_id=row.root_pipeline_id,
                only_version=True,
                actor=actor,
                reason=reason,
            )
            for row in page.rows
        ]
        if events:
            gone, _ = await tracker.left(events, now)
            cancelled += gone
        after = page.after
        if after is None:
            return cancelled
