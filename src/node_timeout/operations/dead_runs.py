"""Operations on dead runs: arm them again, or delete them."""

from node_timeout.domain.errors import InvalidInputError
from node_timeout.ports.ledger import DeadRuns, Ledger
from node_timeout.ports.pool import Pool

BATCH_SIZE = 500


def meant(
    *,
    until: float,
    node_id: str | None,
    root_pipeline_id: str | None,
    everything: bool,
    actor: str | None = None,
    reason: str | None = None,
) -> DeadRuns:
    """Raises `InvalidInputError` unless exactly one is chosen."""
    if (node_id is not None) + (root_pipeline_id is not None) + everything != 1:
        raise InvalidInputError("choose one of node_id, root_pipeline_id and everything")
    return DeadRuns(
        until=until,
        node_id=node_id,
        root_pipeline_id=root_pipeline_id,
        actor=actor,
        reason=reason,
    )


async def replay(ledger: Ledger, pool: Pool, which: DeadRuns) -> int:
    """Arm them again, due now; return how many. The ledger comes first, as ever."""
    rest: DeadRuns | None = which
    replayed = 0
    while rest is not None:
        page = await ledger.replay(rest, which.until, BATCH_SIZE)
        replayed += len(page.due)
        await pool.arm(page.due)
        rest = page.rest
    return replayed


async def discard(ledger: Ledger, pool: Pool, which: DeadRuns) -> int:
    """Delete them, with their history; return how many."""
    discarded = 0
    while run_ids := await ledger.discard(which, BATCH_SIZE):
        discarded += len(run_ids)
        await pool.disarm(run_ids)
    return discarded
