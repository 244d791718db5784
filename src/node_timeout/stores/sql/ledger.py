"""The ledger in a SQL database, by SQLAlchemy Core: PostgreSQL, MySQL/MariaDB, SQLite.

This module has what the reconciler does with rows; configs are in `ledger_configs`, events in
`ledger_tracking`, outcomes in `ledger_recording`, due runs in `ledger_handling`, changes in
`ledger_changing`, queries in `ledger_directory`, settings and rights in `ledger_settings`.
"""

from collections.abc import Sequence

from sqlalchemy import ColumnElement, and_, or_, select, true
from sqlalchemy.ext.asyncio import AsyncConnection

from node_timeout.domain.run import DueRun, RunState, StoppedBy
from node_timeout.ports.ledger import Retention
from node_timeout.stores.sql.database import transaction
from node_timeout.stores.sql.ledger_changing import LedgerChanging
from node_timeout.stores.sql.ledger_directory import LedgerDirectory
from node_timeout.stores.sql.ledger_handling import LedgerHandling
from node_timeout.stores.sql.ledger_settings import LedgerSettings
from node_timeout.stores.sql.ledger_tokens import LedgerTokens
from node_timeout.stores.sql.run_rows import due_runs, page_of, walking
from node_timeout.stores.sql.tables import NEXT_INDEX, runs


class SqlLedger(LedgerHandling, LedgerChanging, LedgerDirectory, LedgerSettings, LedgerTokens):
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


def _past_retention(now: float, retention: Retention) -> list[ColumnElement[bool]]:
    """The closed rows that are past their retention, one condition for each state.

    A run that somebody has cancelled stays as long as dead rows: without its row a survey of the
    engine would arm it again.
    """
    ages = {
        RunState.HANDLED: retention.handled_seconds,
        RunState.STALE: retention.handled_seconds,
        RunState.CANCELLED: retention.cancelled_seconds,
        RunState.DEAD: retention.dead_seconds,
    }
    own = {RunState.CANCELLED: runs.c.stopped_by.is_distinct_from(StoppedBy.OPERATOR)}
    by_hand = and_(
        runs.c.state == RunState.CANCELLED,
        runs.c.stopped_by == StoppedBy.OPERATOR,
        runs.c.finished_at < now - retention.dead_seconds,
    )
    return [
        *(
            and_(runs.c.state == state, runs.c.finished_at < now - seconds, own.get(state, true()))
            for state, seconds in ages.items()
        ),
        by_hand,
    ]
