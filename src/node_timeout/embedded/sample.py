"""What `node-timeout dev --sample` has to show: a node that hangs, and a run that was given up."""

import uuid

from node_timeout.app import NodeTimeout
from node_timeout.domain.errors import SettingsError
from node_timeout.domain.events import NodeStarted
from node_timeout.domain.run import NodeRun, Outcome, RunState

ROOT = "sample_pipeline"
HANGING, GIVEN_UP = "deploy", "send_invoice"
SECONDS = {HANGING: 600.0, GIVEN_UP: 30.0}
WHY = "given up: the engine did not answer"


async def add_sample(app: NodeTimeout) -> None:
    """Before the services start; each call adds new versions of both nodes.

    Raises `LedgerUnavailableError`, and `SettingsError` if a setting allows no such timeouts.
    """
    version = uuid.uuid4().hex[:8]
    activities = {
        node_id: {
            "type": "ServiceActivity",
            "timeout_config": {"enable": True, "action": "forced_fail", "seconds": seconds},
        }
        for node_id, seconds in SECONDS.items()
    }
    created = await app.batch_create_node_timeout_config(ROOT, {"activities": activities})
    if not created["result"]:
        raise SettingsError(f"the sample cannot be made: {created['message']}")
    await app.node_started(HANGING, version, ROOT)
    run = NodeRun(root_pipeline_id=ROOT, node_id=GIVEN_UP, version=version)
    now = await app.pool.now()
    due = await app.ledger.arm([NodeStarted.of(run, happened_at=now - 60)], now)
    taking = await app.ledger.take(due, now=now, lease_seconds=60, max_attempts=1)
    outcomes = [Outcome(node=node, state=RunState.DEAD, message=WHY) for node in taking.taken]
    await app.ledger.record(outcomes, owner=taking.owner, now=now)
