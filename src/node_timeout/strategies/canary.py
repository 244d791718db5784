"""The strategy of canaries: it does nothing. All that matters is that it was called."""

from node_timeout.domain.run import TimedOutNode
from node_timeout.strategies.base import NodeTimeoutStrategy, StrategyResult


class CanaryStrategy(NodeTimeoutStrategy):
    """The strategy for `node_timeout.domain.canary.ACTION`, which no config may name."""

    asks_engine = False

    async def deal_with_timeout_node(self, node: TimedOutNode) -> StrategyResult:
        del node
        return StrategyResult(True)
