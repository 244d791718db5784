"""Strategies: what to do with a node that has timed out. Each is a class, named by an action.

A package provides one through the entry-point group ``node_timeout.strategies`` (entry-point name =
action). The setting ``handlers`` adds or overrides one with ``module:Class``.
"""

import contextvars
import inspect
import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, ClassVar, Self

from node_timeout.domain.errors import StrategyError, StrategyRefusedError
from node_timeout.domain.hints import shown
from node_timeout.domain.reasons import DEFAULT_REASON, reason_of
from node_timeout.domain.run import TimedOutNode
from node_timeout.ports.engine import Engine
from node_timeout.runtime.threads import Threads

STRATEGIES_GROUP = "node_timeout.strategies"


@dataclass(frozen=True, slots=True)
class StrategyResult:
    """The result of a strategy. ``result=False`` is a temporary failure and is retried."""

    result: bool
    message: str = ""
    data: Any = None
    retry_after: float | None = None
    """After a failure: the shortest wait before the next attempt, seconds."""
    extend_by: float | None = None
    """Seconds by which the deadline moves; the node is dealt with again at the new deadline. Its
    total time then must not exceed ``max_seconds``. Only with ``result=True``."""

    @classmethod
    def of(cls, value: Any) -> "StrategyResult":
        """Read what a strategy returned: this class, None (done), or the original's dict form.

        Raises `StrategyRefusedError` for anything else: another call would return the same.
        """
        if value is None:
            return cls(result=True)
        if isinstance(value, StrategyResult):
            value = {each.name: getattr(value, each.name) for each in fields(cls)}
        if isinstance(value, Mapping) and isinstance(value.get("result"), bool):
            message = value.get("message")
            return cls(
                value["result"],
                "" if message is None else str(message),
                value.get("data"),
                _seconds(value, "retry_after"),
                _seconds(value, "extend_by"),
            )
        raise StrategyRefusedError(
            f"the strategy returned {shown(value)}, not a StrategyResult "
            f"(or None, or a dict with a bool 'result')"
        )


def _seconds(answer: Mapping[str, Any], name: str) -> float | None:
    """Read a field in seconds. Raises `StrategyRefusedError` if it is not a positive number."""
    value = answer.get(name)
    if value is None:
        return None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 < value < math.inf:
        raise StrategyRefusedError(f"{name} is {shown(value)}, not a number of seconds above 0")
    return float(value)


class NodeTimeoutStrategy(ABC):
    """Base class of all strategies. One instance serves many concurrent calls."""

    asks_engine: ClassVar[bool] = True
    """First ask the engine whether the node is still running; pause while the circuit is open."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    @classmethod
    def build(cls, engine: Engine, settings: Any) -> Self:
        """Create the instance; override this to read the worker's `Settings` as well."""
        del settings
        return cls(engine)

    async def close(self) -> None:
        """Release the resources of the instance; the worker has ended."""
        return

    @abstractmethod
    def deal_with_timeout_node(self, node: TimedOutNode) -> Any:
        """Deal with the node; ``async def``, or plain ``def`` (then run in a thread).

        Return a `StrategyResult`, or None for done. An exception, or a call longer than
        ``strategy_timeout``, is a temporary failure and is retried; raise `StrategyRefusedError` to
        give up at once. After a crash this may be called again for the same node run, so its
        effects should be safe to repeat. A thread cannot be stopped: a plain ``def`` must set its
        own time limits.
        """


class ForcedFailStrategy(NodeTimeoutStrategy):
    """``forced_fail``: the engine fails the node, with the setting `reason` as the reason."""

    def __init__(self, engine: Engine, reason: str = DEFAULT_REASON) -> None:
        super().__init__(engine)
        self._reason = reason

    @classmethod
    def build(cls, engine: Engine, settings: Any) -> Self:
        return cls(engine, settings.reason)

    async def deal_with_timeout_node(self, node: TimedOutNode) -> StrategyResult:
        why = reason_of(self._reason, node)
        return StrategyResult(True, await self.engine.forced_fail(node, why))


