"""A canary is a run of our own. It takes the path of any deadline, except that no engine has it."""

import itertools
from collections.abc import Callable

from node_timeout.domain.events import NodeStarted
from node_timeout.domain.run import NodeRun
from node_timeout.domain.timeout_config import TimeoutConfig

ACTION = "node-timeout:canary"
ROOT = "node-timeout:canary"
"""The root pipeline of all canaries. Lists show canaries only if their root or node is named."""
SECONDS = 1.0


def canaries(shards: int, home: Callable[[str], int]) -> list[NodeStarted]:
    """The start of one canary per shard, due `SECONDS` later; always the same runs.

    ``home`` maps a run id to its shard. The version is chosen so that the run falls in the shard.
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
    # No engine has a node with this id: an event without a root must not find two nodes.
    run = NodeRun(root_pipeline_id=ROOT, node_id=f"{ROOT}:{shard}", version=version)
    config = TimeoutConfig(
        root_pipeline_id=ROOT, node_id=run.node_id, action=ACTION, timeout=SECONDS
    )
    return NodeStarted.of(run, config=config)
