"""The ledger in a SQL database, by SQLAlchemy Core: PostgreSQL, MySQL/MariaDB, SQLite.

Here is what the reconciler and operators do with rows; configs are in `ledger_configs`, events in
`ledger_tracking`, due runs in `ledger_handling`, settings and rights in `ledger_settings`.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import ColumnElement, and_, case, delete, func, or_, select
from sqlalchemy import update as sql_update
from sqlalchemy.ext.asyncio import AsyncConnection

from node_timeout.domain.run import DueRun, NodeRun, RunState
from node_timeout.ports.ledger import (
    LedgerCounts,
    LedgerRow,
    ReplayOrder,
    ReplayPage,
    Retention,
)
from node_timeout.stores.sql.database import transaction
from node_timeout.stores.sql.ledger_handling import LedgerHandling
from node_timeout.stores.sql.ledger_rows import (
    by_run,
    chunks,
    due_of,
    due_runs,
    in_order,
    is_after,
    ledger_rows_of,
)
from node_timeout.stores.sql.ledger_settings import LedgerSettings
from node_timeout.stores.sql.ledger_tracking import LedgerTracking
from node_timeout.stores.sql.tables import ledger

HOUR = 3600.0
CLOSED = (RunState.HANDLED, RunState.STALE, RunState.CANCELLED, RunState.DEAD)


class SqlLedger(LedgerTracking, LedgerHandling, LedgerSettings):
    """See `node_timeout.ports.Ledger` for the contract."""

    @transaction
    async def open_runs(
        self,
        connection: AsyncConnection,
        after: DueRun | None,
        limit: int,
        until: float | None = None,
    ) -> list[DueRun]:
        query = due_runs(limit).where(ledger.c.state == RunState.ARMED)
        if until is not None:
            query = query.where(ledger.c.due_at <= until)
        if after is not None:
            cursor = (after.due_at, after.run.node_id, after.run.version)
            query = query.where(ledger.c.due_at >= after.due_at, is_after(ledger.c.due_at, cursor))
        return [due_of(row) for row in await connection.execute(query)]

    @transaction
    async def expired_runs(
        self, connection: AsyncConnection, before: float, limit: int
    ) -> list[DueRun]:
        query = due_runs(limit).where(
            ledger.c.state == RunState.EXECUTING, ledger.c.due_at < before
        )
        return [due_of(row) for row in await connection.execute(query)]

    @transaction
    async def mark_seen(
        self, connection: AsyncConnection, runs: Sequence[NodeRun], now: float
    ) -> list[NodeRun]:
        again: list[NodeRun] = []
        for chunk in chunks(in_order(runs)):
            overdue = and_(self._keys.of(chunk), ledger.c.due_at <= now)
            moved = select(ledger.c.node_id, ledger.c.version).where(
                overdue, ledger.c.due_at > ledger.c.deadline
            )
            again += by_run(await connection.execute(moved))
            await connection.execute(sql_update(ledger).where(overdue).values(due_at=now))
        return again

    @transaction
    async def purgeable(
        self, connection: AsyncConnection, now: float, retention: Retention, limit: int
    ) -> list[NodeRun]:
        runs: list[NodeRun] = []
        for expired in _past_retention(now, retention):
            found = await connection.execute(
                select(ledger.c.node_id, ledger.c.version)
                .where(expired)
                .order_by(ledger.c.finished_at)
                .limit(limit)
            )
            runs += by_run(found)
        return runs

    @transaction
    async def purge(
        self, connection: AsyncConnection, runs: Sequence[NodeRun], now: float, retention: Retention
    ) -> int:
        expired = or_(*_past_retention(now, retention))
        purged = 0
        for chunk in chunks(in_order(runs)):
            result = await connection.execute(delete(ledger).where(self._keys.of(chunk), expired))
            purged += result.rowcount
        return purged

    @transaction
    async def replay(
        self, connection: AsyncConnection, order: ReplayOrder, now: float, limit: int
    ) -> ReplayPage:
        key = (ledger.c.finished_at, ledger.c.node_id, ledger.c.version)
        query = select(*key).where(
            ledger.c.state == RunState.DEAD, ledger.c.finished_at <= order.until
        )
        if order.node_id is not None:
            query = query.where(ledger.c.node_id == order.node_id)
        if order.root_pipeline_id is not None:
            query = query.where(ledger.c.root_pipeline_id == order.root_pipeline_id)
        if order.after is not None:
            query = query.where(
                ledger.c.finished_at >= order.after[0], is_after(ledger.c.finished_at, order.after)
            )
        rows = (await connection.execute(query.order_by(*key).limit(limit).with_for_update())).all()
        runs = [NodeRun(node_id=row.node_id, version=row.version) for row in rows]
        for chunk in chunks(runs):
            await connection.execute(
                sql_update(ledger)
                .where(self._keys.of(chunk))
                .values(state=RunState.ARMED, due_at=now, attempts=0, finished_at=None)
            )
        rest = None
        if len(rows) == limit:
            rest = replace(order, after=tuple(rows[-1]))
        return ReplayPage(due=tuple(DueRun(run=run, due_at=now) for run in runs), rest=rest)

    @transaction
    async def counts(self, connection: AsyncConnection, now: float) -> LedgerCounts:
        is_overdue = ledger.c.due_at <= now
        overdue = case((is_overdue, 1), else_=0)
        # The reconciler moves the due_at of a run that it misses: the deadline tells how long.
        untried = and_(is_overdue, ledger.c.attempts == 0)
        since = case((untried, ledger.c.deadline), (is_overdue, ledger.c.due_at))
        wanted = (RunState.ARMED, RunState.EXECUTING, RunState.DEAD)
        found = await connection.execute(
            select(
                ledger.c.state,
                func.count().label("rows"),
                func.sum(overdue).label("overdue"),
                func.min(since).label("since"),
            )
            .where(ledger.c.state.in_(wanted))
            .group_by(ledger.c.state)
        )
        by_state = {_state(row): row for row in found}
        recent = await connection.execute(
            select(ledger.c.state, func.count().label("rows"))
            .where(ledger.c.state.in_(CLOSED), ledger.c.finished_at > now - HOUR)
            .group_by(ledger.c.state)
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
            select(func.count()).select_from(ledger).where(ledger.c.state == RunState.DEAD)
        )
        return int(found.scalar_one())

    @transaction
    async def recent(self, connection: AsyncConnection, limit: int) -> list[LedgerRow]:
        rows: list[LedgerRow] = []
        for state in CLOSED:
            found = await connection.execute(
                select(ledger)
                .where(ledger.c.state == state)
                .order_by(ledger.c.finished_at.desc())
                .limit(limit)
            )
            rows += ledger_rows_of(found)
        return sorted(rows, key=lambda row: row.finished_at or 0.0, reverse=True)[:limit]

    @transaction
    async def rows(self, connection: AsyncConnection, node_id: str) -> list[LedgerRow]:
        found = await connection.execute(
            select(ledger)
            .where(ledger.c.node_id == node_id)
            .order_by(ledger.c.deadline, ledger.c.version)
        )
        return ledger_rows_of(found)


def _past_retention(now: float, retention: Retention) -> list[ColumnElement[bool]]:
    """The closed rows that are past their retention, each state for itself."""
    ages = {
        RunState.HANDLED: retention.handled_seconds,
        RunState.STALE: retention.handled_seconds,
        RunState.CANCELLED: retention.cancelled_seconds,
    }
    return [
        and_(ledger.c.state == state, ledger.c.finished_at < now - seconds)
        for state, seconds in ages.items()
    ]


def _state(row: Any) -> RunState:
    """Of a group of rows: MariaDB takes a state that someone wrote in capitals for the same."""
    return RunState(row.state.strip().lower())
