"""A workflow engine for tests: it runs what it is told, and notes what is done to it."""

from collections.abc import Callable, Iterable

from node_timeout.domain.errors import NodeRunSupersededError
from node_timeout.domain.run import Node, NodeRun, TimedOutNode


class FakeEngine:
    """See `node_timeout.ports.engine.Engine`. Of each node one version runs at a time.

    A second call for a run that was failed or skipped is refused as for any that has moved on.
    """

    def __init__(self, running: Iterable[NodeRun] = ()) -> None:
        self.versions: dict[Node, str] = {}
        """What runs."""
        self.start(*running)
        self.failed: list[NodeRun] = []
        self.skipped: list[NodeRun] = []
        self.reasons: list[str] = []
        self.asked: list[TimedOutNode] = []
        self.errors: list[Exception] = []
        """Raised one after the other by the next calls that act."""
        self.acted: Callable[[TimedOutNode], None] = lambda _node: None
        """Called in the same step as an effect."""

    def start(self, *runs: NodeRun) -> None:
        """These run now; another version of the same node does not any more."""
        self.versions.update({each.node: each.version for each in runs})

    async def is_running(self, node: TimedOutNode) -> bool:
        self.asked.append(node)
        return self.versions.get(node.run.node) == node.version

    async def forced_fail(self, node: TimedOutNode, reason: str) -> str:
        self._act(node, reason)
        self.failed.append(node.run)
        return "failed"

    async def forced_fail_and_skip(self, node: TimedOutNode, reason: str) -> str:
        self._act(node, reason)
        self.skipped.append(node.run)
        return "failed and skipped"

    def _act(self, node: TimedOutNode, reason: str) -> None:
        if self.errors:
            raise self.errors.pop(0)
        if self.versions.get(node.run.node) != node.version:
            raise NodeRunSupersededError("moved on")
        del self.versions[node.run.node]
        self.reasons.append(reason)
        self.acted(node)

    async def close(self) -> None:
        return
