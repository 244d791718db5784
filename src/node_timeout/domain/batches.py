"""Batches: what the rules for one run make of many. Pure, and the same for every ledger."""

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
    """Of each run its earliest start, in the order in which rows are locked."""
    first: dict[NodeRun, NodeStarted] = {}
    for event in sorted(events, key=lambda event: event.started_at(now)):
        first.setdefault(event.run, event)
    return {run: first[run] for run in sorted(first, key=lambda run: run.run_id)}


def by_node(events: Iterable[NodeLeft]) -> dict[Node, list[NodeLeft]]:
    """The leavings of each node, which are judged together."""
    found: dict[Node, list[NodeLeft]] = {}
    for event in events:
        found.setdefault(event.node, []).append(event)
    return found


@dataclass(slots=True)
class Judged:
    """What became of the runs that a worker asked for, by `lifecycle.take`."""

    taken: list[Taken] = field(default_factory=list)
    later: list[DueRun] = field(default_factory=list)
    """To be looked at again at these instants; what is no deadline, so much later that it is due
    when it is claimed ahead."""
    dropped: Counter[RunState] = field(default_factory=Counter)
    """Closed already, by state."""
    given_up: list[LedgerRow] = field(default_factory=list)
    """Dead now: out of attempts."""

    @property
    def abandoned(self) -> list[LedgerRow]:
        """Those of the taken that another worker had."""
        return [each.row for each in self.taken if each.was_abandoned]

    def deaths(self) -> tuple[Outcome, ...]:
        """How those that were given up ended."""
        return tuple(
            Outcome(node=TimedOutNode.of(row), state=RunState.DEAD, message=row.message or "")
            for row in self.given_up
        )


def judge(
    rows: Iterable[LedgerRow], lease: Lease, now: float, *, max_attempts: int, ahead_seconds: float
) -> Judged:
    """What `lifecycle.take` says of each row. Nothing is stored yet."""
    judged = Judged()
    for row in rows:
        found = take(row, lease, now, max_attempts=max_attempts, ahead_seconds=ahead_seconds)
        if isinstance(found, Taken):
            judged.taken.append(found)
        elif isinstance(found, Later):
            # Scanners claim ahead of every instant, and only a deadline can be taken ahead.
            at = found.at if is_first_try(row) else found.at + ahead_seconds
            judged.later.append(DueRun(run_id=row.run_id, due_at=at))
        elif isinstance(found, Dropped):
            judged.dropped[found.state] += 1
        else:
            judged.given_up.append(found.row)
    return judged
