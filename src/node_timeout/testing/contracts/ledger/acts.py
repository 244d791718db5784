"""What the suites of the ledger do again and again."""

from typing import Any

from node_timeout.domain.run import DueRun, NodeRun, Outcome, RunState, TimedOutNode
from node_timeout.ports.directory import DeadRuns, RunFilter
from node_timeout.ports.ledger import Ledger, Retention, Taking

NOW = 1_795_448_948.419_445_3
LEASE = 60.0


def died(
    until: float, *, actor: str | None = None, reason: str | None = None, **which: Any
) -> DeadRuns:
    """The dead runs for which all that is given holds."""
    wanted = RunFilter(state=RunState.DEAD, **which)
    return DeadRuns(wanted=wanted, until=until, actor=actor, reason=reason)


async def take(ledger: Ledger, *runs: NodeRun, now: float = NOW + 10) -> Taking:
    wanted = [DueRun(run_id=each.run_id, due_at=NOW) for each in runs]
    return await ledger.take(wanted, now=now, lease_seconds=LEASE, max_attempts=3)


async def states(ledger: Ledger, node_id: str) -> dict[str, RunState]:
    return {row.version: row.state for row in await ledger.rows(node_id)}


def outcome(node: TimedOutNode, state: RunState, due_at: float | None = None) -> Outcome:
    return Outcome(node=node, state=state, message="so it went", due_at=due_at)


async def record(
    ledger: Ledger, taking: Taking, state: RunState, due_at: float | None = None
) -> int:
    outcomes = [outcome(node, state, due_at) for node in taking.taken]
    return await ledger.record(outcomes, owner=taking.owner, now=NOW + 11)


async def purge(ledger: Ledger, now: float, retention: Retention, limit: int = 10) -> int:
    return await ledger.purge(await ledger.purgeable(now, retention, limit), now, retention)
