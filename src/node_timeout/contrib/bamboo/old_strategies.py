"""Strategies that were written for bamboo's own app, as the project's settings name them."""

import asyncio
import inspect
from typing import Any

from node_timeout.contrib.bamboo.project import BAMBOO_PREFIX, old_strategies
from node_timeout.domain.errors import NodeRunSupersededError, StrategyRefusedError
from node_timeout.domain.run import TimedOutNode
from node_timeout.strategies.base import NodeTimeoutStrategy, StrategyResult


class OldStrategy(NodeTimeoutStrategy):
    """Calls what ``PIPELINE_NODE_TIMEOUT_HANDLER`` has for the action of the node.

    It was written to be given a node id. So the engine is asked just before whether that very
    version of the node is running; in the moment between, a retry of the node is not noticed.
    """

    async def deal_with_timeout_node(self, node: TimedOutNode) -> StrategyResult:
        strategy = old_strategies().get(node.action)
        if strategy is None:
            raise StrategyRefusedError(f"{BAMBOO_PREFIX}HANDLER has no action {node.action!r}")
        if not await self.engine.is_running(node):
            raise NodeRunSupersededError("no longer running at this version")
        return StrategyResult.of(await asyncio.to_thread(_called, strategy, node.node_id))


def _called(strategy: Any, node_id: str) -> Any:
    """With connections of this thread's own, as for a request."""
    from django.db import close_old_connections  # noqa: PLC0415 - needs Django set up

    instance: Any = strategy() if inspect.isclass(strategy) else strategy
    close_old_connections()
    try:
        return instance.deal_with_timeout_node(node_id)
    finally:
        close_old_connections()
