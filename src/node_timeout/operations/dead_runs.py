"""Operations on dead runs: arm them again, or delete them."""

from node_timeout.domain.run import RunState
from node_timeout.operations.choosing import Choice, count
from node_timeout.operations.pages import BATCH_SIZE
from node_timeout.ports.directory import DeadRuns
from node_timeout.ports.ledger import Ledger
from node_timeout.ports.pool import Pool


async def replay(
    ledger: Ledger,
    pool: Pool,
    choice: Choice,
    *,
    actor: str,
    reason: str | None,
    dry_run: bool,
) -> int:
    """See `NodeTimeout.replay`. The ledger comes first, as ever."""
    if dry_run:
        return await count(ledger, choice.of(RunState.DEAD))
    now = await pool.now()
    rest: DeadRuns | None = DeadRuns(
        wanted=choice.of(RunState.DEAD), until=now, actor=actor, reason=reason
    )
    replayed = 0
    while rest is not None:
        page = await ledger.replay(rest, now, BATCH_SIZE)
        replayed += len(page.due)
        await pool.arm(page.due)
        rest = page.rest
    return replayed


async def discard(ledger: Ledger, pool: Pool, choice: Choice, *, dry_run: bool) -> int:
    """See `NodeTimeout.discard`."""
    if dry_run:
        return await count(ledger, choice.of(RunState.DEAD))
    which = DeadRuns(wanted=choice.of(RunState.DEAD), until=await pool.now())
    discarded = 0
    while run_ids := await ledger.discard(which, BATCH_SIZE):
        discarded += len(run_ids)
        await pool.disarm(run_ids)
    return discarded
