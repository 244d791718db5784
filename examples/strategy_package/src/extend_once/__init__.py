"""Strategy ``extend_once``: a node that has timed out waits once more, then it is failed."""

import os
from typing import Any, Self

from node_timeout import NodeTimeoutStrategy, StrategyResult, TimedOutNode


class ExtendOnce(NodeTimeoutStrategy):
    """Reports a temporary failure the first time: node-timeout calls it again after its back-off.

    The back-off before the second call is at most ``NODE_TIMEOUT_RETRY_BACKOFF``.
    """

    patience: int

    @classmethod
    def build(cls, engine: Any, settings: Any) -> Self:
        strategy = super().build(engine, settings)
        strategy.patience = int(os.environ.get("EXTEND_TIMES", "1"))
        return strategy

    async def deal_with_timeout_node(self, node: TimedOutNode) -> StrategyResult:
        if node.attempt <= self.patience:
            return StrategyResult(False, f"extended, time {node.attempt} of {self.patience}")
        done = await self.engine.forced_fail(node, f"timed out, after {self.patience} extensions")
        return StrategyResult(True, done)
