"""The workflow engine, as strategies use it."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from node_timeout.domain.events import NodeStarted
from node_timeout.domain.run import Node, TimedOutNode


class Engine(Protocol):
    """The workflow engine. Every call carries root, node and version; the engine must refuse
    another version.

    Besides `EngineUnavailableError` (retry later) a call may raise `NodeRunSupersededError` (the
    node no longer runs at this version: the run becomes ``stale``) and `StrategyRefusedError`
    (refused permanently: the run becomes ``dead``).
    """

    async def is_running(self, node: TimedOutNode) -> bool:
        """Is the node still RUNNING at this version?

        Also True if an earlier call for this very run did only half its work: the node is failed,
        but not yet skipped. The strategy is then called again and finishes the work.
        """
        ...

    async def forced_fail(self, node: TimedOutNode, reason: str) -> str:
        """Fail the node; return what was done, in words. Repeating it is safe."""
        ...

    async def forced_fail_and_skip(self, node: TimedOutNode, reason: str) -> str:
        """Fail the node and let its pipeline go on; return what was done, in words.

        Repeating it is safe, even if only the first half was done.
        """
        ...

    async def close(self) -> None: ...


@runtime_checkable
class CheckableEngine(Protocol):
    """An engine that can check whether it would work, without touching a node."""

    async def check(self) -> str:
        """Say what was seen. Raises `EngineUnavailableError` if it would not work."""
        ...


@runtime_checkable
class SurveyableEngine(Protocol):
    """An engine that can also report which runs of given nodes it is running."""

    async def running(self, nodes: Sequence[Node]) -> list[NodeStarted]:
        """The runs of these nodes that `Engine.is_running` would confirm, and their starts.

        Each start names its root. The answer may contain runs of other nodes.
        """
        ...
