"""Batches: apply the rules for one run to many runs. Pure, and the same for every ledger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import field

from node_timeout.domain.events import NodeLeft, NodeStarted
from node_timeout.domain.lifecycle import is_first_try, take
from node_timeout.domain.run import (
    DueRun,
    LedgerRow,
    Node,
    NodeRun,
    Outcome,
    RunState,
    TimedOutNode,
)
from node_timeout.domain.taking import Dropped, Later, Lease, Taken
from node_timeout.older_python import dataclass


def first_starts(events: Iterable[NodeStarted], now: float) -> dict[NodeRun, NodeStarted]:
    """The earliest start of each run, in the order in which rows are locked."""
    first: dict[NodeRun, NodeStarted] = {}
    for event in sorted(events, key=lambda event: event.started_at(now)):
        first.setdefault(event.run, event)
    return {run: first[run] for run in sorted(first, key=lambda run: run.run_id)}


def by_node(events: Iterable[NodeLeft]) -> dict[Node, list[NodeLeft]]:
    """The `NodeLeft` events of each node; those of one node are judged together."""
    found: dict[Node, list[NodeLeft]] = {}
    for event in events:
        found.setdefault(event.node, []).append(event)
    return found


@dataclass(slots=True)
class Judged:
    """What `lifecycle.take` decided for the runs that a worker asked for."""

    taken: list[Taken] = field(default_factory=list)
    later: list[DueRun] = field(default_factory=list)
    """To be examined again at these instants. Instants other than deadlines are put later by
    ``ahead_seconds``: a scanner claims a run that much ahead, and it is due then."""
    dropped: Counter[RunState] = field(default_factory=Counter)
    """How many runs were closed already, by state."""
    given_up: list[LedgerRow] = field(default_factory=list)
    """Dead now: they have no attempts left."""

    @property
    def abandoned(self) -> list[LedgerRow]:
        """Runs taken from another worker whose lease had run out."""
        return [each.row for each in self.taken if each.was_abandoned]

    def deaths(self) -> tuple[Outcome, ...]:
        """The outcomes of the runs that were given up."""
        return tuple(
            Outcome(node=TimedOutNode.of(row), state=RunState.DEAD, message=row.message or "")
            for row in self.given_up
        )


def judge(
    rows: Iterable[LedgerRow], lease: Lease, now: float, *, max_attempts: int, ahead_seconds: float
) -> Judged:
    """Apply `lifecycle.take` to each row. Nothing is stored yet."""
    judged = Judged()
    for row in rows:
        found = take(row, lease, now, max_attempts=max_attempts, ahead_seconds=ahead_seconds)
        if isinstance(found, Taken):
            judged.taken.append(found)
        elif isinstance(found, Later):
            # Scanners claim every instant ahead of time; workers can take only a deadline ahead.
            at = found.at if is_first_try(row) else found.at + ahead_seconds
            judged.later.append(DueRun(run_id=row.run_id, due_at=at))
        elif isinstance(found, Dropped):
            judged.dropped[found.state] += 1
        else:
            judged.given_up.append(found.row)
    return judged
