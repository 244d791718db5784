"""Conversion between rows and the domain's values, and the selection of rows by their keys."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import (
    ARRAY,
    Column,
    ColumnElement,
    Double,
    Select,
    Table,
    Text,
    case,
    column,
    func,
    literal,
    or_,
    select,
    tuple_,
)

from node_timeout.domain.run import DueRun, LedgerRow, Node, NodeRun, RunState
from node_timeout.domain.timeout_config import TimeoutConfig
from node_timeout.stores.ledger_rows import CONFIG_COLUMNS, ROW_NAMES
from node_timeout.stores.sql.tables import RunId, as_uuids, hexadecimal, runs

KEYS_PER_STATEMENT = 500
ROW_COLUMNS = [runs.c[name] for name in ROW_NAMES]
"""The columns of a `LedgerRow`, without the run id, which is computed."""


def config_of(row: Any) -> TimeoutConfig:
    return TimeoutConfig(**{name: getattr(row, name) for name in CONFIG_COLUMNS})


def config_values(config: TimeoutConfig) -> dict[str, Any]:
    """A row of the config table that does not expire."""
    return {name: getattr(config, name) for name in CONFIG_COLUMNS} | {"expires_at": None}


def by_run(rows: Iterable[LedgerRow]) -> dict[NodeRun, LedgerRow]:
    return {row.run: row for row in rows}


def due_of(row: LedgerRow) -> DueRun | None:
    """An armed run and when it needs attention; None for a run in another state."""
    if row.state is not RunState.ARMED or row.next_at is None:
        return None
    return DueRun(run_id=row.run_id, due_at=row.next_at)


def walking(query: Select[Any], index: str) -> Select[Any]:
    """Start reading a page at its place in this index.

    MySQL and MariaDB would also read all rows of the state before it: 95 ms instead of 4 in the
    middle of a million.
    """
    for dialect in ("mysql", "mariadb"):
        query = query.with_hint(runs, f"FORCE INDEX ({index})", dialect)
    return query


def page_of(instant: Column[float], limit: int, after: DueRun | None) -> Select[Any]:
    """Runs in order of (instant, run_id), those after ``after``."""
    query = select(runs.c.run_id, instant.label("due_at"))
    if after is not None:
        query = query.where(*is_after(instant, after.due_at, after.run_id))
    return query.order_by(instant, runs.c.run_id).limit(limit)


def due_runs(found: Iterable[Any]) -> list[DueRun]:
    return [DueRun(run_id=row.run_id, due_at=row.due_at) for row in found]


def of_few(instant: ColumnElement[float]) -> ColumnElement[float]:
    """An order for a few rows found by another index; no planner can read an index in it."""
    return instant + 0.0


def is_after(
    instant: ColumnElement[float], at: float, run_id: str
) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    """(instant, run_id) > (at, run_id), in a form that every planner handles well."""
    return instant >= at, or_(instant > at, runs.c.run_id > run_id)


@dataclass(frozen=True, slots=True)
class Keys:
    """Builds the conditions that select rows by their keys, for a kind of database.

    PostgreSQL gets an array, which is far cheaper to send and to read than a parameter for each
    key: 256 rows are found in 60 % of the time, see docs/explanation/performance.md.
    """

    arrays: bool

    def of(self, chosen: Sequence[str], table: Table = runs) -> ColumnElement[bool]:
        """The rows of these run ids, in the run table or another one with run ids."""
        key = table.c.run_id
        if len(chosen) == 1:  # the usual case when deadlines come one by one
            return key == chosen[0]
        if self.arrays:
            return key == func.any(as_uuids(_array([*map(hexadecimal, chosen)])))
        return key.in_(chosen)

    def of_nodes(self, nodes: Sequence[Node], table: Table = runs) -> list[ColumnElement[bool]]:
        """The rows of these nodes, in a form in which every planner finds them by an index."""
        roots, node_ids = {root for root, _ in nodes}, {node_id for _, node_id in nodes}
        root, node_id = table.c.root_pipeline_id, table.c.node_id
        conditions = [self.among(root, roots), self.among(node_id, node_ids)]
        if len(roots) > 1 and len(node_ids) > 1:
            # Excludes rows with the root of one node and the node id of another.
            conditions.append(tuple_(root, node_id).in_(nodes))
        return conditions

    def each_its_own(
        self, chosen: Sequence[str], values: Mapping[str, Sequence[Any]]
    ) -> "OwnValues":
        """The ledger rows of these runs, and what to write into them: by column, a value per run.

        All are written by one statement, although due times and texts differ per run: one statement
        for each run cost thirty times as much, see docs/explanation/performance.md.
        """
        same = {name: own[0] for name, own in values.items() if len(set(own)) == 1}
        differing = {name: own for name, own in values.items() if name not in same}
        if not differing:
            return OwnValues(self.of(chosen), same)
        if not self.arrays:
            cases = {
                name: case(
                    *(
                        (literal(run_id, RunId), value)
                        for run_id, value in zip(chosen, own, strict=True)
                    ),
                    value=runs.c.run_id,
                )
                for name, own in differing.items()
            }
            return OwnValues(self.of(chosen), same | cases, {"compiled_cache": None})
        types: dict[str, Any] = {
            name: Double() if isinstance(runs.c[name].type, Double) else Text()
            for name in differing
        }
        own_rows = (
            func.unnest(
                as_uuids(_array([*map(hexadecimal, chosen)])),
                *(literal(own, ARRAY(types[name])) for name, own in differing.items()),
            )
            .table_valued(
                column("run_id", RunId), *(column(name, types[name]) for name in differing)
            )
            .render_derived("own")
        )
        return OwnValues(
            runs.c.run_id == own_rows.c.run_id,
            same | {name: own_rows.c[name] for name in differing},
        )

    def among(self, column: Column[str], values: Iterable[str]) -> ColumnElement[bool]:
        """The rows whose column has one of these values."""
        chosen = sorted(set(values))
        if self.arrays:
            return column == func.any(_array(chosen))
        return column.in_(chosen)


@dataclass(frozen=True, slots=True)
class OwnValues:
    """What `Keys.each_its_own` returns: which rows, what to write, and how to execute it."""

    these: ColumnElement[bool]
    values: dict[str, Any]
    options: dict[str, Any] = field(default_factory=dict)
    """With `CASE`, each number of runs makes a different statement. SQLAlchemy would cache the last
    500 of them, at 2 MB each."""


def _array(values: list[str]) -> ColumnElement[Any]:
    """A TEXT[]: for VARCHAR[], asyncpg has to ask the server about the type on each connection."""
    return literal(values, ARRAY(Text))


def in_order(chosen: Iterable[str]) -> list[str]:
    """The run ids in the order in which rows are locked."""
    return sorted(set(chosen))


def chunks(items: Sequence[Any]) -> list[Sequence[Any]]:
    return [items[i : i + KEYS_PER_STATEMENT] for i in range(0, len(items), KEYS_PER_STATEMENT)]
