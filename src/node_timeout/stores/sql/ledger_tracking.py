"""Starting and leaving of nodes in the ledger. What that does to a row, the domain says."""

from collections.abc import Iterable, Sequence

from sqlalchemy import and_, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from node_timeout.domain.events import NodeLeft, NodeStarted
from node_timeout.domain.leaving import leave, remembered
from node_timeout.domain.lifecycle import start
from node_timeout.domain.run import (
    DueRun,
    HistoryEntry,
    HistoryKind,
    LedgerRow,
    NodeRun,
    RunState,
)
from node_timeout.domain.timeout_config import TimeoutConfig
from node_timeout.ports.ledger import Disarming
from node_timeout.stores.sql.database import autocommitting, transaction
from node_timeout.stores.sql.ledger_configs import LedgerConfigs
from node_timeout.stores.sql.postgres_fast_paths import ARM_ONE, arm_one_values
from node_timeout.stores.sql.run_rows import (
    MUTABLE,
    by_run,
    chunks,
    config_of,
    due_of,
    in_order,
    rows_of,
    run_of,
    values_of,
)
from node_timeout.stores.sql.tables import configs as config_table
from node_timeout.stores.sql.tables import history, runs


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
        """None if the run has a row already, which has to be looked at."""
        found = await connection.execute(ARM_ONE, arm_one_values(event, now))
        if (row := found.one_or_none()) is None:
            return []
        return None if row.next_at is None else [DueRun(run=event.run, due_at=row.next_at)]

    @transaction
    async def _arm(
        self, connection: AsyncConnection, events: Sequence[NodeStarted], now: float
    ) -> list[DueRun]:
        first: dict[NodeRun, NodeStarted] = {}
        for event in sorted(events, key=lambda event: event.started_at(now)):
            first.setdefault(event.run, event)
        armed: list[DueRun] = []
        for chunk in chunks([first[run] for run in in_order(first)]):
            configs, known = await self._known(connection, chunk)
            own = {event.run: configs.get(event.node_id, event.config) for event in chunk}
            rows = await self._locked(connection, known)
            fresh = [
                row
                for event in chunk
                if event.run not in rows and (row := start(None, event, own[event.run], now))
            ]
            if fresh:
                values = [values_of(row) for row in fresh]
                result = await connection.execute(self._insert(runs), values)
                if len(fresh) == 1 and result.rowcount == 1 and not self._is_mysql:
                    armed += filter(None, map(due_of, fresh))
                else:
                    # Drivers do not tell which rows were inserted, and which another was first to.
                    rows |= await self._locked(connection, (row.run for row in fresh))
            changed = {
                event.run: new
                for event in chunk
                if (row := rows.get(event.run)) and (new := start(row, event, own[event.run], now))
            }
            await self._store(connection, changed.values())
            await self._note(connection, _resumptions(rows, changed.values(), now))
            armed += filter(None, map(due_of, (rows | changed).values()))
        return armed

    async def _locked(
        self, connection: AsyncConnection, chosen: Iterable[NodeRun]
    ) -> dict[NodeRun, LedgerRow]:
        """The rows as they are once nobody else is changing them."""
        locked: dict[NodeRun, LedgerRow] = {}
        for chunk in chunks(in_order(chosen)):
            found = await connection.execute(
                select(runs)
                .where(self._keys.of(chunk))
                .order_by(runs.c.node_id, runs.c.version)
                .with_for_update()
            )
            locked |= by_run(rows_of(found))
        return locked

    async def _store(self, connection: AsyncConnection, changed: Iterable[LedgerRow]) -> None:
        """Write rows that are locked, or new."""
        values = [values_of(row) for row in changed]
        for chunk in chunks(values):
            await connection.execute(self._insert(runs, replace=MUTABLE), list(chunk))

    async def _note(self, connection: AsyncConnection, entries: Iterable[HistoryEntry]) -> None:
        values = [values_of(entry) for entry in entries]
        for chunk in chunks(values):
            await connection.execute(history.insert(), list(chunk))

    async def _known(
        self, connection: AsyncConnection, events: Sequence[NodeStarted]
    ) -> tuple[dict[str, TimeoutConfig], list[NodeRun]]:
        """The configs of the nodes, and the runs that have a row or, with a config of their own,
        may have one: one read.
        """
        of_same_version = and_(
            runs.c.node_id == config_table.c.node_id,
            self._keys.among(runs.c.version, (event.run.version for event in events)),
        )
        found = await connection.execute(
            select(config_table, runs.c.version)
            .select_from(config_table.outerjoin(runs, of_same_version))
            .where(self._keys.among(config_table.c.node_id, (e.node_id for e in events)))
        )
        configs: dict[str, TimeoutConfig] = {}
        known: list[NodeRun] = []
        for row in found:
            configs[row.node_id] = config_of(row)
            if row.version is not None:
                known.append(run_of(row))
        carried = [e.run for e in events if e.config is not None and e.node_id not in configs]
        return configs, known + carried

    @transaction
    async def disarm(
        self, connection: AsyncConnection, events: Sequence[NodeLeft], now: float
    ) -> Disarming:
        by_node: dict[str, list[NodeLeft]] = {}
        for event in events:
            by_node.setdefault(event.node_id, []).append(event)
        cancelled: list[NodeRun] = []
        kept: list[NodeRun] = []
        for chunk in chunks(sorted(by_node)):
            left = [event for node_id in chunk for event in by_node[node_id]]
            rows = await self._leaving(connection, chunk, left, now)
            if new := remembered(left, rows, now):
                await connection.execute(self._insert(runs), [values_of(row) for row in new])
                # A start that was being written meanwhile has a row of its own by now.
                rows |= await self._locked(connection, (row.run for row in new))
            nodes: dict[str, dict[NodeRun, LedgerRow]] = {}
            for run, row in rows.items():
                nodes.setdefault(run.node_id, {})[run] = row
            changed: list[LedgerRow] = []
            gone: list[NodeRun] = []
            for node_id, node_rows in nodes.items():
                leaving = leave(node_rows, by_node[node_id], now)
                changed += leaving.changed
                gone += leaving.cancelled
                kept += leaving.kept
            await self._store(connection, changed)
            await self._note(connection, _cancellations(gone, left, now))
            cancelled += gone
        return Disarming(cancelled=tuple(cancelled), kept=tuple(kept))

    async def _leaving(
        self,
        connection: AsyncConnection,
        node_ids: Sequence[str],
        events: Sequence[NodeLeft],
        now: float,
    ) -> dict[NodeRun, LedgerRow]:
        """The rows of these nodes that a leaving may concern: armed, taken ahead, or named."""
        named = {run.version for event in events if (run := event.run)}
        found = await connection.execute(
            select(runs)
            .where(
                self._keys.among(runs.c.node_id, node_ids),
                or_(
                    runs.c.state == RunState.ARMED,
                    and_(runs.c.state == RunState.EXECUTING, runs.c.deadline > now),
                    self._keys.among(runs.c.version, named),
                ),
            )
            .order_by(runs.c.node_id, runs.c.version)
            .with_for_update()
        )
        return by_run(rows_of(found))

    @transaction
    async def untracked(
        self, connection: AsyncConnection, chosen: Sequence[NodeRun]
    ) -> list[NodeRun]:
        tracked: set[NodeRun] = set()
        for chunk in chunks(in_order(chosen)):
            found = await connection.execute(
                select(runs.c.node_id, runs.c.version).where(
                    self._keys.of(chunk),
                    runs.c.state.not_in((RunState.CANCELLED, RunState.STALE)),
                )
            )
            tracked |= {run_of(row) for row in found}
        return [run for run in in_order(chosen) if run not in tracked]

    @transaction
    async def actions(
        self, connection: AsyncConnection, chosen: Sequence[NodeRun]
    ) -> dict[NodeRun, str]:
        actions: dict[NodeRun, str] = {}
        for chunk in chunks(in_order(chosen)):
            found = await connection.execute(
                select(runs.c.node_id, runs.c.version, runs.c.action).where(
                    self._keys.of(chunk), runs.c.action.is_not(None)
                )
            )
            actions |= {run_of(row): row.action for row in found}
        lacking = [run for run in chosen if run not in actions]
        configs = await self._configs(connection, (run.node_id for run in lacking))
        return actions | {
            run: configs[run.node_id].action for run in lacking if run.node_id in configs
        }


def _resumptions(
    rows: dict[NodeRun, LedgerRow], changed: Iterable[LedgerRow], now: float
) -> list[HistoryEntry]:
    """An entry for each closed run that is armed again; not if only its leaving had been known."""
    return [
        HistoryEntry(
            node_id=row.node_id,
            version=row.version,
            at=now,
            kind=HistoryKind.RESUMED,
            detail=f"was {rows[row.run].state}",
        )
        for row in changed
        if row.state is RunState.ARMED
        and rows[row.run].state is not RunState.ARMED
        and rows[row.run].deadline is not None
    ]


def _cancellations(
    cancelled: Iterable[NodeRun], events: Iterable[NodeLeft], now: float
) -> list[HistoryEntry]:
    """An entry for each run that somebody other than the engine has cancelled."""
    by = {event.node_id: event for event in events if event.actor}
    return [
        HistoryEntry(
            node_id=run.node_id,
            version=run.version,
            at=now,
            kind=HistoryKind.CANCELLED,
            actor=by[run.node_id].actor,
            detail=by[run.node_id].reason,
        )
        for run in cancelled
        if run.node_id in by
    ]