class ForcedFailAndSkipStrategy(ForcedFailStrategy):
    """``forced_fail_and_skip``: the engine fails the node, and the pipeline continues after it."""

    async def deal_with_timeout_node(self, node: TimedOutNode) -> StrategyResult:
        why = reason_of(self._reason, node)
        return StrategyResult(True, await self.engine.forced_fail_and_skip(node, why))


async def call(
    strategy: NodeTimeoutStrategy, node: TimedOutNode, threads: Threads
) -> StrategyResult:
    """Call a strategy: a coroutine function, or a plain function, which runs in a thread.

    Raises what the strategy raises.
    """
    deal = strategy.deal_with_timeout_node
    try:
        if inspect.iscoroutinefunction(deal):
            value = deal(node)
        else:
            value = await threads.run(partial(_in_thread, contextvars.copy_context(), deal, node))
        if inspect.isawaitable(value):
            value = await value
    except SystemExit as error:
        # It would end this worker, and then each worker that takes over the node.
        raise RuntimeError(f"the strategy called exit({shown(error.code)})") from error
    return StrategyResult.of(value)


def _in_thread(
    context: contextvars.Context, deal: Callable[[TimedOutNode], Any], node: TimedOutNode
) -> Any:
    threading.current_thread().name = f"strategy {node.node_id}"
    try:
        return context.run(deal, node)
    except StopIteration:  # a future cannot hold it
        raise RuntimeError("the strategy raised StopIteration") from None


def known_actions(handlers: Mapping[str, str]) -> frozenset[str]:
    """The names of the installed or configured actions, without importing any."""
    return frozenset(handlers) | {point.name for point in entry_points(group=STRATEGIES_GROUP)}


def load_strategies(
    handlers: Mapping[str, str], engine: Engine, settings: Any
) -> dict[str, NodeTimeoutStrategy]:
    """Import and build every strategy. Raises `StrategyError` that names the faulty one.

    ``settings`` is passed to `NodeTimeoutStrategy.build`.
    """

    def build(action: str, load: Callable[[], Any], where: str) -> NodeTimeoutStrategy:
        strategy_class = _load(action, load, where)
        try:
            return strategy_class.build(engine, settings)
        except Exception as error:
            raise StrategyError(
                f"the strategy of action {action!r} ({where}) cannot be built: {error}"
            ) from error

    points: dict[str, EntryPoint] = {}
    for point in entry_points(group=STRATEGIES_GROUP):
        other = points.setdefault(point.name, point)
        if other.value != point.value and point.name not in handlers:
            raise StrategyError(
                f"action {point.name!r} is claimed twice: by {_where(other)} and {_where(point)}; "
                f"uninstall one, or choose with the setting handlers"
            )
    strategies = {
        action: build(action, point.load, _where(point))
        for action, point in points.items()
        if action not in handlers
    }
    for action, path in handlers.items():
        strategies[action] = build(
            action, partial(_import, path), f"{path}, by the setting handlers"
        )
    return strategies


def _where(point: EntryPoint) -> str:
    package = point.dist.name if point.dist else "an unknown package"
    return f"{point.value} of {package}"


def _import(path: str) -> Any:
    module, colon, name = path.partition(":")
    if not colon:
        raise StrategyError(f"{path!r} is not of the form module:Class")
    return getattr(import_module(module), name)


def _load(action: str, load: Callable[[], Any], where: str) -> type[NodeTimeoutStrategy]:
    try:
        strategy_class = load()
    except Exception as error:
        raise StrategyError(f"the strategy of action {action!r} ({where}): {error}") from error
    if not (isinstance(strategy_class, type) and issubclass(strategy_class, NodeTimeoutStrategy)):
        raise StrategyError(
            f"the strategy of action {action!r} ({where}) is not a class derived from "
            f"NodeTimeoutStrategy"
        )
    return strategy_class
