"""A workflow engine for tests: it runs what it is told, and notes what is done to it."""

from collections.abc import Callable, Iterable

from node_timeout.domain.errors import NodeRunSupersededError
from node_timeout.domain.run import NodeRun, TimedOutNode


class FakeEngine:
    """A workflow engine that keeps the version of each node and notes what is done to it."""

    def __init__(self, running: Iterable[NodeRun] = ()) -> None:
        self.versions = {each.node_id: each.version for each in running}
        self.failed: list[NodeRun] = []
        self.skipped: list[NodeRun] = []
        self.asked: list[TimedOutNode] = []
        self.reasons: list[str] = []
        self.errors: list[Exception] = []
        """Raised one after the other by the next calls that act."""
        self.acted: Callable[[TimedOutNode], None] = lambda _node: None
        """Called in the same step as an effect."""

    async def is_running(self, node: TimedOutNode) -> bool:
        self.asked.append(node)
        return self.versions.get(node.node_id) == node.version

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
        if self.versions.get(node.node_id) != node.version:
            raise NodeRunSupersededError("moved on")
        del self.versions[node.node_id]
        self.reasons.append(reason)
        self.acted(node)

    async def close(self) -> None:
        return
