"""Strategy ``extend_once``: a node that has timed out gets more time, once; then it is failed."""

import os
import time
from typing import Self

from node_timeout import (
    Engine,
    NodeTimeoutStrategy,
    Settings,
    StrategyResult,
    TemporaryError,
    TimedOutNode,
)


class ExtendOnce(NodeTimeoutStrategy):
    """Asks to be called again when the extension is over, and fails the node then.

    The extension counts from the node's deadline, not from the first call: a call that is repeated
    after a crash extends nothing twice. A node that ends meanwhile is not failed.
    """

    seconds: float

    @classmethod
    def build(cls, engine: Engine, settings: Settings) -> Self:
        strategy = super().build(engine, settings)
        strategy.seconds = float(os.environ.get("EXTEND_SECONDS", "60"))
        return strategy

    async def deal_with_timeout_node(self, node: TimedOutNode) -> StrategyResult:
        left = node.deadline + self.seconds - time.time()
        if left > 0:
            raise TemporaryError(f"extended by {self.seconds:g} s", retry_after=left)
        done = await self.engine.forced_fail(node, f"timed out, extended by {self.seconds:g} s")
        return StrategyResult(True, done)
