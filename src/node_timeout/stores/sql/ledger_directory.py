"""Looking at the ledger: pages of runs, one run with its history, counts."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Select, case, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from node_timeout.domain.run import HistoryEntry, HistoryKind, LedgerRow, RunState
from node_timeout.ports.directory import Cursor, LedgerCounts, RunFilter, RunPage
from node_timeout.stores.ledger_rows import row_of, rows_of
from node_timeout.stores.sql.database import transaction
from node_timeout.stores.sql.ledger_configs import LedgerConfigs
from node_timeout.stores.sql.run_rows import (
    ROW_COLUMNS,
    chunks,
    in_order,
    is_after,
    of_few,
    walking,
)
from node_timeout.stores.sql.tables import FINISHED_INDEX, NEXT_INDEX, history, runs

HOUR = 3600.0
CLOSED = (RunState.HANDLED, RunState.STALE, RunState.CANCELLED, RunState.DEAD)


class LedgerDirectory(LedgerConfigs):
    """See `node_timeout.ports.directory.Directory` for the contract."""

    @transaction
    async def find(
        self,
        connection: AsyncConnection,
        wanted: RunFilter,
        limit: int,
        after: Cursor | None = None,
    ) -> RunPage:
        instant, _ = _order(wanted)
        query = page_of_runs(select(runs, instant.label("instant")), wanted, limit, after)
        found = [each._asdict() for each in await connection.execute(query)]
        keys = [Cursor(each.pop("instant"), each.pop("run_id")) for each in found]
        return RunPage(
            rows=tuple(row for each in found if (row := row_of(each))),
            after=keys[-1] if len(found) == limit else None,
        )

    @transaction
    async def counts(self, connection: AsyncConnection, now: float) -> LedgerCounts:
        wants_at = func.coalesce(runs.c.next_at, runs.c.lease_until)
        is_overdue = wants_at <= now
        overdue = case((is_overdue, 1), else_=0)
        since = case((is_overdue, wants_at))
        wanted = (RunState.ARMED, RunState.EXECUTING, RunState.DEAD)
        found = await connection.execute(
            select(
                runs.c.state,
                func.count().label("rows"),
                func.sum(overdue).label("overdue"),
                func.min(since).label("since"),
            )
            .where(runs.c.state.in_(wanted))
            .group_by(runs.c.state)
        )
        by_state = {_state(row): row for row in found}
        recent = await connection.execute(
            select(runs.c.state, func.count().label("rows"))
            .where(runs.c.state.in_(CLOSED), runs.c.finished_at > now - HOUR)
            .group_by(runs.c.state)
        )

        def rows(state: RunState) -> int:
            return int(by_state[state].rows) if state in by_state else 0

        armed = by_state.get(RunState.ARMED)
        open_rows = [
            row
            for state, row in by_state.items()
            if state is not RunState.DEAD and row.since is not None
        ]
        return LedgerCounts(
            armed=rows(RunState.ARMED),
            overdue=int(armed.overdue) if armed else 0,
            oldest_overdue_seconds=max((now - row.since for row in open_rows), default=0.0),
            executing=rows(RunState.EXECUTING),
            dead=rows(RunState.DEAD),
            last_hour={_state(row): int(row.rows) for row in recent},
        )

    @transaction
    async def dead(self, connection: AsyncConnection) -> int:
        found = await connection.execute(
            select(func.count()).select_from(runs).where(runs.c.state == RunState.DEAD)
        )
        return int(found.scalar_one())

    @transaction
    async def recent(self, connection: AsyncConnection, limit: int) -> list[LedgerRow]:
        rows: list[LedgerRow] = []
        for state in CLOSED:
            found = await connection.execute(
                select(*ROW_COLUMNS)
                .where(runs.c.state == state)
                .order_by(runs.c.finished_at.desc())
                .limit(limit)
            )
            rows += rows_of(found)
        return sorted(rows, key=lambda row: row.finished_at or 0.0, reverse=True)[:limit]

    @transaction
    async def history(
        self, connection: AsyncConnection, run_ids: Sequence[str]
    ) -> list[HistoryEntry]:
        columns = [column for column in history.c if column.name != "id"]
        entries: list[HistoryEntry] = []
        for chunk in chunks(in_order(run_ids)):
            found = await connection.execute(
                select(*columns).where(self._keys.of(chunk, history)).order_by(history.c.id)
            )
            entries += (
                HistoryEntry(**row._asdict() | {"kind": HistoryKind(row.kind)}) for row in found
            )
        return entries

    @transaction
    async def rows(
        self, connection: AsyncConnection, node_id: str, root_pipeline_id: str | None = None
    ) -> list[LedgerRow]:
        query = select(*ROW_COLUMNS).where(runs.c.node_id == node_id)
        if root_pipeline_id is not None:
            query = query.where(runs.c.root_pipeline_id == root_pipeline_id)
        order = (runs.c.root_pipeline_id, runs.c.deadline, runs.c.version)
        return rows_of(await connection.execute(query.order_by(*order)))

    @transaction
    async def rows_of(self, connection: AsyncConnection, run_ids: Sequence[str]) -> list[LedgerRow]:
        rows: list[LedgerRow] = []
        for chunk in chunks(in_order(run_ids)):
            rows += rows_of(
                await connection.execute(select(*ROW_COLUMNS).where(self._keys.of(chunk)))
            )
        return rows


def page_of_runs(
    query: Select[Any], wanted: RunFilter, limit: int, after: Cursor | None
) -> Select[Any]:
    """Runs that are wanted, oldest first, those behind ``after``."""
    instant, index = _order(wanted)
    query = query.where(instant.is_not(None), *_conditions(wanted))
    if after is not None:
        query = query.where(*is_after(instant, *after))
    if index is not None:
        query = walking(query, index)
    return query.order_by(instant, runs.c.run_id).limit(limit)


def _order(wanted: RunFilter) -> tuple[ColumnElement[Any], str | None]:
    """In whose order the runs come, and the index that has them in it."""
    column: ColumnElement[Any]
    index: str | None = None
    match RunState.ARMED if wanted.due_by is not None else wanted.state:
        case None:
            column = func.coalesce(runs.c.deadline, runs.c.finished_at)
        case RunState.ARMED:
            column, index = runs.c.next_at, NEXT_INDEX
        case RunState.EXECUTING:  # few
            column = runs.c.lease_until
        case _:
            column, index = runs.c.finished_at, FINISHED_INDEX
    if wanted.root_pipeline_id is None and wanted.node_id is None:
        return column, index
    return of_few(column), None


def _conditions(wanted: RunFilter) -> list[ColumnElement[bool]]:
    equal = {
        "state": wanted.state,
        "root_pipeline_id": wanted.root_pipeline_id,
        "node_id": wanted.node_id,
        "version": wanted.version,
        "action": wanted.action,
    }
    conditions = [runs.c[name] == value for name, value in equal.items() if value is not None]
    if wanted.due_by is not None:
        conditions += [runs.c.state == RunState.ARMED, runs.c.next_at <= wanted.due_by]
    return conditions


def _state(row: Any) -> RunState:
    """Of a group of rows: MariaDB takes a state that someone wrote in capitals for the same."""
    return RunState(row.state.strip().lower())
