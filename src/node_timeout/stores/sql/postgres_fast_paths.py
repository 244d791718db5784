"""What PostgreSQL does in one statement that takes others several: arming one run, taking a batch.

Both deal with the usual case alone; a run that is not in the answer has to be looked at.
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
    null,
    select,
    update,
)
from sqlalchemy.dialects import postgresql

from node_timeout.domain.run import NodeRun, RunState
from node_timeout.stores.sql.ledger_rows import UNKNOWN
from node_timeout.stores.sql.tables import configs, ledger
from node_timeout.wire.events import NodeStarted


def _arm_one() -> Select[Any]:
    own = (
        select(configs.c.root_pipeline_id, configs.c.action, configs.c.timeout)
        .where(configs.c.node_id == bindparam("node_id", type_=String()))
        .cte("own")
    )
    deadline: ColumnElement[float] = bindparam("counts_from", type_=Double()) + own.c.timeout
    values = {
        "node_id": bindparam("node_id", type_=String()),
        "version": bindparam("version", type_=String()),
        "root_pipeline_id": own.c.root_pipeline_id,
        "action": own.c.action,
        "state": literal(RunState.ARMED, ledger.c.state.type),
        "started_at": bindparam("started_at", type_=Double()),
        "deadline": deadline,
        "due_at": deadline,
        "attempts": literal(0),
        "finished_at": null(),
        "message": literal(""),
    }
    opened = (
        postgresql.insert(ledger)
        .from_select(list(values), select(*(each.label(name) for name, each in values.items())))
        .on_conflict_do_nothing()
        .returning(ledger.c.due_at)
        .cte("opened")
    )
    return select(own.c.timeout, select(opened.c.due_at).scalar_subquery().label("due_at"))


ARM_ONE = _arm_one()
"""No row: the node has no config. A row: its ``due_at`` is None if the run had a row already."""


def arm_one_values(event: NodeStarted, now: float) -> dict[str, Any]:
    """What `ARM_ONE` is executed with."""
    return {
        "node_id": event.run.node_id,
        "version": event.run.version,
        "started_at": event.started_at(now),
        "counts_from": event.counts_from(now),
    }


def _take_due() -> Update:
    wanted = (
        func.unnest(
            bindparam("node_ids", type_=ARRAY(Text())),
            bindparam("versions", type_=ARRAY(Text())),
        )
        .table_valued("node_id", "version")
        .render_derived("wanted")
    )
    with_config = wanted.outerjoin(configs, configs.c.node_id == wanted.c.node_id)
    chosen = (
        select(wanted.c.node_id, wanted.c.version, configs.c.action, configs.c.root_pipeline_id)
        .select_from(with_config)
        .subquery("chosen")
    )
    action = func.coalesce(chosen.c.action, ledger.c.action)
    root = func.coalesce(chosen.c.root_pipeline_id, ledger.c.root_pipeline_id)
    instant = case(
        (ledger.c.due_at == ledger.c.deadline, bindparam("soon", type_=Double())),
        else_=bindparam("now", type_=Double()),
    )
    return (
        update(ledger)
        .where(
            ledger.c.node_id == chosen.c.node_id,
            ledger.c.version == chosen.c.version,
            ledger.c.state == RunState.ARMED,
            ledger.c.due_at <= instant,
            action != UNKNOWN,
        )
        .values(
            state=RunState.EXECUTING,
            due_at=bindparam("lease", type_=Double()),
            attempts=ledger.c.attempts + 1,
        )
        .returning(
            ledger.c.node_id,
            ledger.c.version,
            root.label("root_pipeline_id"),
            action.label("action"),
            ledger.c.deadline,
            ledger.c.attempts,
        )
    )


TAKE_DUE = _take_due()
"""The armed runs that are due, with the action and root pipeline of the config of the moment."""


def take_due_values(
    runs: Sequence[NodeRun], *, now: float, lease: float, ahead_seconds: float
) -> dict[str, Any]:
    """What `TAKE_DUE` is executed with."""
    return {
        "node_ids": [run.node_id for run in runs],
        "versions": [run.version for run in runs],
        "now": now,
        "soon": now + ahead_seconds,
        "lease": lease,
    }
