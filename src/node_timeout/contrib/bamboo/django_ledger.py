"""The ledger through a connection of Django's: what an engine's own process writes.

No second connection, no thread, no event loop; usually one statement. `node_timeout.domain` decides
what a start or a leaving does to a row. In a transaction of the engine only new rows are written:
rows that others may have locked wait until after the commit, since waiting for a lock could make
the transaction fail.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Callable, Sequence
from typing import Any, Optional

from django.db import IntegrityError, transaction

from node_timeout.contrib.bamboo.django_configs import DjangoConfigs
from node_timeout.domain import history, run_id
from node_timeout.domain.batches import by_node
from node_timeout.domain.changes import OPEN
from node_timeout.domain.events import NodeLeft, NodeStarted
from node_timeout.domain.history import HistoryEntry
from node_timeout.domain.leaving import Leaving, leave
from node_timeout.domain.lifecycle import start
from node_timeout.domain.run import LedgerRow, Node, NodeRun, RunState, StoppedBy
from node_timeout.domain.timeout_config import TimeoutConfig
from node_timeout.stores.ledger_rows import (
    HISTORY,
    MUTABLE,
    ROW_NAMES,
    RUN_COLUMNS,
    RUNS,
    SETTINGS,
    entries_of,
    rows_of,
    values_of,
)

HISTORY_COLUMNS = tuple(each.name for each in dataclasses.fields(HistoryEntry))
SELECT_ROWS = f"SELECT {', '.join(ROW_NAMES)} FROM {RUNS}"
OPEN_OR_EXECUTING = (*OPEN, RunState.EXECUTING)
Rule = Callable[[LedgerRow], tuple[Optional[LedgerRow], Optional[HistoryEntry]]]
"""Returns the new row, or None if it stays as it is; and its history entry."""


class DjangoLedger(DjangoConfigs):
    """Configs, runs and settings of the ledger."""

    def settings(self) -> dict[str, str]:
        """The scanners' settings; see `runtime.agreement`."""
        with self._cursor() as cursor:
            cursor.execute(f"SELECT name, value FROM {SETTINGS}")
            return dict(cursor.fetchall())

    # Runs

    def open(self, event: NodeStarted, config: TimeoutConfig, now: float) -> LedgerRow | None:
        """Arm a run that has no row yet; return None if it has one, which `resume` handles."""
        row = start(None, event, config, now)
        return row if row is not None and self._insert(row) else None

    def resume(self, event: NodeStarted, config: TimeoutConfig, now: float) -> LedgerRow | None:
        """Start a run that already has a row; return the row as it is then."""
        with self._cursor() as cursor, transaction.atomic(self.alias):
            return self._start_again(cursor, event, config, now)

    def leave(self, run: NodeRun, now: float) -> list[NodeRun]:
        """Cancel the run that has left just now; return the cancelled runs, if any was open.

        The named version may be the successor version, as when somebody fails the node by hand.
        So if there is no such run to cancel, all runs of the node are looked at.
        """
        if self._leave_named(run, now):
            return [run]
        with self._cursor() as cursor, transaction.atomic(self.alias):
            return self._leave_by_rule(cursor, run, now)

    def leave_all(self, events: Sequence[NodeLeft], now: float) -> Leaving:
        """Cancel or pause the runs that leave, all or none. The events name their roots."""
        changed: list[LedgerRow] = []
        paused: list[NodeRun] = []
        cancelled: list[NodeRun] = []
        kept: list[NodeRun] = []
        with self._cursor() as cursor, transaction.atomic(self.alias):
            for node, own in sorted(by_node(events).items()):
                leaving = self._leave_together(cursor, node, own, now)
                changed += leaving.changed
                cancelled += leaving.cancelled
                kept += leaving.kept
                paused += leaving.paused
        return Leaving(
            changed=tuple(changed),
            cancelled=tuple(cancelled),
            kept=tuple(kept),
            paused=tuple(paused),
        )

    def rows(self, node_id: str, root_pipeline_id: str | None = None) -> list[LedgerRow]:
        """The rows of all versions of a node, in all root pipelines or in one."""
        condition, values = "node_id = %s", [node_id]
        if root_pipeline_id is not None:
            condition, values = (
                f"{condition} AND root_pipeline_id = %s",
                [node_id, root_pipeline_id],
            )
        order = "ORDER BY root_pipeline_id, deadline, version"
        with self._cursor() as cursor:
            cursor.execute(f"{SELECT_ROWS} WHERE {condition} {order}", values)
            return rows_of(cursor.fetchall())

    def roots_of_open_runs(self, node_id: str) -> list[str]:
        """Root pipelines in which the node is armed, paused or executing; two at most."""
        with self._cursor() as cursor:
            cursor.execute(
                f"SELECT DISTINCT root_pipeline_id FROM {RUNS} WHERE node_id = %s"
                " AND state IN (%s, %s, %s) ORDER BY root_pipeline_id LIMIT 2",
                [node_id, *(state.value for state in OPEN_OR_EXECUTING)],
            )
            return [root for (root,) in cursor.fetchall()]

    def history(self, run_ids: Sequence[str]) -> list[HistoryEntry]:
        """The history of these runs, in order."""
        condition, keys = self._these(run_ids)
        names = ", ".join(HISTORY_COLUMNS)
        with self._cursor() as cursor:
            cursor.execute(f"SELECT {names} FROM {HISTORY} WHERE {condition} ORDER BY id", keys)
            return entries_of(map(_entry_values, cursor.fetchall()))

    def change(self, run_ids: Sequence[str], rule: Rule) -> list[LedgerRow]:
        """Change runs by a rule, which is called with each row under its lock; return the changed
        rows.
        """
        changed: list[LedgerRow] = []
        with self._cursor() as cursor, transaction.atomic(self.alias):
            for row in self._locked(cursor, *self._these(run_ids)):
                new, entry = rule(row)
                if new is not None:
                    self._write(cursor, new, entry)
                    changed.append(new)
        return changed

    def discard(self, run_ids: Sequence[str]) -> list[str]:
        """Delete dead runs, with their history; return those that were dead."""
        with self._cursor() as cursor, transaction.atomic(self.alias):
            rows = self._locked(cursor, *self._these(run_ids))
            dead = [row.run_id for row in rows if row.state is RunState.DEAD]
            for table in (HISTORY, RUNS):
                condition, keys = self._these(dead)
                cursor.execute(f"DELETE FROM {table} WHERE {condition}", keys)
            return dead

    def _these(self, run_ids: Sequence[str]) -> tuple[str, list[Any]]:
        """The SQL condition for the rows of these runs, and its values."""
        if not run_ids:
            return "1 = 0", []
        chosen = sorted(set(run_ids))
        return f"run_id IN ({', '.join(['%s'] * len(chosen))})", [*map(self._key, chosen)]

    def _leave_named(self, run: NodeRun, now: float) -> bool:
        """`leaving.leave` for exactly this run; return whether it was open, or has left before.

        MySQL assigns from left to right, so the deadline is set before ``paused_at`` is cleared.
        """
        cancelled, engine = RunState.CANCELLED.value, StoppedBy.ENGINE.value
        with self._cursor() as cursor:
            cursor.execute(
                f"UPDATE {RUNS} SET deadline = CASE WHEN paused_at < %s"
                " THEN deadline + (%s - paused_at) ELSE deadline END, paused_at = NULL,"
                " state = %s, next_at = NULL, stopped_by = %s, finished_at = %s"
                " WHERE run_id = %s AND (state IN (%s, %s) OR (state = %s AND deadline > %s)"
                " OR (state = %s AND stopped_by = %s AND finished_at < %s))",
                [
                    *(now, now, cancelled, engine, now, self._key(run.run_id)),
                    *(state.value for state in OPEN),
                    *(RunState.EXECUTING.value, now, cancelled, engine, now),
                ],
            )
            return bool(cursor.rowcount)

    def _leave_by_rule(self, cursor: Any, run: NodeRun, now: float) -> list[NodeRun]:
        return list(self._leave_together(cursor, run.node, [NodeLeft.of(run)], now).cancelled)

    def _leave_together(
        self, cursor: Any, node: Node, events: Sequence[NodeLeft], now: float
    ) -> Leaving:
        """Handle the leavings of one node together."""
        open_states = [state.value for state in OPEN_OR_EXECUTING]
        keys = [self._key(run.run_id) for event in events if (run := event.run)]
        named = f" OR run_id IN ({', '.join(['%s'] * len(keys))})" if keys else ""
        rows = self._locked(
            cursor,
            f"root_pipeline_id = %s AND node_id = %s AND (state IN (%s, %s, %s){named})",
            [*node, *open_states, *keys],
        )
        leaving = leave({row.run: row for row in rows}, events, now)
        paused = {entry.run_id: entry for entry in history.of_pauses(leaving.paused, now)}
        for row in leaving.changed:
            self._write(cursor, row, paused.get(row.run_id))
        return leaving

    def _insert(self, row: LedgerRow) -> bool:
        """Insert a row; return False if the run already has one."""
        values = self._values(row, RUN_COLUMNS)
        places = ", ".join(["%s"] * len(values))
        statement = f"INSERT INTO {RUNS} ({', '.join(RUN_COLUMNS)}) VALUES ({places})"
        if not self._is_mysql:
            statement += " ON CONFLICT (run_id) DO NOTHING"
        with self._cursor() as cursor:
            try:
                cursor.execute(statement, values)
            except IntegrityError:  # not MySQL's IGNORE, which also hides other faults
                if not self._is_mysql:
                    raise
                return False
            return bool(cursor.rowcount)

    def _start_again(
        self, cursor: Any, event: NodeStarted, config: TimeoutConfig, now: float
    ) -> LedgerRow | None:
        key = self._key(event.run.run_id)
        rows = self._locked(cursor, "run_id = %s", [key])
        if not rows:  # deleted at that very moment
            return None
        changed = start(rows[0], event, config, now)
        if changed is None:
            return rows[0]
        self._write(cursor, changed, history.of_start(rows[0], changed, now))
        return changed

    def _write(self, cursor: Any, row: LedgerRow, entry: HistoryEntry | None) -> None:
        """Write a locked row, and the history entry of its change."""
        key = self._key(row.run_id)
        assignments = ", ".join(f"{name} = %s" for name in MUTABLE)
        cursor.execute(
            f"UPDATE {RUNS} SET {assignments} WHERE run_id = %s",
            [*self._values(row, MUTABLE), key],
        )
        if entry:
            values = dataclasses.asdict(entry) | {"run_id": key}
            cursor.execute(
                f"INSERT INTO {HISTORY} ({', '.join(values)}) "
                f"VALUES ({', '.join(['%s'] * len(values))})",
                list(values.values()),
            )

    def _locked(self, cursor: Any, condition: str, values: Sequence[Any]) -> list[LedgerRow]:
        """Lock rows, and return them as they are then."""
        lock = " FOR UPDATE" if self._connection.features.has_select_for_update else ""
        order = f"ORDER BY run_id{lock}"
        cursor.execute(f"{SELECT_ROWS} WHERE {condition} {order}", values)
        return rows_of(cursor.fetchall())

    def _key(self, text: str) -> Any:
        number = run_id.to_bytes(text)
        return uuid.UUID(bytes=number) if self._connection.vendor == "postgresql" else number

    def _values(self, row: LedgerRow, names: Sequence[str]) -> list[Any]:
        values = values_of(row)
        values["run_id"] = self._key(values["run_id"])
        # Some drivers cannot write an enum as its text.
        values["state"] = row.state.value
        values["stopped_by"] = None if row.stopped_by is None else row.stopped_by.value
        return [values[name] for name in names]


def _entry_values(row: Sequence[Any]) -> dict[str, Any]:
    values = dict(zip(HISTORY_COLUMNS, row))
    values["run_id"] = run_id.from_database(values["run_id"])
    return values
