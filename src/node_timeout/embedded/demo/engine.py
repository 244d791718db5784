"""The demo's engine: runs a bamboo pipeline tree in this process, each node for a given time.

Nodes only wait, but their states and versions change as in a real engine:

    RUNNING ──duration over──▶ FINISHED
       └──forced fail──▶ FAILED ──skip──▶ FINISHED (the pipeline goes on)
                            └────retry──▶ RUNNING (a new version)
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from node_timeout.domain.errors import NodeRunSupersededError
from node_timeout.domain.run import NodeRun, TimedOutNode


@dataclass(slots=True, kw_only=True)
class DemoNode:
    """One node as the engine knows it."""

    state: str = "CREATED"
    version: int = 0
    durations: list[float] = field(default_factory=list)
    """Duration of each version, in seconds; the last one is also that of all further versions."""
    skipped: bool = False
    decided: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when something other than the node's own end has changed its state."""

    def duration(self) -> float:
        return self.durations[min(self.version, len(self.durations)) - 1] if self.durations else 0.0


Started = Callable[[NodeRun], Awaitable[None]]
Left = Callable[[NodeRun], Awaitable[None]]


class DemoEngine:
    """See `node_timeout.ports.Engine`. `run` plays a tree."""

    def __init__(self) -> None:
        self.nodes: dict[str, DemoNode] = {}

    async def run(
        self,
        tree: Mapping[str, Any],
        durations: Mapping[str, list[float]],
        *,
        on_started: Started,
        on_left: Left,
    ) -> None:
        """Walk the tree from its start event to its end.

        ``durations`` maps node ids to seconds, one entry per version. A failed node blocks its
        branch until it is skipped or retried; if neither happens, cancel the walk.
        """
        await _Play(self, str(tree["id"]), durations, on_started, on_left).pipeline(tree)

    async def is_running(self, node: TimedOutNode) -> bool:
        known = self.nodes.get(node.node_id)
        return known is not None and known.state == "RUNNING" and str(known.version) == node.version

    async def forced_fail(self, node: TimedOutNode, reason: str) -> str:
        del reason
        self._fail(node)
        return "failed"

    async def forced_fail_and_skip(self, node: TimedOutNode, reason: str) -> str:
        del reason
        self._fail(node).skipped = True
        return "failed and skipped"

    async def close(self) -> None:
        return

    def retry(self, node_id: str) -> None:
        """Run a failed node again, like an operator."""
        node = self.nodes[node_id]
        if node.state != "FAILED":
            raise NodeRunSupersededError(f"node {node_id!r} is {node.state}, not FAILED")
        node.state = "READY"
        node.decided.set()

    def _fail(self, timed_out: TimedOutNode) -> DemoNode:
        node = self.nodes.get(timed_out.node_id)
        if node is None or str(node.version) != timed_out.version or node.state != "RUNNING":
            raise NodeRunSupersededError("no longer running at this version")
        node.state = "FAILED"
        node.decided.set()
        return node


class _Play:
    """One walk through a tree."""

    def __init__(
        self,
        engine: DemoEngine,
        root: str,
        durations: Mapping[str, list[float]],
        on_started: Started,
        on_left: Left,
    ) -> None:
        self._engine = engine
        self._root = root
        self._durations = durations
        self._on_started = on_started
        self._on_left = on_left

    async def pipeline(self, tree: Mapping[str, Any]) -> None:
        start = tree["start_event"]
        await self._branch(tree, start["outgoing"])

    async def _branch(self, tree: Mapping[str, Any], flow: str) -> str | None:
        """Follow one flow; return the flow behind the converge gateway where it ends, if any."""
        while True:
            target = tree["flows"][flow]["target"]
            if target in tree["gateways"]:
                gateway = tree["gateways"][target]
                if gateway["type"] == "ConvergeGateway":
                    return str(gateway["outgoing"])
                branches = [self._branch(tree, each) for each in gateway["outgoing"]]
                flow = next(filter(None, await asyncio.gather(*branches)))
            elif target in tree["activities"]:
                activity = tree["activities"][target]
                if activity["type"] == "SubProcess":
                    await self.pipeline(activity["pipeline"])
                else:
                    await self._node(target)
                flow = activity["outgoing"]
            else:
                return None

    async def _node(self, node_id: str) -> None:
        """Run one node, version after version, until it is finished or skipped."""
        node = DemoNode(durations=list(self._durations.get(node_id, [])))
        self._engine.nodes[node_id] = node
        while True:
            node.version += 1
            node.state = "RUNNING"
            node.decided.clear()
            run = NodeRun(root_pipeline_id=self._root, node_id=node_id, version=str(node.version))
            await self._on_started(run)
            try:
                await asyncio.wait_for(node.decided.wait(), node.duration())
            except TimeoutError:
                node.state = "FINISHED"
            await self._on_left(run)
            if node.state == "FINISHED" or node.skipped:
                node.state = "FINISHED"
                return
            while node.state == "FAILED":
                node.decided.clear()
                await node.decided.wait()
