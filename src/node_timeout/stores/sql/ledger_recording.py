"""Recording the outcomes of attempts in the ledger; the domain decides what becomes of a row."""

from collections.abc import Sequence

from sqlalchemy import or_
from sqlalchemy import update as sql_update
from sqlalchemy.ext.asyncio import AsyncConnection

from node_timeout.domain import history
from node_timeout.domain.history import HistoryEntry
from node_timeout.domain.lifecycle import conclude
from node_timeout.domain.run import LedgerRow, Outcome, RunState
from node_timeout.stores.sql.database import autocommitting, transaction
from node_timeout.stores.sql.ledger_tracking import LedgerTracking
from node_timeout.stores.sql.run_rows import chunks
from node_timeout.stores.sql.tables import runs


class LedgerRecording(LedgerTracking):
    """The part of `node_timeout.ports.ledger.Ledger` that is about outcomes."""

    async def record(self, outcomes: Sequence[Outcome], *, owner: str, now: float) -> int:
        if all(each.state is RunState.HANDLED for each in outcomes):
            recorded = await self._record_handled(outcomes, owner, now)
            if recorded < len(outcomes):
                await self._note_late(outcomes, now)
            return recorded
        return await self._record(outcomes, owner, now)

    @autocommitting
    async def _record_handled(
        self, connection: AsyncConnection, outcomes: Sequence[Outcome], owner: str, now: float
    ) -> int:
        """Like `lifecycle.conclude`, for handled runs only: in a burst nearly all are."""
        recorded = 0
        ordered = sorted(outcomes, key=lambda outcome: outcome.node.run_id)
        for chunk in chunks(ordered):
            messages = {"message": [each.message for each in chunk]}
            own = self._keys.each_its_own([each.node.run_id for each in chunk], messages)
            # Written so that no planner searches the owner, or the state, in another index.
            mine = (
                (runs.c.lease_owner == owner).is_(True),
                or_(
                    (runs.c.state == RunState.EXECUTING).is_(True),
                    (runs.c.state == RunState.CANCELLED).is_(True),
                    (runs.c.state == RunState.PAUSED).is_(True),
                ),
            )
            result = await connection.execute(
                sql_update(runs)
                .where(own.these, *mine)
                .values(
                    **own.values,
                    state=RunState.HANDLED,
                    next_at=None,
                    paused_at=None,
                    stopped_by=None,
                    lease_until=None,
                    lease_owner=None,
                    finished_at=now,
                ),
                execution_options=own.options,
            )
            recorded += result.rowcount
        return recorded

    @transaction
    async def _record(
        self, connection: AsyncConnection, outcomes: Sequence[Outcome], owner: str, now: float
    ) -> int:
        rows = await self._locked(connection, (each.node.run_id for each in outcomes))
        changed: list[LedgerRow] = []
        entries: list[HistoryEntry] = []
        for outcome in outcomes:
            row = rows.get(outcome.node.run)
            new = conclude(row, outcome, owner, now) if row else None
            if new is None:
                entries.append(history.of_late_result(outcome, now))
                continue
            changed.append(new)
            if entry := history.of_outcome(outcome, now):
                entries.append(entry)
        await self._store(connection, changed)
        await self._note(connection, entries)
        return len(changed)

    @transaction
    async def _note_late(
        self, connection: AsyncConnection, outcomes: Sequence[Outcome], now: float
    ) -> None:
        """Note the results of runs that this call (``now``) did not record as handled."""
        rows = await self._locked(connection, (each.node.run_id for each in outcomes))
        late = [
            each
            for each in outcomes
            if not (row := rows.get(each.node.run))
            or row.state is not RunState.HANDLED
            or row.finished_at != now
        ]
        await self._note(connection, (history.of_late_result(each, now) for each in late))
