"""The ledger in a SQL database, by SQLAlchemy Core: PostgreSQL, MySQL/MariaDB, SQLite.

Here is what the reconciler and operators do with rows; configs are in `ledger_configs`, events in
`ledger_tracking`, outcomes in `ledger_recording`, due runs in `ledger_handling`, what people look
at in `ledger_directory`, settings and rights in `ledger_settings`.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, delete, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from node_timeout.domain import history, lifecycle
from node_timeout.domain.run import DueRun, RunState
from node_timeout.ports.directory import Cursor, DeadRuns
from node_timeout.ports.ledger import ReplayPage, Retention
from node_timeout.stores.ledger_rows import rows_of
from node_timeout.stores.sql.database import transaction
from node_timeout.stores.sql.ledger_directory import LedgerDirectory, page_of_runs
from node_timeout.stores.sql.ledger_handling import LedgerHandling
from node_timeout.stores.sql.ledger_settings import LedgerSettings
from node_timeout.stores.sql.run_rows import (
    ROW_COLUMNS,
    chunks,
    due_runs,
    in_order,
    page_of,
    walking,
)
from node_timeout.stores.sql.tables import NEXT_INDEX, runs
from node_timeout.stores.sql.tables import history as history_table


class SqlLedger(LedgerHandling, LedgerDirectory, LedgerSettings):
    """See `node_timeout.ports.ledger.Ledger` for the contract."""

    @transaction
    async def open_runs(
        self,
        connection: AsyncConnection,
        after: DueRun | None,
        limit: int,
        until: float | None = None,
    ) -> list[DueRun]:
        query = walking(page_of(runs.c.next_at, limit, after), NEXT_INDEX)
        query = query.where(runs.c.state == RunState.ARMED)
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
            left = select(runs.c.run_id).where(runs.c.run_id == history_table.c.run_id)
            await connection.execute(
                delete(history_table).where(self._keys.of(chunk, history_table), ~left.exists())
            )
        return deleted

    @transaction
    async def replay(
        self, connection: AsyncConnection, order: DeadRuns, now: float, limit: int
    ) -> ReplayPage:
        query = _oldest(select(*ROW_COLUMNS), order, limit)
        found = await connection.execute(query.with_for_update())
        rows = rows_of(found)
        replayed = [new for row in rows if (new := lifecycle.replay(row, now))]
        await self._store(connection, replayed)
        told = (history.of_replay(row, now, order.actor, order.reason) for row in replayed)
        await self._note(connection, told)
        rest = None
        if len(rows) == limit:
            last = rows[-1]
            rest = replace(order, after=Cursor(last.finished_at or 0.0, last.run_id))
        due = tuple(DueRun(run_id=row.run_id, due_at=now) for row in replayed)
        return ReplayPage(due=due, rest=rest)

    @transaction
    async def discard(self, connection: AsyncConnection, which: DeadRuns, limit: int) -> list[str]:
        query = _oldest(select(runs.c.run_id), which, limit)
        run_ids = list((await connection.execute(query.with_for_update())).scalars())
        await self._delete(connection, run_ids, runs.c.state == RunState.DEAD)
        return run_ids


def _oldest(query: Select[Any], which: DeadRuns, limit: int) -> Select[Any]:
    """The dead rows that are meant, those that died first first, behind the pages before."""
    query = page_of_runs(query, which.wanted, limit, which.after)
    return query.where(runs.c.finished_at <= which.until)


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
