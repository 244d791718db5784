"""What `node-timeout dev --sample` shows: a node that hangs, and a run that was given up."""

import uuid

from node_timeout.app import NodeTimeout
from node_timeout.domain.errors import SettingsError
from node_timeout.domain.events import NodeStarted
from node_timeout.domain.run import LedgerRow, NodeRun, Outcome, RunState

ROOT = "sample_pipeline"
HANGING, GIVEN_UP = "deploy", "send_invoice"
SECONDS = {HANGING: 600.0, GIVEN_UP: 30.0}
WHY = "given up: the engine did not answer"


async def add_sample(app: NodeTimeout) -> None:
    """Add each of the two, unless an earlier one is still there. Call it before services start.

    Raises `LedgerUnavailableError`, and `SettingsError` if a setting forbids such timeouts.
    """
    now = await app.pool.now()
    if not any(_still_hangs(row, now) for row in await app.rows(HANGING, ROOT)):
        await _configure(app, HANGING)
        await app.node_started(HANGING, _version(), ROOT)
    if not any(row.state is RunState.DEAD for row in await app.rows(GIVEN_UP, ROOT)):
        await _configure(app, GIVEN_UP)
        await _give_up(app, now)


def _version() -> str:
    return uuid.uuid4().hex[:8]


def _still_hangs(row: LedgerRow, now: float) -> bool:
    is_armed = row.state is RunState.ARMED and (row.deadline or 0.0) > now
    return is_armed or row.state is RunState.PAUSED


async def _configure(app: NodeTimeout, node_id: str) -> None:
    config = {"enable": True, "action": "forced_fail", "seconds": SECONDS[node_id]}
    activity = {"type": "ServiceActivity", "timeout_config": config}
    created = await app.batch_create_node_timeout_config(ROOT, {"activities": {node_id: activity}})
    if not created["result"]:
        raise SettingsError(f"the sample cannot be made: {created['message']}")


async def _give_up(app: NodeTimeout, now: float) -> None:
    run = NodeRun(root_pipeline_id=ROOT, node_id=GIVEN_UP, version=_version())
    due = await app.ledger.arm([NodeStarted.of(run, happened_at=now - 60)], now)
    taking = await app.ledger.take(due, now=now, lease_seconds=60, max_attempts=1)
    outcomes = [Outcome(node=node, state=RunState.DEAD, message=WHY) for node in taking.taken]
    await app.ledger.record(outcomes, owner=taking.owner, now=now)
