"""Arming one node run in one statement, on PostgreSQL: one round trip instead of four.

Engines tell of each node as it starts, and wait for the answer.
"""

from typing import Any

from sqlalchemy import ColumnElement, Double, Select, String, bindparam, literal, null, select
from sqlalchemy.dialects import postgresql

from node_timeout.adapters.tables import configs, ledger
from node_timeout.events import NodeStarted
from node_timeout.node import RunState


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


def values_of(event: NodeStarted, now: float) -> dict[str, Any]:
    """What `ARM_ONE` is executed with."""
    return {
        "node_id": event.run.node_id,
        "version": event.run.version,
        "started_at": event.started_at(now),
        "counts_from": event.counts_from(now),
    }
