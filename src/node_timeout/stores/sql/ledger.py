"""The ledger in a SQL database, by SQLAlchemy Core: PostgreSQL, MySQL/MariaDB, SQLite.

Here is what the reconciler and operators do with rows; configs are in `ledger_configs`, events in
`ledger_tracking`, outcomes in `ledger_recording`, due runs in `ledger_handling`, settings and
rights in `ledger_settings`.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import ColumnElement, and_, case, delete, func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from node_timeout.domain import lifecycle
from node_timeout.domain.run import (
    DueRun,
    HistoryEntry,
    HistoryKind,
    LedgerRow,
    RunState,
)
from node_timeout.ports.ledger import DeadRuns, LedgerCounts, ReplayPage, Retention
from node_timeout.stores.sql.database import transaction
from node_timeout.stores.sql.ledger_handling import LedgerHandling
from node_timeout.stores.sql.ledger_settings import LedgerSettings
from node_timeout.stores.sql.run_rows import (
    ROW_COLUMNS,
    chunks,
    due_runs,
    in_order,
    is_after,
    page_of,
    rows_of,
)
from node_timeout.stores.sql.tables import history, runs

HOUR = 3600.0
CLOSED = (RunState.HANDLED, RunState.STALE, RunState.CANCELLED, RunState.DEAD)


class SqlLedger(LedgerHandling, LedgerSettings):
    """See `node_timeout.ports.ledger.Ledger` for the contract."""

    @transaction
    async def open_runs(
        self,
        connection: AsyncConnection,
        after: DueRun | None,
        limit: int,
        until: float | None = None,
    ) -> list[DueRun]:
        query = page_of(runs.c.next_at, limit, after).where(runs.c.state == RunState.ARMED)
        if until is not None:
            query = query.where(runs.c.next_at <= until)
        return due_runs(await connection.execute(query))

    @transaction
    async def expired_runs(
        self, connection: AsyncConnection, before: float, limit: int, after: DueRun | None = None
    ) -> list[DueRun]:
        query = page_of(runs.c.lease_until, limit, after).where(
            runs.c.state == RunState.EXECUTING, runs.c.lease_until < before
        )
        return due_runs(await connection.execute(query))

    @transaction
    async def purgeable(
        self, connection: AsyncConnection, now: float, retention: Retention, limit: int
    ) -> list[str]:
        chosen: list[str] = []
        for expired in _past_retention(now, retention):
            found = await connection.execute(
                select(runs.c.run_id).where(expired).order_by(runs.c.finished_at).limit(limit)
            )
            chosen += found.scalars()
        return chosen

    @transaction
    async def purge(
        self,
        connection: AsyncConnection,
        chosen: Sequence[str],
        now: float,
        retention: Retention,
    ) -> int:
        return await self._delete(connection, chosen, or_(*_past_retention(now, retention)))

    async def _delete(
        self, connection: AsyncConnection, chosen: Sequence[str], still: ColumnElement[bool]
    ) -> int:
        """Delete those of these rows of which this holds still, with their history; how many."""
        deleted = 0
        for chunk in chunks(in_order(chosen)):
            result = await connection.execute(delete(runs).where(self._keys.of(chunk), still))
            deleted += result.rowcount
            left = select(runs.c.run_id).where(runs.c.run_id == history.c.run_id)
            await connection.execute(
                delete(history).where(self._keys.of(chunk, history), ~left.exists())
            )
        return deleted

    @transaction
    async def replay(
        self, connection: AsyncConnection, order: DeadRuns, now: float, limit: int
    ) -> ReplayPage:
        query = select(*ROW_COLUMNS).where(*_meant(order))
        key = (runs.c.finished_at, runs.c.run_id)
        found = await connection.execute(query.order_by(*key).limit(limit).with_for_update())
        rows = rows_of(found)
        replayed = [new for row in rows if (new := lifecycle.replay(row, now))]
        await self._store(connection, replayed)
        await self._note(
            connection,
            (
                HistoryEntry(
                    run_id=row.run_id,
                    at=now,
                    kind=HistoryKind.REPLAYED,
                    actor=order.actor,
                    detail=order.reason,
                )
                for row in replayed
            ),
        )
        rest = None
        if len(rows) == limit:
            last = rows[-1]
            rest = replace(order, after=(last.finished_at or 0.0, last.run_id))
        due = tuple(DueRun(run_id=row.run_id, due_at=now) for row in replayed)
        return ReplayPage(due=due, rest=rest)

    @transaction
    async def discard(self, connection: AsyncConnection, which: DeadRuns, limit: int) -> list[str]:
        query = select(runs.c.run_id).where(*_meant(which))
        found = await connection.execute(query.order_by(runs.c.finished_at).limit(limit))
        run_ids = list(found.scalars())
        await self._delete(connection, run_ids, runs.c.state == RunState.DEAD)
        return run_ids

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


def _meant(which: DeadRuns) -> list[ColumnElement[bool]]:
    """The dead rows that are meant, those of the pages before left out."""
    conditions = [runs.c.state == RunState.DEAD, runs.c.finished_at <= which.until]
    if which.node_id is not None:
        conditions.append(runs.c.node_id == which.node_id)
    if which.root_pipeline_id is not None:
        conditions.append(runs.c.root_pipeline_id == which.root_pipeline_id)
    if which.after is not None:
        conditions += is_after(runs.c.finished_at, *which.after)
    return conditions


def _past_retention(now: float, retention: Retention) -> list[ColumnElement[bool]]:
    """The closed rows that are past their retention, each state for itself."""
    ages = {
        RunState.HANDLED: retention.handled_seconds,
        RunState.STALE: retention.handled_seconds,
        RunState.CANCELLED: retention.cancelled_seconds,
        RunState.DEAD: retention.dead_seconds,
    }
    return [
        and_(runs.c.state == state, runs.c.finished_at < now - seconds)
        for state, seconds in ages.items()
    ]


def _state(row: Any) -> RunState:
    """Of a group of rows: MariaDB takes a state that someone wrote in capitals for the same."""
    return RunState(row.state.strip().lower())
