"""Starting and leaving of nodes in the ledger: which rows open, resume, and close.

Events may come twice, late, or in the wrong order. Instants and versions decide, not the order in
which they come.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import and_, or_, select
from sqlalchemy import update as sql_update
from sqlalchemy.ext.asyncio import AsyncConnection

from node_timeout.domain.run import DueRun, NodeRun, RunState
from node_timeout.domain.timeout_config import TimeoutConfig
from node_timeout.ports.ledger import Disarming
from node_timeout.stores.sql.database import autocommitting, transaction
from node_timeout.stores.sql.ledger_configs import LedgerConfigs
from node_timeout.stores.sql.ledger_rows import (
    UNKNOWN,
    armed_row,
    by_run,
    chunks,
    config_of,
    due_of,
    due_of_values,
    in_order,
)
from node_timeout.stores.sql.postgres_fast_paths import ARM_ONE, arm_one_values
from node_timeout.stores.sql.tables import configs as config_table
from node_timeout.stores.sql.tables import ledger
from node_timeout.wire.events import NodeLeft, NodeStarted

RESUMED = "started again while a worker was dealing with it"
SKEW_SECONDS = 5.0
"""How far the clocks of an engine's hosts may be apart."""

_RUN_COLUMNS = (
    ledger.c.version,
    ledger.c.state,
    ledger.c.started_at,
    ledger.c.deadline,
    ledger.c.due_at,
    ledger.c.finished_at,
    ledger.c.action.label("run_action"),
)


