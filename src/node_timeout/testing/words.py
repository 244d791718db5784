"""Short helpers for tests: runs, events, configs, trees."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from node_timeout.domain.config_check import payload_text
from node_timeout.domain.events import NodeLeft, NodeStarted
from node_timeout.domain.run import DueRun, ForeignRun, NodeRun, TimedOutNode
from node_timeout.domain.timeout_config import TimeoutConfig
from node_timeout.ports.ledger import Ledger

ROOT = "root"
"""The root pipeline of a node if a test names none."""


def run(node_id: str, version: str = "v1", root: str = ROOT) -> NodeRun:
    return NodeRun(root_pipeline_id=root, node_id=node_id, version=version)


def id_of(node_id: str, version: str = "v1", root: str = ROOT) -> str:
    return run(node_id, version, root).run_id


def timed_out(
    node_id: str, version: str = "v1", root: str = ROOT, *, attempt: int = 1, deadline: float = 0.0
) -> TimedOutNode:
    """A timed-out node, as a strategy receives it."""
    return TimedOutNode(
        node_id=node_id,
        version=version,
        root_pipeline_id=root,
        action="forced_fail",
        deadline=deadline,
        attempt=attempt,
    )


def due(node_id: str, due_at: float, version: str = "v1") -> DueRun:
    return DueRun(run_id=id_of(node_id, version), due_at=due_at)


def names_of(found: Iterable[DueRun], names: Iterable[str], version: str = "v1") -> list[str]:
    """Which of these nodes were found, in the order of ``found``."""
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
    node_id: str,
    seconds: float = 10.0,
    action: str = "forced_fail",
    root: str = ROOT,
    payload: Any = None,
) -> TimeoutConfig:
    return TimeoutConfig(
        node_id=node_id,
        root_pipeline_id=root,
        action=action,
        timeout=seconds,
        payload_json=payload_text(payload),
    )


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
    await ledger.save_configs(configs, [])


async def wait_until(
    condition: Callable[[], Awaitable[Any] | Any], time_limit: float = 10.0
) -> None:
    """Return once the condition holds; fail the test if it does not hold in time."""
    until = time.monotonic() + time_limit
    while True:
        found = condition()
        if isinstance(found, Awaitable):
            found = await found
        if found:
            return
        assert time.monotonic() < until, f"not within {time_limit} s"
        await asyncio.sleep(0.01)
