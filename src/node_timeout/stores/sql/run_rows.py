"""Rows of the ledger's tables and the domain's values, and how rows are chosen by their keys."""

import dataclasses
import logging
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
    and_,
    case,
    column,
    func,
    literal,
    or_,
    select,
    tuple_,
)

from node_timeout.domain.run import DueRun, HistoryEntry, LedgerRow, NodeRun, RunState
from node_timeout.domain.timeout_config import TimeoutConfig
from node_timeout.stores.sql.tables import runs

logger = logging.getLogger(__name__)

KEYS_PER_STATEMENT = 500
STATES = frozenset(RunState)
MUTABLE = [column.name for column in runs.c if not column.primary_key]
"""Columns that a change of a run may write."""
_MEMBER = runs.c.node_id + "_" + runs.c.version


def config_of(row: Any) -> TimeoutConfig:
    return TimeoutConfig(
        node_id=row.node_id,
        root_pipeline_id=row.root_pipeline_id,
        action=row.action,
        timeout=row.timeout,
    )


def rows_of(found: Iterable[Any]) -> list[LedgerRow]:
    """Those that can be read. One that someone spoilt by hand holds up no other."""
    rows: list[LedgerRow] = []
    for each in found:
        if each.state in STATES:
            rows.append(LedgerRow(**each._asdict() | {"state": RunState(each.state)}))
        else:
            logger.error(
                "the ledger row of node %r, version %r, has the unknown state %r: it is left alone",
                each.node_id,
                each.version,
                each.state,
            )
    return rows


def values_of(row: LedgerRow | HistoryEntry) -> dict[str, Any]:
    return dataclasses.asdict(row)


def by_run(rows: Iterable[LedgerRow]) -> dict[NodeRun, LedgerRow]:
    return {row.run: row for row in rows}


def run_of(row: Any) -> NodeRun:
    return NodeRun(node_id=row.node_id, version=row.version)


def due_of(row: LedgerRow) -> DueRun | None:
    """An armed run and when it wants attention; None for any other."""
    if row.state is not RunState.ARMED or row.next_at is None:
        return None
    return DueRun(run=row.run, due_at=row.next_at)


def page_of(instant: Column[float], limit: int, after: DueRun | None) -> Select[Any]:
    """Runs in order of (instant, node_id, version), those after ``after``."""
    query = select(runs.c.node_id, runs.c.version, instant.label("due_at"))
    if after is not None:
        cursor = (after.due_at, after.run.node_id, after.run.version)
        query = query.where(instant >= after.due_at, is_after(instant, cursor))
    return query.order_by(instant, runs.c.node_id, runs.c.version).limit(limit)


def due_runs(found: Iterable[Any]) -> list[DueRun]:
    return [DueRun(run=run_of(row), due_at=row.due_at) for row in found]


def is_after(instant: Column[float], cursor: tuple[float, str, str]) -> ColumnElement[bool]:
    """(instant, node_id, version) > cursor, given that instant >= its first; in the form that every
    planner reads well.
    """
    first, node_id, version = cursor
    return or_(
        instant > first,
        runs.c.node_id > node_id,
        and_(runs.c.node_id == node_id, runs.c.version > version),
    )


@dataclass(frozen=True, slots=True)
class Keys:
    """How a kind of database is asked for rows by their keys.

    PostgreSQL is given two arrays, which cost far less to send and to read than a parameter for
    each key: 256 rows are found in 60 % of the time, see docs/explanation/performance.md.
    """

    arrays: bool

    def of(self, chosen: Sequence[NodeRun], table: Table = runs) -> ColumnElement[bool]:
        """The rows of these runs, in the ledger or in another table with their keys."""
        if len(chosen) == 1:  # the usual case when deadlines come one by one
            (run,) = chosen
            return and_(table.c.node_id == run.node_id, table.c.version == run.version)
        key = tuple_(table.c.node_id, table.c.version)
        if self.arrays:
            pairs = (
                func.unnest(
                    _array([run.node_id for run in chosen]), _array([run.version for run in chosen])
                )
                .table_valued("node_id", "version")
                .render_derived()
            )
            return key.in_(select(pairs.c.node_id, pairs.c.version))
        member = table.c.node_id + "_" + table.c.version
        return and_(
            table.c.node_id.in_({run.node_id for run in chosen}),  # the planner's way to the rows
            member.in_([run.member for run in chosen]),
        )

    def each_its_own(
        self, chosen: Sequence[NodeRun], values: Mapping[str, Sequence[Any]]
    ) -> "OwnValues":
        """The ledger rows of these runs, and what to write into them: by column, a value per run.

        One statement for all, though retries differ in when they are due, and texts in what they
        say: one for each cost thirty times as much, see docs/explanation/performance.md.
        """
        same = {name: own[0] for name, own in values.items() if len(set(own)) == 1}
        differing = {name: own for name, own in values.items() if name not in same}
        if not differing:
            return OwnValues(self.of(chosen), same)
        if not self.arrays:
            members = [run.member for run in chosen]
            cases = {
                name: case(dict(zip(members, own, strict=True)), value=_MEMBER)
                for name, own in differing.items()
            }
            return OwnValues(self.of(chosen), same | cases, {"compiled_cache": None})
        columns: dict[str, Sequence[Any]] = {
            "node_id": [run.node_id for run in chosen],
            "version": [run.version for run in chosen],
            **differing,
        }
        types = {
            name: Double() if isinstance(runs.c[name].type, Double) else Text() for name in columns
        }
        own_rows = (
            func.unnest(*(literal(own, ARRAY(types[name])) for name, own in columns.items()))
            .table_valued(*(column(name, types[name]) for name in columns))
            .render_derived("own")
        )
        these = and_(runs.c.node_id == own_rows.c.node_id, runs.c.version == own_rows.c.version)
        return OwnValues(these, same | {name: own_rows.c[name] for name in differing})

    def among(self, column: Column[str], values: Iterable[str]) -> ColumnElement[bool]:
        """The rows whose column has one of these values."""
        chosen = sorted(set(values))
        if self.arrays:
            return column == func.any(_array(chosen))
        return column.in_(chosen)


@dataclass(frozen=True, slots=True)
class OwnValues:
    """What `Keys.each_its_own` says: which rows, what to write, and how to execute it."""

    these: ColumnElement[bool]
    values: dict[str, Any]
    options: dict[str, Any] = field(default_factory=dict)
    """A `CASE` is another statement for each number of runs. SQLAlchemy would keep the last 500 of
    them, at 2 MB each."""


def _array(values: list[str]) -> ColumnElement[Any]:
    """As TEXT[]: asyncpg has to ask the server what a VARCHAR[] is, on each connection."""
    return literal(values, ARRAY(Text))


def in_order(chosen: Iterable[NodeRun]) -> list[NodeRun]:
    return sorted(set(chosen), key=lambda run: (run.node_id, run.version))


def chunks(items: Sequence[Any]) -> list[Sequence[Any]]:
    return [items[i : i + KEYS_PER_STATEMENT] for i in range(0, len(items), KEYS_PER_STATEMENT)]
