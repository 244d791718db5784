"""Starts and leavings of nodes in the ledger; the domain decides what becomes of a row."""

import dataclasses
from collections.abc import Iterable, Sequence

from sqlalchemy import and_, or_, select
from sqlalchemy import update as sql_update
from sqlalchemy.ext.asyncio import AsyncConnection

from node_timeout.domain import history
from node_timeout.domain.batches import by_node, first_starts
from node_timeout.domain.changes import OPEN
from node_timeout.domain.events import NodeLeft, NodeStarted
from node_timeout.domain.history import HistoryEntry
from node_timeout.domain.leaving import leave, remembered
from node_timeout.domain.lifecycle import may_start_again, start
from node_timeout.domain.run import DueRun, LedgerRow, Node, NodeRun, RunState, StoppedBy
from node_timeout.ports.ledger import Disarming
from node_timeout.stores.ledger_rows import MUTABLE, rows_of, values_of
from node_timeout.stores.sql.database import autocommitting, transaction
from node_timeout.stores.sql.ledger_configs import LedgerConfigs
from node_timeout.stores.sql.postgres_fast_paths import ARM_ONE, arm_one_values
from node_timeout.stores.sql.run_rows import ROW_COLUMNS, by_run, chunks, due_of, in_order
from node_timeout.stores.sql.tables import history as history_table
from node_timeout.stores.sql.tables import runs


