"""A workflow engine for tests: it runs what the test starts, and records the calls."""

from collections.abc import Callable, Iterable

from node_timeout.domain.errors import NodeRunSupersededError
from node_timeout.domain.run import Node, NodeRun, TimedOutNode


class FakeEngine:
    """See `node_timeout.ports.engine.Engine`. Each node runs in one version at a time.

    A second call for a failed or skipped run is refused, as for any run that has moved on.
    """

    def __init__(self, running: Iterable[NodeRun] = ()) -> None:
        self.versions: dict[Node, str] = {}
        """The running version of each node."""
        self.start(*running)
        self.failed: list[NodeRun] = []
        self.skipped: list[NodeRun] = []
        self.reasons: list[str] = []
        self.asked: list[TimedOutNode] = []
        self.errors: list[Exception] = []
        """Errors that the next acting calls raise, one each, in order."""
        self.acted: Callable[[TimedOutNode], None] = lambda _node: None
        """Called in the same step in which a call takes effect."""

    def start(self, *runs: NodeRun) -> None:
        """Let these runs run; other versions of the same nodes no longer run."""
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
