"""Strategies written for bamboo's own app, as named in the project's settings."""

import inspect
from functools import partial
from typing import Any, Self

from node_timeout.contrib.bamboo.project import BAMBOO_PREFIX, old_strategies
from node_timeout.domain.errors import NodeRunSupersededError, StrategyRefusedError
from node_timeout.domain.run import TimedOutNode
from node_timeout.ports.engine import Engine
from node_timeout.runtime.threads import Threads
from node_timeout.settings import Settings
from node_timeout.strategies.base import NodeTimeoutStrategy, StrategyResult


class OldStrategy(NodeTimeoutStrategy):
    """Calls the strategy that ``PIPELINE_NODE_TIMEOUT_HANDLER`` has for the node's action.

    An old strategy gets only a node id. So the engine is asked just before whether this version of
    the node is running; a retry of the node between the two calls is not noticed. The strategy runs
    in `engine_threads` threads of its own, each with its own Django connections.
    """

    def __init__(self, engine: Engine, threads: int = 1) -> None:
        super().__init__(engine)
        self._threads = Threads(threads, name="old-strategy", at_end=_close_connections)

    @classmethod
    def build(cls, engine: Engine, settings: Settings) -> Self:
        return cls(engine, settings.engine_threads)

    async def close(self) -> None:
        await self._threads.close()

    async def deal_with_timeout_node(self, node: TimedOutNode) -> StrategyResult:
        strategy = old_strategies().get(node.action)
        if strategy is None:
            raise StrategyRefusedError(f"{BAMBOO_PREFIX}HANDLER has no action {node.action!r}")
        if not await self.engine.is_running(node):
            raise NodeRunSupersededError("no longer running at this version")
        return StrategyResult.of(await self._threads.run(partial(_called, strategy, node.node_id)))


def _called(strategy: Any, node_id: str) -> Any:
    """Call the strategy with this thread's own connections, as for a request."""
    from django.db import close_old_connections  # noqa: PLC0415 - needs Django set up

    instance: Any = strategy() if inspect.isclass(strategy) else strategy
    close_old_connections()
    try:
        return instance.deal_with_timeout_node(node_id)
    finally:
        close_old_connections()


def _close_connections() -> None:
    from django.db import connections  # noqa: PLC0415

    connections.close_all()
