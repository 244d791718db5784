"""An order: who asks for a change and under which conditions; and its effect on a run.

Pure: order + row + now → a verdict, the new row, the history entry. `changes` says what each change
does to a run.
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
    """Carry the order out only if the run still has this revision."""
    idempotency_key: str | None = None
    """The key of this order: a change that a run already had under this key is not repeated."""
    max_seconds: float
    """How long the time of a run may become, without its pauses."""

    @property
    def asks_configs(self) -> bool:
        """Whether the order needs the configs of the runs' nodes (see `told`) to be judged."""
        return isinstance(self.change, Reconfigure)

    def told(self, configs: Mapping[Node, TimeoutConfig]) -> Order:
        """The same order with the configs that are stored now for the runs' nodes."""
        return replace(self, change=Reconfigure(configs=configs))


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """The effect of an order on one run."""

    verdict: Verdict
    row: LedgerRow | None
    """The row afterwards; None if there is none."""
    entry: HistoryEntry | None = None
    """None if nothing has changed."""


def judge(
    order: Order, row: LedgerRow | None, now: float, had: HistoryKind | None = None
) -> Judged:
    """Judge an order for one run. ``had`` is the change that the run had under the order's key."""
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
