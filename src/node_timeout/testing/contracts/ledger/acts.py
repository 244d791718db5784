"""Helpers shared by the suites of the ledger."""

from typing import Any

from node_timeout.domain.changes import Change
from node_timeout.domain.orders import Judged, Order
from node_timeout.domain.run import DueRun, LedgerRow, NodeRun, Outcome, RunState, TimedOutNode
from node_timeout.ports.ledger import Ledger, Retention, Taking
from node_timeout.testing.words import config, configure, run, started

NOW = 1_795_448_948.419_445_3
LEASE = 60.0
A = run("a")


def order(change: Change, **conditions: Any) -> Order:
    given: dict[str, Any] = {"actor": "ann", "max_seconds": 1000.0} | conditions
    return Order(change=change, **given)


async def change(
    ledger: Ledger, what: Change, *runs: NodeRun, now: float = NOW + 1, **conditions: Any
) -> Judged:
    """Order a change for these runs; return the result of the last one."""
    judged = await ledger.change(order(what, **conditions), [each.run_id for each in runs], now)
    return judged[runs[-1].run_id]


async def take(
    ledger: Ledger, *runs: NodeRun, now: float = NOW + 10, ahead_seconds: float = 0.0
) -> Taking:
    wanted = [DueRun(run_id=each.run_id, due_at=NOW) for each in runs]
    return await ledger.take(
        wanted, now=now, lease_seconds=LEASE, max_attempts=3, ahead_seconds=ahead_seconds
    )


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


async def armed(ledger: Ledger, *node_ids: str, seconds: float = 100) -> None:
    await configure(ledger, *(config(each, seconds) for each in node_ids))
    await ledger.arm(started([run(each) for each in node_ids]), NOW)


async def row_of(ledger: Ledger, node_id: str = "a") -> LedgerRow:
    (row,) = await ledger.rows(node_id)
    return row
