"""What a canary is: a run of our own that goes the whole way of a deadline, with no engine."""

from node_timeout.domain.events import NodeStarted
from node_timeout.domain.run import NodeRun
from node_timeout.domain.timeout_config import TimeoutConfig

ACTION = "node-timeout:canary"
ROOT = "node-timeout:canary"
"""Its root pipeline. An engine that has one of this name would see canaries in it, and no harm."""
SECONDS = 1.0


def canary(shard: int, version: str) -> NodeStarted:
    """The start of a canary in this shard of the pool, due `SECONDS` later."""
    run = NodeRun(root_pipeline_id=ROOT, node_id=f"shard-{shard}", version=version)
    config = TimeoutConfig(
        root_pipeline_id=ROOT, node_id=run.node_id, action=ACTION, timeout=SECONDS
    )
    return NodeStarted.of(run, config=config)
