"""Operations that look at runs: what may be asked for, checked once for every caller."""

import math
from collections.abc import Sequence

from node_timeout.domain.errors import InvalidInputError
from node_timeout.domain.hints import shown
from node_timeout.domain.run import HistoryEntry, RunState
from node_timeout.operations.choosing import require_node_of
from node_timeout.operations.reading import check_run_ids
from node_timeout.ports.directory import MAX_PAGE, Cursor, Directory, RunFilter, RunPage
from node_timeout.ports.pool import Pool


async def find(
    directory: Directory,
    pool: Pool,
    *,
    state: RunState | str | None,
    root_pipeline_id: str | None,
    node_id: str | None,
    version: str | None,
    action: str | None,
    due_within: float | None,
    limit: int,
    after: Cursor | None,
) -> RunPage:
    """See `NodeTimeout.find`."""
    if state is not None and state not in set(RunState):
        raise InvalidInputError(f"state {shown(state)} is none of {', '.join(RunState)}")
    if not 1 <= limit <= MAX_PAGE:
        raise InvalidInputError(f"limit {limit!r} is not from 1 to {MAX_PAGE}")
    if due_within is not None and not 0 <= due_within < math.inf:
        raise InvalidInputError(f"due_within {due_within!r} is not a number of seconds")
    if due_within is not None and state not in (None, RunState.ARMED):
        raise InvalidInputError(f"what is due is armed, not {state}")
    if after is not None:
        after = Cursor.parse(str(Cursor(*after)))
    require_node_of(version, node_id)
    chosen = (state, root_pipeline_id, node_id, due_within)
    if all(each is None for each in chosen):
        state = RunState.ARMED
    wanted = RunFilter(
        state=None if state is None else RunState(state),
        root_pipeline_id=root_pipeline_id,
        node_id=node_id,
        version=version,
        action=action,
        due_by=None if due_within is None else await pool.now() + due_within,
    )
    return await directory.find(wanted, limit, after)


async def history(directory: Directory, run_ids: Sequence[str]) -> list[HistoryEntry]:
    """See `NodeTimeout.history`."""
    check_run_ids(run_ids)
    return await directory.history(run_ids)
