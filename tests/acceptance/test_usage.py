"""The usage of the original, in the new form, with a tree from bamboo's own builder."""

import asyncio
import json
from importlib.resources import files
from typing import Any

import pytest

from node_timeout import (
    BlockingNodeTimeout,
    apply_node_timeout_configs,
    batch_create_node_timeout_config,
)
from node_timeout.settings import Settings
from tests.acceptance.conftest import EngineSide, Start, environment
from tests.support import wait_until


def bamboo_tree() -> dict[str, Any]:
    """A tree as bamboo's own builder wrote it; ``upload_pages`` is inside a sub-process."""
    tree: dict[str, Any] = json.loads(
        (files("node_timeout.embedded.demo") / "pipeline.json").read_text()
    )
    return tree


async def test_apply_create_start_and_see_the_right_nodes_dealt_with(
    settings: Settings,
    start: Start,
    engine_side: EngineSide,
    blocking: BlockingNodeTimeout,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in environment(settings).items():
        monkeypatch.setenv(name, value)
    tree = bamboo_tree()
    overrun, inner, in_time = "poll_supplier", "upload_pages", "fetch_orders"
    configs = {
        overrun: {"enable": True, "action": "forced_fail", "seconds": 1},
        inner: {"enable": True, "action": "forced_fail_and_skip", "seconds": "1"},
        in_time: {"enable": True, "action": "forced_fail", "seconds": 1},
    }
    new_tree = apply_node_timeout_configs(tree, configs)
    result = batch_create_node_timeout_config(tree["id"], new_tree)
    assert (result["result"], result["message"]) == (True, "")
    assert {each.node_id for each in result["data"]} == {overrun, inner, in_time}
    assert batch_create_node_timeout_config(tree["id"], new_tree)["result"], "again: an update"

    scan, worker = start("scan"), start("worker")
    await engine_side.run((overrun, "v1"), (inner, "v1"), (in_time, "v1"))
    assert blocking.nodes_started([(overrun, "v1"), (inner, "v1"), (in_time, "v1")]) == 3
    assert blocking.node_left(in_time, "v1") == 1

    async def both_dealt_with() -> bool:
        return len(await engine_side.effects()) == 2

    await wait_until(both_dealt_with, 15)
    assert await engine_side.effect_of(overrun) == "failed"
    assert await engine_side.effect_of(inner) == "skipped"
    assert await engine_side.effect_of(in_time) is None
    for effect in await engine_side.effects():
        assert float(effect["at"]) >= float(effect["deadline"]), "never early"
    assert (scan.stop(), worker.stop()) == (0, 0)
    states = {row.state for node_id in (overrun, inner) for row in blocking.rows(node_id)}
    assert states == {"handled"}
    assert [row.state for row in blocking.rows(in_time)] == ["cancelled"]


async def test_a_strategy_of_another_package_runs_on_its_own_queue_in_its_own_worker(
    settings: Settings, start: Start, engine_side: EngineSide, redis: Any, names: dict[str, str]
) -> None:
    pages = names["dispatch_queue"] + "-pages"
    changes = {name: getattr(settings, name) for name in settings.model_fields_set}
    settings = Settings(**{**changes, "handle_queues": {"page_operator": pages}})
    env = environment(settings)
    start("scan", env=env)
    general = start("worker", env=env)
    pager = start("worker", "--queue", pages, env=env)
    tree = {
        "activities": {
            "a": {"type": "ServiceActivity", "timeout_config": timeout("page_operator")},
            "b": {"type": "ServiceActivity", "timeout_config": timeout("forced_fail")},
        }
    }
    # This process has the package as well, on its path only for the call.
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(env["PYTHONPATH"]))
        with BlockingNodeTimeout(settings) as blocking:
            assert blocking.batch_create_node_timeout_config("root", tree)["result"]
            await engine_side.run(("a", "v1"), ("b", "v1"))
            blocking.nodes_started([("a", "v1"), ("b", "v1")])

    async def both() -> bool:
        return await engine_side.listed("pages") == ["a"] and bool(await engine_side.effects())

    await wait_until(both, 15)
    # A worker says so after the call.
    await asyncio.to_thread(pager.wait_for, "node a version v1: handled")
    await asyncio.to_thread(general.wait_for, "node b version v1: handled")
    assert "node a version v1" not in general.output
    assert (general.stop(), pager.stop()) == (0, 0)


def timeout(action: str, seconds: float = 0.5) -> dict[str, Any]:
    return {"enable": True, "action": action, "seconds": seconds}
