"""The ledger through a connection of Django's: what an engine's own process writes.

No second connection, no thread, no event loop; usually one statement. What a start or a leaving
does to a row, `node_timeout.domain` says. In a transaction of the engine's only new rows are
written: what others may hold is for behind the commit, as to wait for it could end the transaction.
"""

import dataclasses
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from django.db import Error as DjangoDatabaseError
from django.db import IntegrityError, connections, transaction

from node_timeout.domain import history, run_id
from node_timeout.domain.errors import LedgerUnavailableError
from node_timeout.domain.events import NodeLeft, NodeStarted
from node_timeout.domain.leaving import leave
from node_timeout.domain.lifecycle import start
from node_timeout.domain.run import HistoryEntry, LedgerRow, Node, NodeRun, RunState
from node_timeout.domain.timeout_config import TimeoutConfig
from node_timeout.stores.sql import tables
from node_timeout.stores.sql.run_rows import (
    CONFIG_COLUMNS,
    MUTABLE,
    ROW_COLUMNS,
    rows_of,
    values_of,
)
from node_timeout.urls.redaction import presentable, redact

CONFIGS, RUNS, HISTORY, SETTINGS = (
    table.name for table in (tables.configs, tables.runs, tables.history, tables.settings)
)
COLUMNS = [column.name for column in tables.runs.c]
Rule = Callable[[LedgerRow], tuple[LedgerRow | None, HistoryEntry | None]]
"""What a row becomes, None for one that stays; and what its history says."""
CONFIGS_PER_STATEMENT = 150
"""SQLite takes 999 values in one."""


