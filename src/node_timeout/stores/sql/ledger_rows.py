"""Rows of the ledger's tables and the domain's values, and how rows are chosen by their keys."""

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

from node_timeout.domain.run import DueRun, NodeRun, RunState
from node_timeout.domain.timeout_config import TimeoutConfig
from node_timeout.ports.ledger import LedgerRow
from node_timeout.stores.sql.tables import ledger

logger = logging.getLogger(__name__)

KEYS_PER_STATEMENT = 500
UNKNOWN = ""
"""Root pipeline and action of a node run that has no config."""
STATES = frozenset(RunState)
_MEMBER = ledger.c.node_id + "_" + ledger.c.version


def armed_row(
    run: NodeRun, config: TimeoutConfig | None, started_at: float | None, deadline: float
) -> dict[str, Any]:
    """An armed row."""
    return {
        "node_id": run.node_id,
        "version": run.version,
        "root_pipeline_id": config.root_pipeline_id if config else UNKNOWN,
        "action": config.action if config else UNKNOWN,
        "state": RunState.ARMED,
        "started_at": started_at,
        "deadline": deadline,
        "due_at": deadline,
        "attempts": 0,
        "finished_at": None,
        "message": "",
    }


def config_of(row: Any) -> TimeoutConfig:
    return TimeoutConfig(
        node_id=row.node_id,
        root_pipeline_id=row.root_pipeline_id,
        action=row.action,
        timeout=row.timeout,
    )


def readable(rows: Iterable[Any]) -> list[Any]:
    """The rows that can be read. One that someone spoilt by hand holds up no other."""
    read: list[Any] = []
    for row in rows:
        if row.state in STATES:
            read.append(row)
        else:
            logger.error(
                "the ledger row of node %r, version %r, has the unknown state %r: it is left alone",
                row.node_id,
                row.version,
                row.state,
            )
    return read


def ledger_rows_of(rows: Iterable[Any]) -> list[LedgerRow]:
    """Those that can be read."""
    return [LedgerRow(**row._asdict() | {"state": RunState(row.state)}) for row in readable(rows)]


def by_run(rows: Iterable[Any]) -> dict[NodeRun, Any]:
    return {NodeRun(node_id=row.node_id, version=row.version): row for row in rows}


def due_of_values(row: dict[str, Any]) -> DueRun:
    return DueRun(run=NodeRun(node_id=row["node_id"], version=row["version"]), due_at=row["due_at"])


def due_of(row: Any) -> DueRun:
    return DueRun(run=NodeRun(node_id=row.node_id, version=row.version), due_at=row.due_at)


def due_runs(limit: int) -> Select[Any]:
    return (
        select(ledger.c.node_id, ledger.c.version, ledger.c.due_at)
        .order_by(ledger.c.due_at, ledger.c.node_id, ledger.c.version)
        .limit(limit)
    )


def is_after(instant: Column[float], cursor: tuple[float, str, str]) -> ColumnElement[bool]:
    """(instant, node_id, version) > cursor, given that instant >= its first; in the form that every
    planner reads well.
    """
    first, node_id, version = cursor
    return or_(
        instant > first,
        ledger.c.node_id > node_id,
        and_(ledger.c.node_id == node_id, ledger.c.version > version),
    )


@dataclass(frozen=True, slots=True)
class Keys:
    """How a kind of database is asked for rows by their keys.

    PostgreSQL is given two arrays, which cost far less to send and to read than a parameter for
    each key: 256 rows are found in 60 % of the time, see docs/explanation/performance.md.
    """

    arrays: bool

    def of(self, runs: Sequence[NodeRun]) -> ColumnElement[bool]:
        """The ledger rows of these runs."""
        if len(runs) == 1:  # the usual case when deadlines come one by one
            (run,) = runs
            return and_(ledger.c.node_id == run.node_id, ledger.c.version == run.version)
        key = tuple_(ledger.c.node_id, ledger.c.version)
        if self.arrays:
            pairs = (
                func.unnest(
                    _array([run.node_id for run in runs]), _array([run.version for run in runs])
                )
                .table_valued("node_id", "version")
                .render_derived()
            )
            return key.in_(select(pairs.c.node_id, pairs.c.version))
        return and_(
            ledger.c.node_id.in_({run.node_id for run in runs}),  # the planner's way to the rows
            _MEMBER.in_([run.member for run in runs]),
        )

    def each_its_own(
        self, runs: Sequence[NodeRun], values: Mapping[str, Sequence[Any]]
    ) -> "OwnValues":
        """The ledger rows of these runs, and what to write into them: by column, a value per run.

        One statement for all, though retries differ in when they are due, and texts in what they
        say: one for each cost thirty times as much, see docs/explanation/performance.md.
        """
        same = {name: own[0] for name, own in values.items() if len(set(own)) == 1}
        differing = {name: own for name, own in values.items() if name not in same}
        if not differing:
            return OwnValues(self.of(runs), same)
        if not self.arrays:
            members = [run.member for run in runs]
            cases = {
                name: case(dict(zip(members, own, strict=True)), value=_MEMBER)
                for name, own in differing.items()
            }
            return OwnValues(self.of(runs), same | cases, {"compiled_cache": None})
        columns: dict[str, Sequence[Any]] = {
            "node_id": [run.node_id for run in runs],
            "version": [run.version for run in runs],
            **differing,
        }
        types = {
            name: Double() if isinstance(ledger.c[name].type, Double) else Text()
            for name in columns
        }
        own_rows = (
            func.unnest(*(literal(own, ARRAY(types[name])) for name, own in columns.items()))
            .table_valued(*(column(name, types[name]) for name in columns))
            .render_derived("own")
        )
        these = and_(ledger.c.node_id == own_rows.c.node_id, ledger.c.version == own_rows.c.version)
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


def in_order(runs: Iterable[NodeRun]) -> list[NodeRun]:
    return sorted(set(runs), key=lambda run: (run.node_id, run.version))


def chunks(items: Sequence[Any]) -> list[Sequence[Any]]:
    return [items[i : i + KEYS_PER_STATEMENT] for i in range(0, len(items), KEYS_PER_STATEMENT)]
