"""Who asks for a change, under which conditions, and what becomes of a run by that.

Pure: order + row + now → a verdict, what the row becomes, what its history says. What a change does
to a run stands in `changes`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from node_timeout.domain.changes import Change, Reconfigure, Verdict
from node_timeout.domain.history import HistoryEntry, HistoryKind
from node_timeout.domain.run import LedgerRow, Node, RunState
from node_timeout.domain.timeout_config import TimeoutConfig
from node_timeout.older_python import dataclass

MAX_KEY_LENGTH = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A change, who asks for it, and under which conditions."""

    change: Change
    actor: str
    reason: str | None = None
    if_revision: int | None = None
    """Only if the run has this revision still."""
    idempotency_key: str | None = None
    """The name of this order: what a run has had under it is not carried out again."""
    max_seconds: float
    """How long the time of a run may become, pauses left out."""

    @property
    def asks_configs(self) -> bool:
        """Whether it cannot be judged before it is `told` the configs of the runs' nodes."""
        return isinstance(self.change, Reconfigure)

    def told(self, configs: Mapping[Node, TimeoutConfig]) -> Order:
        """The order that knows what is stored now for the nodes of the runs."""
        return replace(self, change=Reconfigure(configs=configs))


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What becomes of one run by an order."""

    verdict: Verdict
    row: LedgerRow | None
    """As it is then; None if there is none."""
    entry: HistoryEntry | None = None
    """None if nothing has changed."""


def judge(
    order: Order, row: LedgerRow | None, now: float, had: HistoryKind | None = None
) -> Judged:
    """Say what becomes of a run; ``had`` is the change that it had under the order's key."""
    if row is None:
        return Judged(verdict=Verdict.MISSING, row=None)
    if had is not None:
        same = had is order.change.kind
        return Judged(verdict=Verdict.DONE if same else Verdict.KEY_USED, row=row)
    refusal = _refusal(order, row, now)
    if refusal is not None:
        return Judged(verdict=refusal, row=row)
    changed = order.change.apply(row, now)
    if changed is None:
        return Judged(verdict=Verdict.DONE, row=row)
    new, what = changed
    entry = HistoryEntry(
        run_id=row.run_id,
        at=now,
        kind=order.change.kind,
        actor=order.actor,
        detail=": ".join(filter(None, [what, order.reason])) or None,
        idempotency_key=order.idempotency_key,
    )
    return Judged(verdict=Verdict.DONE, row=replace(new, revision=row.revision + 1), entry=entry)


def _refusal(order: Order, row: LedgerRow, now: float) -> Verdict | None:
    change = order.change
    if row.state not in change.applies_to:
        if RunState.DEAD in change.applies_to:
            return Verdict.NOT_DEAD
        return Verdict.EXECUTING if row.state is RunState.EXECUTING else Verdict.CLOSED
    if (row.lease_until or 0.0) > now:
        return Verdict.EXECUTING
    if order.if_revision is not None and order.if_revision != row.revision:
        return Verdict.REVISION
    return change.refusal(row, now, order.max_seconds)
