"""Operations that read runs; they check the parameters, once for all callers."""

from collections.abc import Sequence
from typing import Any

from node_timeout.domain.errors import InvalidInputError
from node_timeout.domain.hints import shown
from node_timeout.domain.history import HistoryEntry
from node_timeout.domain.ids import id_problem
from node_timeout.domain.lateness import MAX_ENDINGS, lateness_by_minute
from node_timeout.domain.run import LedgerRow, Node, RunState
from node_timeout.domain.run_id import is_run_id
from node_timeout.domain.timeout_config import TimeoutConfig
from node_timeout.operations.choosing import due_problem, require_node_of, state_problem
from node_timeout.operations.reading import check_run_ids
from node_timeout.ports.directory import (
    MAX_NAMES,
    MAX_PAGE,
    Cursor,
    Directory,
    Names,
    RunFilter,
    RunPage,
)
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
    problems = [state_problem(state), due_problem(due_within, state)]
    if not 1 <= limit <= MAX_PAGE:
        problems.append(f"limit {limit!r} is not from 1 to {MAX_PAGE}")
    if any(problems):
        raise InvalidInputError(*filter(None, problems))
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


async def find_configs(
    directory: Directory,
    *,
    root_pipeline_id: str | None,
    node_id: str | None,
    limit: int,
    after: Node | None,
) -> list[TimeoutConfig]:
    """See `NodeTimeout.find_configs`."""
    if not 1 <= limit <= MAX_PAGE:
        raise InvalidInputError(f"limit {limit!r} is not from 1 to {MAX_PAGE}")
    return await directory.find_configs(
        limit, root_pipeline_id=root_pipeline_id, node_id=node_id, after=after
    )


async def names(directory: Directory, prefix: str, limit: int) -> Names:
    """See `NodeTimeout.names`."""
    if not 1 <= limit <= MAX_NAMES:
        raise InvalidInputError(f"limit {limit!r} is not from 1 to {MAX_NAMES}")
    if problem := id_problem("prefix", prefix.rstrip(" ") if isinstance(prefix, str) else prefix):
        raise InvalidInputError(problem)
    return await directory.names(prefix, limit)


async def late(directory: Directory, limit: int) -> dict[str, Any]:
    """See `NodeTimeout.lateness`."""
    if not 1 <= limit <= MAX_ENDINGS:
        raise InvalidInputError(f"limit {limit!r} is not from 1 to {MAX_ENDINGS}")
    return lateness_by_minute(await directory.recent(limit, [RunState.HANDLED]))


async def run(directory: Directory, run_id: str) -> LedgerRow | None:
    """See `NodeTimeout.run`."""
    if not is_run_id(run_id):
        raise InvalidInputError(f"{shown(run_id)} is no run id")
    found = await directory.rows_of([run_id])
    return found[0] if found else None


async def history(directory: Directory, run_ids: Sequence[str]) -> list[HistoryEntry]:
    """See `NodeTimeout.history`."""
    check_run_ids(run_ids)
    return await directory.history(run_ids)