class DjangoLedger:
    """Raises `LedgerUnavailableError` for whatever the database says."""

    def __init__(self, alias: str) -> None:
        """``alias``: of the database in ``DATABASES``."""
        self.alias = alias

    # Configs

    def configs_of(self, root_pipeline_id: str) -> dict[str, TimeoutConfig]:
        """By node id; one indexed read."""
        with self._cursor() as cursor:
            cursor.execute(
                f"SELECT {', '.join(CONFIG_COLUMNS)} FROM {CONFIGS} WHERE root_pipeline_id = %s",
                [root_pipeline_id],
            )
            found = (
                TimeoutConfig(**dict(zip(CONFIG_COLUMNS, row, strict=True)))
                for row in cursor.fetchall()
            )
            return {config.node_id: config for config in found}

    def roots_of(self, node_id: str) -> list[str]:
        """Root pipelines that have not ended and have a config for the node; two at most."""
        with self._cursor() as cursor:
            cursor.execute(
                f"SELECT root_pipeline_id FROM {CONFIGS} WHERE node_id = %s"
                " AND expires_at IS NULL ORDER BY root_pipeline_id LIMIT 2",
                [node_id],
            )
            return [root for (root,) in cursor.fetchall()]

    def save_configs(self, configs: Sequence[TimeoutConfig], disabled: Sequence[Node]) -> None:
        """All of them or none; those of ``disabled`` nodes go."""
        names = ", ".join(CONFIG_COLUMNS)
        rows = [
            [getattr(config, name) for name in CONFIG_COLUMNS]
            for config in sorted(configs, key=lambda config: config.node)
        ]
        with self._cursor() as cursor, transaction.atomic(self.alias):
            for part in _parts(rows):
                places = ", ".join([f"({', '.join(['%s'] * len(CONFIG_COLUMNS))})"] * len(part))
                cursor.execute(
                    f"INSERT INTO {CONFIGS} ({names}) VALUES {places} {self._or_replace()}",
                    [value for row in part for value in row],
                )
            for root, nodes in _by_root(disabled).items():
                self._forget(cursor, root, nodes)

    def forget(self, root_pipeline_id: str, node_ids: Sequence[str] | None = None) -> int:
        """Delete the configs of a root, or of some of its nodes; return how many there were."""
        with self._cursor() as cursor, transaction.atomic(self.alias):
            if node_ids is not None:
                return self._forget(cursor, root_pipeline_id, sorted(set(node_ids)))
            cursor.execute(f"DELETE FROM {CONFIGS} WHERE root_pipeline_id = %s", [root_pipeline_id])
            return int(cursor.rowcount)

    def _forget(self, cursor: Any, root: str, node_ids: Sequence[str]) -> int:
        forgotten = 0
        for some in _parts(node_ids):
            cursor.execute(
                f"DELETE FROM {CONFIGS} WHERE root_pipeline_id = %s"
                f" AND node_id IN ({', '.join(['%s'] * len(some))})",
                [root, *some],
            )
            forgotten += int(cursor.rowcount)
        return forgotten

    def end_root(self, root_pipeline_id: str, expires_at: float) -> int:
        """Let the configs of a root end then; return how many had no end yet."""
        with self._cursor() as cursor:
            cursor.execute(
                f"UPDATE {CONFIGS} SET expires_at = %s"
                " WHERE root_pipeline_id = %s AND expires_at IS NULL",
                [expires_at, root_pipeline_id],
            )
            return int(cursor.rowcount)

    def settings(self) -> dict[str, str]:
        """What the scanners are set to; see `runtime.agreement`."""
        with self._cursor() as cursor:
            cursor.execute(f"SELECT name, value FROM {SETTINGS}")
            return dict(cursor.fetchall())

    # Runs

    def open(self, event: NodeStarted, config: TimeoutConfig, now: float) -> LedgerRow | None:
        """Arm a run that has no row yet; None if it has one, which `resume` looks at."""
        row = start(None, event, config, now)
        return row if row is not None and self._insert(row) else None

    def resume(self, event: NodeStarted, config: TimeoutConfig, now: float) -> LedgerRow | None:
        """Let a run go on that has a row; return it as it is then."""
        with self._cursor() as cursor, transaction.atomic(self.alias):
            return self._start_again(cursor, event, config, now)

    def leave(self, run: NodeRun, now: float) -> list[NodeRun]:
        """Cancel the run that has left just now; return it, nothing if it was not open.

        Its version may be the one that the engine gave the node next, as when somebody fails it by
        hand. Only if there is no such run to cancel, all of the node are looked at.
        """
        if self._leave_named(run, now):
            return [run]
        with self._cursor() as cursor, transaction.atomic(self.alias):
            return self._leave_by_rule(cursor, run, now)

    def change(self, run_ids: Sequence[str], rule: Rule) -> list[LedgerRow]:
        """Change runs as a rule says, which is asked of each row once nobody else is changing it;
        return those that it has changed, as they are then.
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
        """The condition for rows of these runs, and its values."""
        if not run_ids:
            return "1 = 0", []
        chosen = sorted(set(run_ids))
        return f"run_id IN ({', '.join(['%s'] * len(chosen))})", [*map(self._key, chosen)]

    def _leave_named(self, run: NodeRun, now: float) -> bool:
        """`leaving.leave` of exactly this run; whether it was open, or has left before."""
        cancelled = RunState.CANCELLED.value
        with self._cursor() as cursor:
            cursor.execute(
                f"UPDATE {RUNS} SET state = %s, next_at = NULL, finished_at = %s"
                " WHERE run_id = %s AND (state = %s OR (state = %s AND deadline > %s)"
                " OR (state = %s AND finished_at < %s))",
                [
                    *(cancelled, now, self._key(run.run_id)),
                    *(RunState.ARMED.value, RunState.EXECUTING.value, now, cancelled, now),
                ],
            )
            return bool(cursor.rowcount)

    def _leave_by_rule(self, cursor: Any, run: NodeRun, now: float) -> list[NodeRun]:
        rows = self._locked(
            cursor,
            "root_pipeline_id = %s AND node_id = %s AND (state IN (%s, %s) OR run_id = %s)",
            [*run.node, RunState.ARMED.value, RunState.EXECUTING.value, self._key(run.run_id)],
        )
        event = NodeLeft(
            node_id=run.node_id, version=run.version, root_pipeline_id=run.root_pipeline_id
        )
        leaving = leave({row.run: row for row in rows}, [event], now)
        for row in leaving.changed:
            cursor.execute(
                f"UPDATE {RUNS} SET state = %s, next_at = NULL, finished_at = %s WHERE run_id = %s",
                [row.state.value, row.finished_at, self._key(row.run_id)],
            )
        return list(leaving.cancelled)

    def _insert(self, row: LedgerRow) -> bool:
        """False if the run has a row already."""
        values = self._values(row, COLUMNS)
        statement = (
            f"INSERT INTO {RUNS} ({', '.join(COLUMNS)}) VALUES ({', '.join(['%s'] * len(COLUMNS))})"
        )
        if not self._is_mysql:
            statement += " ON CONFLICT (run_id) DO NOTHING"
        with self._cursor() as cursor:
            try:
                cursor.execute(statement, values)
            except IntegrityError:  # MySQL's IGNORE would forgive other faults as well
                if not self._is_mysql:
                    raise
                return False
            return bool(cursor.rowcount)

    def _start_again(
        self, cursor: Any, event: NodeStarted, config: TimeoutConfig, now: float
    ) -> LedgerRow | None:
        key = self._key(event.run.run_id)
        rows = self._locked(cursor, "run_id = %s", [key])
        if not rows:  # deleted that very moment
            return None
        changed = start(rows[0], event, config, now)
        if changed is None:
            return rows[0]
        self._write(cursor, changed, history.of_start(rows[0], changed, now))
        return changed

    def _write(self, cursor: Any, row: LedgerRow, entry: HistoryEntry | None) -> None:
        """A row that is locked, and what its history says of the change."""
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
        """Rows as they are once nobody else is changing them."""
        lock = " FOR UPDATE" if self._connection.features.has_select_for_update else ""
        names = ", ".join(column.name for column in ROW_COLUMNS)
        order = f"ORDER BY run_id{lock}"
        cursor.execute(f"SELECT {names} FROM {RUNS} WHERE {condition} {order}", values)
        return rows_of(cursor.fetchall())

    # The connection

    @property
    def _connection(self) -> Any:
        """Of this thread or greenlet."""
        return connections[self.alias]

    @property
    def _is_mysql(self) -> bool:
        return bool(self._connection.vendor == "mysql")

    @contextmanager
    def _cursor(self) -> Iterator[Any]:
        """What fails in a transaction of the engine's leaves that transaction as it was."""
        connection = self._connection
        try:
            if connection.in_atomic_block or not connection.get_autocommit():
                with transaction.atomic(self.alias), connection.cursor() as cursor:
                    yield cursor
            else:
                with connection.cursor() as cursor:
                    yield cursor
        except DjangoDatabaseError as error:
            hint = "; are its tables made? manage.py migrate" if _lacks_table(error) else ""
            raise LedgerUnavailableError(
                f"Django's database {self.alias!r}: {redact(str(error)).strip()}{hint}"
            ) from presentable(error)

    def _key(self, text: str) -> Any:
        number = run_id.to_bytes(text)
        return uuid.UUID(bytes=number) if self._connection.vendor == "postgresql" else number

    def _values(self, row: LedgerRow, names: Sequence[str]) -> list[Any]:
        values = values_of(row)
        values["run_id"] = self._key(values["run_id"])
        values["state"] = row.state.value  # not every driver writes an enum as its text
        return [values[name] for name in names]

    def _or_replace(self) -> str:
        """How a config takes the place of an older one, with no end."""
        names = [name for name in CONFIG_COLUMNS if name not in ("root_pipeline_id", "node_id")]
        if self._is_mysql:
            updates = ", ".join(f"{name} = VALUES({name})" for name in names)
            return f"ON DUPLICATE KEY UPDATE {updates}, expires_at = NULL"
        updates = ", ".join(f"{name} = excluded.{name}" for name in names)
        return f"ON CONFLICT (root_pipeline_id, node_id) DO UPDATE SET {updates}, expires_at = NULL"


def _by_root(nodes: Sequence[Node]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for root, node_id in sorted(nodes):
        found.setdefault(root, []).append(node_id)
    return found


def _parts(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for i in range(0, len(items), CONFIGS_PER_STATEMENT):
        yield items[i : i + CONFIGS_PER_STATEMENT]


def _lacks_table(error: Exception) -> bool:
    """As each database says it: PostgreSQL and MySQL that it does not exist, SQLite that it has
    none.
    """
    said = str(error)
    return "exist" in said or "no such table" in said