class LedgerTracking(LedgerConfigs):
    """The part of `node_timeout.ports.ledger.Ledger` that is about events."""

    async def arm(self, events: Sequence[NodeStarted], now: float) -> list[DueRun]:
        if self._is_postgresql and len(events) == 1 and events[0].config is None:
            armed = await self._arm_at_once(events[0], now)
            if armed is not None:
                return armed
        return await self._arm(events, now)

    @autocommitting
    async def _arm_at_once(
        self, connection: AsyncConnection, event: NodeStarted, now: float
    ) -> list[DueRun] | None:
        """Arm one run in one statement; None if it already has a row, which must be read first."""
        found = await connection.execute(ARM_ONE, arm_one_values(event, now))
        if (row := found.one_or_none()) is None:
            return []
        return (
            None if row.next_at is None else [DueRun(run_id=event.run.run_id, due_at=row.next_at)]
        )

    @transaction
    async def _arm(
        self, connection: AsyncConnection, events: Sequence[NodeStarted], now: float
    ) -> list[DueRun]:
        first = first_starts(events, now)
        armed: list[DueRun] = []
        for chunk in chunks(list(first)):
            configs = await self._configs(connection, (run.node for run in chunk))
            own = {run: configs.get(run.node, first[run].config) for run in chunk}
            watched = [run for run in chunk if own[run] is not None]
            fresh = [row for run in watched if (row := start(None, first[run], own[run], now))]
            if not fresh:
                continue
            result = await connection.execute(self._insert(runs), list(map(values_of, fresh)))
            if len(fresh) == 1 and result.rowcount == 1 and not self._is_mysql:
                armed += filter(None, map(due_of, fresh))
                continue
            # Drivers do not report which rows were inserted and which existed. If a leaving holds
            # one of these rows and waits for another, one of the two transactions is repeated.
            rows = await self._locked(connection, (row.run_id for row in fresh))
            changed = {
                run: new
                for run in watched
                if (row := rows.get(run)) and (new := start(row, first[run], own[run], now))
            }
            await self._store(connection, changed.values())
            resumed = (history.of_start(rows[run], new, now) for run, new in changed.items())
            await self._note(connection, filter(None, resumed))
            armed += filter(None, map(due_of, (rows | changed).values()))
        return armed

    async def _locked(
        self, connection: AsyncConnection, chosen: Iterable[str]
    ) -> dict[NodeRun, LedgerRow]:
        """Lock the rows of these run ids, in order, and return them as they are then."""
        locked: dict[NodeRun, LedgerRow] = {}
        for chunk in chunks(in_order(chosen)):
            found = await connection.execute(
                select(*ROW_COLUMNS)
                .where(self._keys.of(chunk))
                .order_by(runs.c.run_id)
                .with_for_update()
            )
            locked |= by_run(rows_of(found))
        return locked

    async def _store(self, connection: AsyncConnection, changed: Iterable[LedgerRow]) -> None:
        """Write rows that are locked or new."""
        values = [values_of(row) for row in changed]
        for chunk in chunks(values):
            await connection.execute(self._insert(runs, replace=MUTABLE), list(chunk))

    async def _note(self, connection: AsyncConnection, entries: Iterable[HistoryEntry]) -> None:
        values = [dataclasses.asdict(entry) for entry in entries]
        for chunk in chunks(values):
            await connection.execute(history_table.insert(), list(chunk))

    @transaction
    async def disarm(
        self, connection: AsyncConnection, events: Sequence[NodeLeft], now: float
    ) -> Disarming:
        leavings = by_node(events)
        cancelled: list[NodeRun] = []
        kept: list[NodeRun] = []
        paused: list[NodeRun] = []
        for chunk in chunks(sorted(leavings)):
            left = [event for node in chunk for event in leavings[node]]
            rows = await self._leaving(connection, chunk, left, now)
            if new := remembered(left, rows, now):
                await connection.execute(self._insert(runs), [values_of(row) for row in new])
                # A concurrent start may have inserted its own row by now.
                rows |= await self._locked(connection, (row.run_id for row in new))
            nodes: dict[Node, dict[NodeRun, LedgerRow]] = {}
            for run, row in rows.items():
                nodes.setdefault(run.node, {})[run] = row
            changed: list[LedgerRow] = []
            halted: list[NodeRun] = []
            for node, node_rows in nodes.items():
                leaving = leave(node_rows, leavings[node], now)
                changed += leaving.changed
                halted += leaving.paused
                cancelled += leaving.cancelled
                kept += leaving.kept
            # Rows that are or were paused are stored whole; nearly all are not, and take one
            # statement together.
            whole = [row for row in changed if RunState.PAUSED in (row.state, rows[row.run].state)]
            await self._store(connection, whole)
            await self._close_left(connection, [row for row in changed if row not in whole])
            await self._note(connection, history.of_pauses(halted, now))
            paused += halted
        return Disarming(cancelled=tuple(cancelled), kept=tuple(kept), paused=tuple(paused))

    async def _close_left(self, connection: AsyncConnection, changed: Sequence[LedgerRow]) -> None:
        """Write the changes of `leaving.leave` to runs that were not paused."""
        if not changed:
            return
        ordered = sorted(changed, key=lambda row: row.run_id)
        instants = {"finished_at": [row.finished_at for row in ordered]}
        own = self._keys.each_its_own([row.run_id for row in ordered], instants)
        await connection.execute(
            sql_update(runs)
            .where(own.these)
            .values(
                **own.values,
                state=RunState.CANCELLED,
                next_at=None,
                stopped_by=StoppedBy.ENGINE,
            ),
            execution_options=own.options,
        )

    async def _leaving(
        self,
        connection: AsyncConnection,
        nodes: Sequence[Node],
        events: Sequence[NodeLeft],
        now: float,
    ) -> dict[NodeRun, LedgerRow]:
        """The rows that a leaving of these nodes may concern: open, taken ahead, or named."""
        concerned = [
            runs.c.state.in_(OPEN),
            and_(runs.c.state == RunState.EXECUTING, runs.c.deadline > now),
        ]
        if named := {run.run_id for event in events if (run := event.run)}:
            concerned.append(self._keys.of(sorted(named)))
        found = await connection.execute(
            select(*ROW_COLUMNS)
            .where(*self._keys.of_nodes(nodes), or_(*concerned))
            .order_by(runs.c.run_id)
            .with_for_update()
        )
        wanted = set(nodes)
        return {run: row for run, row in by_run(rows_of(found)).items() if run.node in wanted}

    @transaction
    async def untracked(
        self, connection: AsyncConnection, chosen: Sequence[NodeRun]
    ) -> list[NodeRun]:
        tracked: set[str] = set()
        for chunk in chunks(in_order(run.run_id for run in chosen)):
            found = await connection.execute(
                select(runs.c.run_id, runs.c.state, runs.c.stopped_by).where(self._keys.of(chunk))
            )
            tracked |= {
                row.run_id for row in found if not may_start_again(row.state, row.stopped_by)
            }
        return [run for run in dict.fromkeys(chosen) if run.run_id not in tracked]

    @transaction
    async def actions(self, connection: AsyncConnection, chosen: Sequence[str]) -> dict[str, str]:
        actions: dict[str, str] = {}
        for chunk in chunks(in_order(chosen)):
            found = await connection.execute(
                select(runs.c.run_id, runs.c.action).where(
                    self._keys.of(chunk), runs.c.action.is_not(None)
                )
            )
            actions |= {row.run_id: row.action for row in found}
        return actions
