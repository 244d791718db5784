"""Reading the ledger: pages of runs, one run with its history, counts."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Select, func, literal, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from node_timeout.domain import canary
from node_timeout.domain.history import HistoryEntry
from node_timeout.domain.run import CLOSED, LedgerRow, Node, RunState
from node_timeout.domain.timeout_config import TimeoutConfig
from node_timeout.ports.directory import Cursor, LedgerCounts, Names, RunFilter, RunPage
from node_timeout.stores.ledger_rows import CONFIG_COLUMNS, entries_of, row_of, rows_of
from node_timeout.stores.sql.database import transaction
from node_timeout.stores.sql.ledger_configs import LedgerConfigs
from node_timeout.stores.sql.run_rows import (
    ROW_COLUMNS,
    chunks,
    config_of,
    in_order,
    is_after,
    of_few,
    walking,
)
from node_timeout.stores.sql.tables import FINISHED_INDEX, NEXT_INDEX, configs, history, runs

ENTRY_COLUMNS = [column for column in history.c if column.name != "id"]
HOUR = 3600.0
STANDING = (RunState.ARMED, RunState.PAUSED, RunState.EXECUTING, RunState.DEAD)


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
    async def counts(
        self, connection: AsyncConnection, now: float, most: int | None = None
    ) -> LedgerCounts:
        async def number(*conditions: ColumnElement[bool]) -> int:
            these = select(literal(1)).select_from(runs).where(*conditions)
            if most is not None:
                these = these.limit(most)
            query = select(func.count()).select_from(these.subquery())
            return int((await connection.execute(query)).scalar_one())

        async def first(instant: ColumnElement[float], state: RunState) -> float | None:
            query = select(func.min(instant)).where(runs.c.state == state)
            found: float | None = (await connection.execute(query)).scalar_one()
            return found

        standing = {state: await number(runs.c.state == state) for state in STANDING}
        hour = {
            state: await number(runs.c.state == state, runs.c.finished_at > now - HOUR)
            for state in CLOSED
        }
        oldest = [
            await first(runs.c.next_at, RunState.ARMED),
            await first(runs.c.lease_until, RunState.EXECUTING),
        ]
        return LedgerCounts(
            armed=standing[RunState.ARMED],
            overdue=await number(runs.c.state == RunState.ARMED, runs.c.next_at <= now),
            oldest_overdue_seconds=max(0.0, *(now - at for at in oldest if at is not None), 0.0),
            executing=standing[RunState.EXECUTING],
            paused=standing[RunState.PAUSED],
            dead=standing[RunState.DEAD],
            last_hour={state: count for state, count in hour.items() if count},
        )

    @transaction
    async def count(
        self, connection: AsyncConnection, states: Sequence[RunState]
    ) -> dict[RunState, int]:
        found = await connection.execute(
            select(runs.c.state, func.count().label("rows"))
            .where(runs.c.state.in_(states))
            .group_by(runs.c.state)
        )
        return dict.fromkeys(states, 0) | {_state(row): int(row.rows) for row in found}

    @transaction
    async def recent(
        self,
        connection: AsyncConnection,
        limit: int,
        states: Sequence[RunState] = CLOSED,
    ) -> list[LedgerRow]:
        rows: list[LedgerRow] = []
        for state in states:
            found = await connection.execute(
                select(*ROW_COLUMNS)
                .where(runs.c.state == state, runs.c.root_pipeline_id != canary.ROOT)
                .order_by(runs.c.finished_at.desc())
                .limit(limit)
            )
            rows += rows_of(found)
        return sorted(rows, key=lambda row: row.finished_at or 0.0, reverse=True)[:limit]

    @transaction
    async def names(self, connection: AsyncConnection, prefix: str, limit: int) -> Names:
        async def beginning_so(column: ColumnElement[str]) -> tuple[str, ...]:
            found: list[str] = []
            following = column >= prefix
            while len(found) < limit:
                query = select(func.min(column)).where(following)
                name: str | None = (await connection.execute(query)).scalar_one()
                if name is None or not name.startswith(prefix):
                    break
                found.append(name)
                following = column > name
            return tuple(found)

        return Names(
            nodes=await beginning_so(runs.c.node_id),
            root_pipelines=await beginning_so(runs.c.root_pipeline_id),
        )

    @transaction
    async def history(
        self, connection: AsyncConnection, run_ids: Sequence[str]
    ) -> list[HistoryEntry]:
        entries: list[HistoryEntry] = []
        for chunk in chunks(in_order(run_ids)):
            found = await connection.execute(
                select(*ENTRY_COLUMNS).where(self._keys.of(chunk, history)).order_by(history.c.id)
            )
            entries += entries_of(row._asdict() for row in found)
        return entries

    @transaction
    async def recent_history(
        self, connection: AsyncConnection, run_id: str, limit: int
    ) -> list[HistoryEntry]:
        found = await connection.execute(
            select(*ENTRY_COLUMNS)
            .where(self._keys.of([run_id], history))
            .order_by(history.c.id.desc())
            .limit(limit)
        )
        return entries_of(row._asdict() for row in reversed(found.all()))

    @transaction
    async def find_configs(
        self,
        connection: AsyncConnection,
        limit: int,
        *,
        root_pipeline_id: str | None = None,
        node_id: str | None = None,
        after: Node | None = None,
    ) -> list[TimeoutConfig]:
        query = select(*(configs.c[name] for name in CONFIG_COLUMNS))
        for column, value in (
            (configs.c.root_pipeline_id, root_pipeline_id),
            (configs.c.node_id, node_id),
        ):
            if value is not None:
                query = query.where(column == value)
        key = (configs.c.root_pipeline_id, configs.c.node_id)
        if after is not None:
            root, node = after
            query = query.where(key[0] >= root, or_(key[0] > root, key[1] > node))
        found = await connection.execute(query.order_by(*key).limit(limit))
        return [config_of(row) for row in found]

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
    """Matching runs, oldest first, from behind ``after``."""
    instant, index = _order(wanted)
    query = query.where(instant.is_not(None), *_conditions(wanted))
    if after is not None:
        query = query.where(*is_after(instant, *after))
    if index is not None:
        query = walking(query, index)
    return query.order_by(instant, runs.c.run_id).limit(limit)


def _order(wanted: RunFilter) -> tuple[ColumnElement[Any], str | None]:
    """The instant by which the runs are ordered, and the index with that order."""
    column: ColumnElement[Any]
    index: str | None = None
    match RunState.ARMED if wanted.due_by is not None else wanted.state:
        case None:
            column = func.coalesce(runs.c.deadline, runs.c.finished_at)
        case RunState.ARMED:
            column, index = runs.c.next_at, NEXT_INDEX
        case RunState.EXECUTING:  # only a few rows
            column = runs.c.lease_until
        case RunState.PAUSED:  # only a few rows as well
            column = of_few(runs.c.paused_at)
        case _:
            column, index = runs.c.finished_at, FINISHED_INDEX
    if wanted.is_for_all:
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
    if wanted.is_for_all:
        conditions.append(runs.c.root_pipeline_id != canary.ROOT)
    if wanted.due_by is not None:
        conditions += [runs.c.state == RunState.ARMED, runs.c.next_at <= wanted.due_by]
    if wanted.finished_by is not None:
        conditions.append(runs.c.finished_at <= wanted.finished_by)
    return conditions


def _state(row: Any) -> RunState:
    """The state of a group of rows; in MariaDB its text may be in capitals, if set by hand."""
    return RunState(row.state.strip().lower())