class LedgerTracking(LedgerConfigs):
    """The part of `node_timeout.ports.Ledger` that is about events."""

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
        return None if row.due_at is None else [DueRun(run=event.run, due_at=row.due_at)]

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
            rows = await self._locked(connection, known)
            fresh = [
                _started_row(event, config, now)
                for event in chunk
                if event.run not in rows
                and (config := configs.get(event.run.node_id, event.config)) is not None
            ]
            if fresh:
                result = await connection.execute(self._insert(ledger), fresh)
                if len(fresh) == 1 and result.rowcount == 1 and not self._is_mysql:
                    armed += [due_of_values(row) for row in fresh]
                else:
                    # Drivers do not tell which rows were inserted, and which another was first to.
                    runs = [due_of_values(row).run for row in fresh]
                    rows |= await self._locked(connection, runs)
            for event in chunk:
                if row := rows.get(event.run):
                    config = configs.get(event.run.node_id, event.config)
                    armed += await self._again(connection, row, event, config, now)
        return armed

    async def _locked(
        self, connection: AsyncConnection, runs: Iterable[NodeRun]
    ) -> dict[NodeRun, Any]:
        """The rows as they are once nobody else is changing them."""
        if not (chosen := in_order(runs)):
            return {}
        found = await connection.execute(
            select(ledger.c.node_id, *_RUN_COLUMNS)
            .where(self._keys.of(chosen))
            .order_by(ledger.c.node_id, ledger.c.version)
            .with_for_update()
        )
        return by_run(found)

    async def _again(
        self,
        connection: AsyncConnection,
        row: Any,
        event: NodeStarted,
        config: TimeoutConfig | None,
        now: float,
    ) -> list[DueRun]:
        """A run that has a row has started: return it if it is armed now."""
        if row.state in (RunState.CANCELLED, RunState.STALE):
            return await self._resume(connection, row, event, config, now)
        values: dict[str, Any] = {}
        if event.happened_at is not None and (row.started_at or 0.0) < event.happened_at:
            # Keep the latest start: a leaving before it has come late.
            values["started_at"] = event.happened_at
        if row.state == RunState.EXECUTING and (values or event.happened_at is None):
            # A worker that is about to find the run stale has asked too early.
            values["message"] = RESUMED
        if values:
            await connection.execute(
                sql_update(ledger).where(self._keys.of([event.run])).values(**values)
            )
        return [due_of(row)] if row.state == RunState.ARMED else []

    async def _known(
        self, connection: AsyncConnection, events: Sequence[NodeStarted]
    ) -> tuple[dict[str, TimeoutConfig], list[NodeRun]]:
        """The configs of the nodes, and the runs that have a row or, with a config of their own,
        may have one: one read.
        """
        runs = [event.run for event in events]
        of_same_version = and_(
            ledger.c.node_id == config_table.c.node_id,
            self._keys.among(ledger.c.version, (run.version for run in runs)),
        )
        found = await connection.execute(
            select(config_table, ledger.c.version)
            .select_from(config_table.outerjoin(ledger, of_same_version))
            .where(self._keys.among(config_table.c.node_id, (run.node_id for run in runs)))
        )
        configs: dict[str, TimeoutConfig] = {}
        known: list[NodeRun] = []
        for row in found:
            configs[row.node_id] = config_of(row)
            if row.version is not None:
                known.append(NodeRun(node_id=row.node_id, version=row.version))
        carried = [e.run for e in events if e.config is not None and e.run.node_id not in configs]
        return configs, known + carried

    async def _resume(
        self,
        connection: AsyncConnection,
        row: Any,
        event: NodeStarted,
        config: TimeoutConfig | None,
        now: float,
    ) -> list[DueRun]:
        """Arm a cancelled or stale run with the time it had left, unless it was closed since."""
        seen_at = event.started_at(now) if event.seen_at is None else event.seen_at
        # A stale one was closed after the engine was asked, and that was at its deadline or later.
        if seen_at < (row.deadline if row.state == RunState.STALE else row.finished_at):
            return []
        deadline = row.deadline + max(0.0, seen_at - row.finished_at)
        words: dict[str, str] = {}
        if row.run_action == UNKNOWN:  # only its leaving was known of so far
            if config is None:
                return []
            deadline = event.counts_from(now) + config.timeout
            words = {"action": config.action, "root_pipeline_id": config.root_pipeline_id}
        await connection.execute(
            sql_update(ledger)
            .where(self._keys.of([event.run]))
            .values(
                state=RunState.ARMED,
                started_at=seen_at,
                deadline=deadline,
                due_at=deadline,
                finished_at=None,
                attempts=0,
                **words,
            )
        )
        return [DueRun(run=event.run, due_at=deadline)]

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
            named = in_order(run for event in left if (run := _run_of(event)))
            rows = await self._leaving_rows(connection, chunk, named, now)
            remembered = _remembered(left, rows, now)
            if remembered:
                left_rows = [_left_row(run, instant) for run, instant in remembered.items()]
                await connection.execute(self._insert(ledger), left_rows)
                # A start that was being written meanwhile has a row of its own by now.
                rows |= await self._locked(connection, remembered)
            leaving: dict[bool, dict[NodeRun, float]] = {False: {}, True: {}}
            for run, row in rows.items():
                node_events = by_node[run.node_id]
                if row.state == RunState.CANCELLED:
                    again = [e.left_at(now) for e in node_events if _run_of(e) == run]
                    if again and row.finished_at < max(again):
                        leaving[False][run] = max(again)  # it has left once more
                taken_ahead = row.state == RunState.EXECUTING and row.deadline > now
                if row.state != RunState.ARMED and not taken_ahead:
                    continue
                over = [event for event in node_events if _is_over(run, row, event, rows, now)]
                if over:
                    # The event that names the run knows best when it left.
                    own = [event for event in over if _run_of(event) == run] or over
                    leaving[taken_ahead][run] = max(event.left_at(now) for event in own)
                    cancelled.append(run)
                else:
                    kept.append(run)
            await self._cancel(connection, leaving[False], due_at=None)
            # The lease of one that is taken stays: if its worker struck while this was under way,
            # what it records is what happened.
            await self._cancel(connection, leaving[True])
        return Disarming(cancelled=tuple(cancelled), kept=tuple(kept))

    async def _leaving_rows(
        self,
        connection: AsyncConnection,
        node_ids: Sequence[str],
        named: Sequence[NodeRun],
        now: float,
    ) -> dict[NodeRun, Any]:
        """The rows of these nodes that a leaving may concern: armed, taken ahead, or named."""
        found = await connection.execute(
            select(ledger.c.node_id, *_RUN_COLUMNS)
            .where(
                self._keys.among(ledger.c.node_id, node_ids),
                or_(
                    ledger.c.state == RunState.ARMED,
                    and_(ledger.c.state == RunState.EXECUTING, ledger.c.deadline > now),
                    self._keys.among(ledger.c.version, (run.version for run in named)),
                ),
            )
            .order_by(ledger.c.node_id, ledger.c.version)
            .with_for_update()
        )
        return by_run(found)

    async def _cancel(
        self, connection: AsyncConnection, instants: Mapping[NodeRun, float], **values: None
    ) -> None:
        """Cancel the runs, each at the instant at which it left."""
        if instants:
            own = self._keys.each_its_own(list(instants), {"finished_at": list(instants.values())})
            await connection.execute(
                sql_update(ledger)
                .where(own.these)
                .values(**own.values, **values, state=RunState.CANCELLED),
                execution_options=own.options,
            )

    @transaction
    async def untracked(
        self, connection: AsyncConnection, runs: Sequence[NodeRun]
    ) -> list[NodeRun]:
        tracked: set[NodeRun] = set()
        for chunk in chunks(in_order(runs)):
            found = await connection.execute(
                select(ledger.c.node_id, ledger.c.version).where(
                    self._keys.of(chunk),
                    ledger.c.state.not_in((RunState.CANCELLED, RunState.STALE)),
                )
            )
            tracked |= {NodeRun(node_id=row.node_id, version=row.version) for row in found}
        return [run for run in in_order(runs) if run not in tracked]

    @transaction
    async def actions(
        self, connection: AsyncConnection, runs: Sequence[NodeRun]
    ) -> dict[NodeRun, str]:
        configs = await self._configs(connection, (run.node_id for run in runs))
        found = {run: configs[run.node_id].action for run in runs if run.node_id in configs}
        for chunk in chunks(in_order(run for run in runs if run not in found)):
            rows = await connection.execute(
                select(ledger.c.node_id, ledger.c.version, ledger.c.action).where(
                    self._keys.of(chunk), ledger.c.action != UNKNOWN
                )
            )
            found |= {NodeRun(node_id=r.node_id, version=r.version): r.action for r in rows}
        return found


