"""Words that many tests use."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from node_timeout.domain.errors import NodeRunSupersededError
from node_timeout.domain.events import NodeLeft, NodeStarted
from node_timeout.domain.run import (
    DueRun,
    ForeignRun,
    LedgerRow,
    NodeRun,
    RunState,
    TimedOutNode,
)
from node_timeout.domain.timeout_config import TimeoutConfig
from node_timeout.ports.ledger import Ledger
from node_timeout.stores.sql.run_rows import values_of

ROOT = "root"
"""The root pipeline of a node, where a test names none."""


def run(node_id: str, version: str = "v1", root: str = ROOT) -> NodeRun:
    return NodeRun(root_pipeline_id=root, node_id=node_id, version=version)


def id_of(node_id: str, version: str = "v1", root: str = ROOT) -> str:
    return run(node_id, version, root).run_id


def due(node_id: str, due_at: float, version: str = "v1") -> DueRun:
    return DueRun(run_id=id_of(node_id, version), due_at=due_at)


def names_of(found: Iterable[DueRun], names: Iterable[str], version: str = "v1") -> list[str]:
    """Which of the nodes of these names were found, in the order in which they were."""
    known = {id_of(name, version): name for name in names}
    return [known[each.run_id] for each in found]


def foreign(node_id: str, version: str = "v1", due_at: float = 0.0) -> ForeignRun:
    return ForeignRun(node_id=node_id, version=version, due_at=due_at)


def started(runs: Iterable[NodeRun], happened_at: float | None = None) -> list[NodeStarted]:
    return [NodeStarted.of(each, happened_at=happened_at) for each in runs]


def left(
    node_ids: Iterable[str], version: str | None = None, happened_at: float | None = None
) -> list[NodeLeft]:
    return [gone(each, version, happened_at=happened_at) for each in node_ids]


def gone(node_id: str, version: str | None = None, root: str = ROOT, **more: Any) -> NodeLeft:
    return NodeLeft(node_id=node_id, version=version, root_pipeline_id=root, **more)


def config(
    node_id: str, seconds: float = 10.0, action: str = "forced_fail", root: str = ROOT
) -> TimeoutConfig:
    return TimeoutConfig(node_id=node_id, root_pipeline_id=root, action=action, timeout=seconds)


def tree_of(*node_ids: str, **timeout_config: Any) -> dict[str, Any]:
    """A tree whose nodes have the same timeout config."""
    default = {"enable": True, "action": "forced_fail", "seconds": 10}
    return {
        "activities": {
            node_id: {
                "id": node_id,
                "type": "ServiceActivity",
                "timeout_config": {**default, **timeout_config},
            }
            for node_id in node_ids
        }
    }


async def configure(ledger: Ledger, *configs: TimeoutConfig) -> None:
    await ledger.save_configs("root", configs, [])


async def wait_until(
    condition: Callable[[], Awaitable[Any] | Any], time_limit: float = 10.0
) -> None:
    """Return once the condition holds; fail with the test if it does not in time."""
    until = time.monotonic() + time_limit
    while True:
        found = condition()
        if isinstance(found, Awaitable):
            found = await found
        if found:
            return
        assert time.monotonic() < until, f"not within {time_limit} s"
        await asyncio.sleep(0.01)


class RecordingEngine:
    """A workflow engine that keeps the version of each node and notes what is done to it."""

    def __init__(self, running: Iterable[NodeRun] = ()) -> None:
        self.versions = {each.node_id: each.version for each in running}
        self.failed: list[NodeRun] = []
        self.skipped: list[NodeRun] = []
        self.asked: list[TimedOutNode] = []
        self.errors: list[Exception] = []
        """Raised one after the other by the next calls that act."""
        self.acted: Callable[[TimedOutNode], None] = lambda _node: None
        """Called in the same step as an effect."""

    async def is_running(self, node: TimedOutNode) -> bool:
        self.asked.append(node)
        return self.versions.get(node.node_id) == node.version

    async def forced_fail(self, node: TimedOutNode, reason: str) -> str:
        assert node.node_id in reason
        self._act(node)
        self.failed.append(node.run)
        return "failed"

    async def forced_fail_and_skip(self, node: TimedOutNode, reason: str) -> str:
        assert node.node_id in reason
        self._act(node)
        self.skipped.append(node.run)
        return "failed and skipped"

    def _act(self, node: TimedOutNode) -> None:
        if self.errors:
            raise self.errors.pop(0)
        if self.versions.get(node.node_id) != node.version:
            raise NodeRunSupersededError("moved on")
        del self.versions[node.node_id]
        self.acted(node)

    async def close(self) -> None:
        return


def armed_row(
    run: NodeRun, config: TimeoutConfig | None, started_at: float | None, deadline: float
) -> dict[str, Any]:
    """The columns of an armed run."""
    return values_of(
        LedgerRow(
            root_pipeline_id=run.root_pipeline_id,
            node_id=run.node_id,
            version=run.version,
            action=config.action if config else None,
            state=RunState.ARMED,
            started_at=started_at,
            deadline=deadline,
            next_at=deadline,
        )
    )
