"""What a canary is: a run of our own that goes the way of any deadline, but for the engine."""

import itertools
from collections.abc import Callable

from node_timeout.domain.events import NodeStarted
from node_timeout.domain.run import NodeRun
from node_timeout.domain.timeout_config import TimeoutConfig

ACTION = "node-timeout:canary"
ROOT = "node-timeout:canary"
"""Its root pipeline. Runs of it are in lists only where their root or node is named."""
SECONDS = 1.0


def canaries(shards: int, home: Callable[[str], int]) -> list[NodeStarted]:
    """The start of one in each shard, due `SECONDS` later; always the same runs.

    ``home`` says which shard a run id is in; so the version decides.
    """
    return [
        next(
            start
            for version in itertools.count()
            if home((start := _canary(shard, str(version))).run.run_id) == shard
        )
        for shard in range(shards)
    ]


def _canary(shard: int, version: str) -> NodeStarted:
    # No engine has a node of this name: an event without a root must not find two.
    run = NodeRun(root_pipeline_id=ROOT, node_id=f"{ROOT}:{shard}", version=version)
    config = TimeoutConfig(
        root_pipeline_id=ROOT, node_id=run.node_id, action=ACTION, timeout=SECONDS
    )
    return NodeStarted.of(run, config=config)