def _started_row(event: NodeStarted, config: TimeoutConfig, now: float) -> dict[str, Any]:
    deadline = event.counts_from(now) + config.timeout
    return armed_row(event.run, config, event.started_at(now), deadline)


def _left_row(run: NodeRun, left_at: float) -> dict[str, Any]:
    """A cancelled row of a run whose start is not known of: it may come later."""
    row = armed_row(run, None, None, left_at)
    return {**row, "state": RunState.CANCELLED, "due_at": None, "finished_at": left_at}


def _run_of(event: NodeLeft) -> NodeRun | None:
    """The run that an event names, if it names one."""
    if event.version is None:
        return None
    return NodeRun(node_id=event.node_id, version=event.version)


def _remembered(
    events: Sequence[NodeLeft], rows: Mapping[NodeRun, Any], now: float
) -> dict[NodeRun, float]:
    """The runs without a row whose leaving must be remembered, and when they last left."""
    instants: dict[NodeRun, float] = {}
    for event in events:
        run = _run_of(event)
        if run is not None and run not in rows and event.remember:
            instants[run] = max(event.left_at(now), instants.get(run, 0.0))
    return instants


def _is_over(
    run: NodeRun, row: Any, event: NodeLeft, rows: Mapping[NodeRun, Any], now: float
) -> bool:
    """True if this armed run is the one that left, or an older one; ``rows`` has the run that the
    event names, if the ledger knows it.
    """
    named = _run_of(event)
    if event.only_version:
        return named == run
    if row.started_at is None:
        return True
    if named in (None, run):
        # Without an instant someone says so now, whatever an engine's clock said before.
        return event.happened_at is None or bool(row.started_at <= event.happened_at)
    named_row = rows.get(named)
    if named_row is not None and named_row.started_at is not None:
        return bool(row.started_at < named_row.started_at)
    # Which version came first is told by instants alone, and those of two hosts may disagree.
    tolerance = 0.0 if event.happened_at is None else SKEW_SECONDS
    return bool(row.started_at < event.left_at(now) - tolerance)
