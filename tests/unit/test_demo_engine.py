"""The demo engine walks a real bamboo tree."""

import asyncio
import json
from importlib.resources import files
from typing import Any

import pytest

from node_timeout.domain.errors import NodeRunSupersededError
from node_timeout.domain.run import NodeRun, TimedOutNode
from node_timeout.embedded.demo.engine import DemoEngine
from tests.support import wait_until


def tree() -> Any:
    return json.loads((files("node_timeout.embedded.demo") / "pipeline.json").read_text())


def timed_out(node_id: str, version: str) -> TimedOutNode:
    return TimedOutNode(
        node_id=node_id,
        version=version,
        root_pipeline_id="r",
        action="forced_fail",
        deadline=0.0,
        attempt=1,
    )


class Events:
    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []

    async def started(self, run: NodeRun) -> None:
        self.seen.append(("started", f"{run.node_id}_{run.version}"))

    async def left(self, run: NodeRun) -> None:
        self.seen.append(("left", f"{run.node_id}_{run.version}"))


async def test_a_tree_runs_to_its_end_sub_process_and_branches_included() -> None:
    engine, events = DemoEngine(), Events()
    await engine.run(tree(), {}, on_started=events.started, on_left=events.left)
    assert {node.state for node in engine.nodes.values()} == {"FINISHED"}
    assert len(engine.nodes) == 7
    assert events.seen[0] == ("started", "fetch_orders_1")
    assert events.seen[-1] == ("left", "close_books_1")
    assert events.seen.index(("left", "render_pages_1")) < events.seen.index(
        ("started", "upload_pages_1")
    )


async def test_a_node_is_failed_skipped_and_retried_at_its_version_only() -> None:
    engine, events = DemoEngine(), Events()
    durations = {"fetch_orders": [60.0, 60.0]}
    running = asyncio.create_task(
        engine.run(tree(), durations, on_started=events.started, on_left=events.left)
    )
    await wait_until(lambda: events.seen)
    first, second = timed_out("fetch_orders", "1"), timed_out("fetch_orders", "2")
    assert await engine.is_running(first)
    assert not await engine.is_running(second)
    with pytest.raises(NodeRunSupersededError):
        await engine.forced_fail(second, "early")
    assert await engine.forced_fail(first, "late") == "failed"
    with pytest.raises(NodeRunSupersededError):
        await engine.forced_fail(first, "again")
    await wait_until(lambda: ("left", "fetch_orders_1") in events.seen)
    engine.retry("fetch_orders")
    with pytest.raises(NodeRunSupersededError):
        engine.retry("fetch_orders")
    await wait_until(lambda: engine.nodes["fetch_orders"].version == 2)
    assert await engine.forced_fail_and_skip(second, "late") == "failed and skipped"
    await asyncio.wait_for(running, 5)
    await engine.close()
