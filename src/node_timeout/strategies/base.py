"""Strategies: what to do with a node that has timed out. Yours is a class; its name is an action.

A package offers one through the entry-point group ``node_timeout.strategies`` (entry-point name =
action); the setting ``handlers`` adds or overrides one by ``module:Class``.
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
    """What a strategy reports. ``result=False`` is a temporary failure and is tried again."""

    result: bool
    message: str = ""
    data: Any = None
    retry_after: float | None = None
    """Seconds to wait at least before the next try, of a failure."""
    extend_by: float | None = None
    """Seconds: the node gets so much more time, and is dealt with at its new deadline, if its
    config's time then is not longer than ``max_seconds``. Only beside ``result=True``."""

    @classmethod
    def of(cls, value: Any) -> "StrategyResult":
        """Read what a strategy returned: this class, None (done), or the original's dict form.

        Raises `StrategyRefusedError` for anything else, as calling it again would return the same.
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
    """Raises `StrategyRefusedError` for what is no positive number."""
    value = answer.get(name)
    if value is None:
        return None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 < value < math.inf:
        raise StrategyRefusedError(f"{name} is {shown(value)}, not a number of seconds above 0")
    return float(value)


class NodeTimeoutStrategy(ABC):
    """Base of all strategies. One instance serves many calls at once."""

    asks_engine: ClassVar[bool] = True
    """Ask the engine first whether the node is running still; rest while the engine does."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    @classmethod
    def build(cls, engine: Engine, settings: Any) -> Self:
        """Make the instance; override it to read the `Settings` of the worker as well."""
        del settings
        return cls(engine)

    async def close(self) -> None:
        """Give back what the instance holds; the worker has ended."""
        return

    @abstractmethod
    def deal_with_timeout_node(self, node: TimedOutNode) -> Any:
        """Deal with the node; ``async def``, or plain ``def`` (then run in a thread).

        Return a `StrategyResult`, or None for done. Raising, or taking longer than
        ``strategy_timeout``, is a temporary failure and is tried again; raise
        `StrategyRefusedError` to give up at once. It may be called again for the same node run
        after a crash, so what it does should be safe to repeat. A thread cannot be stopped: a
        plain ``def`` sets time limits of its own.
        """


class ForcedFailStrategy(NodeTimeoutStrategy):
    """``forced_fail``: the engine fails the node, and is told why in the words of `reason`."""

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
    """``forced_fail_and_skip``: the engine fails the node, and the pipeline goes on behind it."""

    async def deal_with_timeout_node(self, node: TimedOutNode) -> StrategyResult:
        why = reason_of(self._reason, node)
        return StrategyResult(True, await self.engine.forced_fail_and_skip(node, why))


async def call(
    strategy: NodeTimeoutStrategy, node: TimedOutNode, threads: Threads
) -> StrategyResult:
    """Call a strategy, be it a coroutine function or a plain one, which runs in a thread.

    Raises what it raised.
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
        # It would end the worker, and then the next one that takes the node over.
        raise RuntimeError(f"the strategy called exit({shown(error.code)})") from error
    return StrategyResult.of(value)


def _in_thread(
    context: contextvars.Context, deal: Callable[[TimedOutNode], Any], node: TimedOutNode
) -> Any:
    threading.current_thread().name = f"strategy {node.node_id}"
    try:
        return context.run(deal, node)
    except StopIteration:  # no future can hold it
        raise RuntimeError("the strategy raised StopIteration") from None


def known_actions(handlers: Mapping[str, str]) -> frozenset[str]:
    """Names of the actions that are installed or configured, without importing any."""
    return frozenset(handlers) | {point.name for point in entry_points(group=STRATEGIES_GROUP)}


def load_strategies(
    handlers: Mapping[str, str], engine: Engine, settings: Any
) -> dict[str, NodeTimeoutStrategy]:
    """Import and build every strategy. Raises `StrategyError` that names the one at fault.

    ``settings`` is what `NodeTimeoutStrategy.build` is given.
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
