"""One statement of PostgreSQL where others need several: for arming one run, and taking a batch.

Both handle only the usual case; a run that is missing in the result has to be looked at.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Double,
    Select,
    String,
    Text,
    Update,
    bindparam,
    case,
    func,
    literal,
    select,
    update,
)
from sqlalchemy.dialects import postgresql

from node_timeout.domain.events import NodeStarted
from node_timeout.domain.run import RunState
from node_timeout.domain.taking import Lease
from node_timeout.stores.sql.tables import RunId, as_uuids, configs, hexadecimal, runs


def _arm_one() -> Select[Any]:
    own = (
        select(
            configs.c.root_pipeline_id,
            configs.c.action,
            configs.c.timeout,
            configs.c.payload_json,
        )
        .where(
            configs.c.root_pipeline_id == bindparam("root_pipeline_id", type_=String()),
            configs.c.node_id == bindparam("node_id", type_=String()),
        )
        .cte("own")
    )
    deadline: ColumnElement[float] = bindparam("counts_from", type_=Double()) + own.c.timeout
    values = {
        "run_id": bindparam("run_id", type_=RunId()),
        "node_id": bindparam("node_id", type_=String()),
        "version": bindparam("version", type_=String()),
        "root_pipeline_id": own.c.root_pipeline_id,
        "action": own.c.action,
        "timeout": own.c.timeout,
        "payload_json": own.c.payload_json,
        "trace": bindparam("trace", type_=String()),
        "state": literal(RunState.ARMED, runs.c.state.type),
        "started_at": bindparam("started_at", type_=Double()),
        "deadline": deadline,
        "next_at": deadline,
        "attempts": literal(0),
        "revision": literal(0),
    }
    opened = (
        postgresql.insert(runs)
        .from_select(list(values), select(*(each.label(name) for name, each in values.items())))
        .on_conflict_do_nothing()
        .returning(runs.c.next_at)
        .cte("opened")
    )
    return select(own.c.timeout, select(opened.c.next_at).scalar_subquery().label("next_at"))


ARM_ONE = _arm_one()
"""No row: the node has no config. A row: its ``next_at`` is None if the run had a row already."""


def arm_one_values(event: NodeStarted, now: float) -> dict[str, Any]:
    """The parameters of `ARM_ONE`."""
    return {
        "run_id": event.run.run_id,
        "root_pipeline_id": event.root_pipeline_id,
        "node_id": event.node_id,
        "version": event.version,
        "started_at": event.started_at(now),
        "counts_from": event.counts_from(now),
        "trace": event.trace,
    }


def _take_due() -> Update:
    instant = case(
        (runs.c.next_at == runs.c.deadline, bindparam("soon", type_=Double())),
        else_=bindparam("now", type_=Double()),
    )
    return (
        update(runs)
        .where(
            runs.c.run_id == func.any(as_uuids(bindparam("run_ids", type_=ARRAY(Text())))),
            runs.c.state == RunState.ARMED,
            runs.c.next_at <= instant,
        )
        .values(
            state=RunState.EXECUTING,
            next_at=None,
            lease_until=bindparam("lease_until", type_=Double()),
            lease_owner=bindparam("owner", type_=String()),
            attempts=runs.c.attempts + 1,
        )
        .returning(
            runs.c.node_id,
            runs.c.version,
            runs.c.root_pipeline_id,
            runs.c.action,
            runs.c.deadline,
            runs.c.attempts,
            runs.c.revision,
            runs.c.started_at,
            runs.c.timeout,
            runs.c.extended,
            runs.c.payload_json,
            runs.c.trace,
        )
    )


TAKE_DUE = _take_due()
"""Takes the armed runs that are due, like `lifecycle.take`."""


def take_due_values(
    chosen: Sequence[str], lease: Lease, *, now: float, ahead_seconds: float
) -> dict[str, Any]:
    """The parameters of `TAKE_DUE`."""
    return {
        "run_ids": [*map(hexadecimal, chosen)],
        "now": now,
        "soon": now + ahead_seconds,
        "owner": lease.owner,
        "lease_until": lease.until,
    }
