"""Processes are killed between two side effects, and asked to stop under load: nothing is lost."""

import asyncio
import signal
import subprocess
import sys
from typing import Any

import pytest

from node_timeout import NodeTimeout
from node_timeout.domain.history import HistoryKind
from node_timeout.domain.run import RunState
from node_timeout.settings import Settings
from tests.acceptance.conftest import EngineSide, Start, environment
from tests.support import config, id_of, tree_of, wait_until

# Runs the real method up to the named line's effect, then dies as by `kill -9`.
DIE_INSTEAD_OF = """
import os, signal
from {module} import {cls}
async def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)
{cls}.{method} = die
"""
DIE_AFTER = """
import os, signal
from {module} import {cls}
real = {cls}.{method}
async def die(*args, **kwargs):
    await real(*args, **kwargs)
    os.kill(os.getpid(), signal.SIGKILL)
{cls}.{method} = die
"""
POOL = {"module": "node_timeout.stores.redis.pool", "cls": "RedisShard"}
LEDGER = {"module": "node_timeout.stores.sql.ledger", "cls": "SqlLedger"}
EXCHANGE = {"module": "node_timeout.stores.rabbitmq.exchange", "cls": "RabbitExchange"}
DELIVERY = {"module": "node_timeout.stores.rabbitmq.consumer", "cls": "RabbitDelivery"}


async def arm(app: NodeTimeout, engine_side: EngineSide, *node_ids: str, seconds: float) -> None:
    result = await app.batch_create_node_timeout_config("root", tree_of(*node_ids, seconds=seconds))
    assert result["result"], result["message"]
    await engine_side.run(*((node_id, "v1") for node_id in node_ids))
    assert await app.nodes_started([(node_id, "v1") for node_id in node_ids]) == len(node_ids)


async def settled(app: NodeTimeout, count: int) -> bool:
    """Every run is closed in the ledger and nothing waits anywhere."""
    counts = await app.ledger.counts(await app.pool.now())
    return (
        sum(counts.last_hour.values()) == count
        and counts.executing == 0
        and (await app.pool.counts()).armed == 0
    )


@pytest.mark.parametrize(
    ("fault", "where"),
    [
        (DIE_AFTER, POOL | {"method": "claim"}),
        (DIE_AFTER, EXCHANGE | {"method": "publish"}),
        (DIE_INSTEAD_OF, POOL | {"method": "finish"}),
        (DIE_AFTER, POOL | {"method": "finish"}),
    ],
    ids=["after the claim", "after the publish", "before the finish", "after the finish"],
)
async def test_a_scanner_killed_at_a_step_loses_and_repeats_nothing(
    app: NodeTimeout,
    engine_side: EngineSide,
    start: Start,
    settings: Settings,
    fault: str,
    where: dict[str, str],
) -> None:
    nodes = [f"n{i}" for i in range(20)]
    changes = {name: getattr(settings, name) for name in settings.model_fields_set}
    await arm(app, engine_side, *nodes, seconds=0.2)
    # What is published twice may be put off until the lease of the worker that has it ends.
    start("worker", env=environment(Settings(**{**changes, "worker_lease": 4})))
    doomed = start("scan", code=fault.format(**where), ready="")
    assert doomed.wait() == -9
    start("scan")
    await wait_until(lambda: settled(app, 20), 20)
    assert [await engine_side.effect_of(node) for node in nodes] == ["failed"] * 20


@pytest.mark.parametrize(
    ("fault", "where", "states"),
    [
        (DIE_AFTER, LEDGER | {"method": "take"}, {RunState.HANDLED}),
        (DIE_INSTEAD_OF, LEDGER | {"method": "record"}, {RunState.HANDLED, RunState.STALE}),
        (DIE_AFTER, LEDGER | {"method": "record"}, {RunState.HANDLED, RunState.STALE}),
        (DIE_INSTEAD_OF, DELIVERY | {"method": "ack"}, {RunState.HANDLED, RunState.STALE}),
    ],
    ids=["after the take", "before the record", "after the record", "before the ack"],
)
async def test_a_worker_killed_at_a_step_loses_and_repeats_nothing(
    app: NodeTimeout,
    engine_side: EngineSide,
    start: Start,
    settings: Settings,
    fault: str,
    where: dict[str, str],
    states: set[RunState],
) -> None:
    """Where the engine was called and nothing recorded, it says so when asked again: stale."""
    nodes = [f"n{i}" for i in range(20)]
    await arm(app, engine_side, *nodes, seconds=0.2)
    start("scan")
    changes = {name: getattr(settings, name) for name in settings.model_fields_set}
    env = environment(Settings(**{**changes, "strategy_timeout": 0.2, "worker_lease": 1.5}))
    doomed = start("worker", code=fault.format(**where), env=env, ready="")
    assert doomed.wait() == -9
    # With time enough, however slow the machine: it closes what it deals with. What is published
    # twice may be put off until its lease ends.
    start("worker", env=environment(Settings(**{**changes, "worker_lease": 10})))
    await wait_until(lambda: settled(app, 20), 30)
    assert [await engine_side.effect_of(node) for node in nodes] == ["failed"] * 20
    assert set((await app.ledger.counts(await app.pool.now())).last_hour) <= states


async def test_workers_killed_at_random_under_load_lose_and_repeat_nothing(
    app: NodeTimeout, engine_side: EngineSide, start: Start, settings: Settings
) -> None:
    nodes = [f"n{i}" for i in range(600)]
    changes = {name: getattr(settings, name) for name in settings.model_fields_set}
    env = environment(Settings(**{**changes, "worker_lease": 4}))
    await arm(app, engine_side, *nodes, seconds=0.5)
    start("scan")
    for _ in range(4):
        victim = start("worker", env=env)
        await asyncio.sleep(0.15)
        victim.kill()
    start("worker", env=env)
    await wait_until(lambda: settled(app, 600), 40)
    assert len(await engine_side.effects()) == 600
    assert {each["node_id"] for each in await engine_side.effects()} == set(nodes)


async def test_a_worker_killed_in_an_hour_long_strategy_is_made_up_for_within_its_lease(
    app: NodeTimeout, engine_side: EngineSide, start: Start, settings: Settings
) -> None:
    """The strategy's time limit has nothing to do with it."""
    changes = {name: getattr(settings, name) for name in settings.model_fields_set}
    env = environment(Settings(**{**changes, "strategy_timeout": 3600, "worker_lease": 3}))
    await app.ledger.save_configs([config("slow", 0.1, "hang")], [])
    await engine_side.run(("slow", "v1"))
    await app.node_started("slow", "v1")
    start("scan", env=env)
    doomed = start("worker", env=env)

    async def hanging() -> list[str]:
        return await engine_side.listed("hanging")

    await wait_until(hanging, 15)
    doomed.kill()
    (row,) = await app.rows("slow")
    killed_at = await app.pool.now()
    start("worker", env=env)
    await wait_until(lambda: settled(app, 1), 20)
    (row,) = await app.rows("slow")
    assert (row.state, row.attempts) == (RunState.HANDLED, 2)
    assert row.finished_at is not None
    assert row.finished_at < killed_at + 3 + 5, "its lease, and what the strategy itself takes"
    assert [entry.kind for entry in await app.history([id_of("slow")])] == [HistoryKind.TAKEN_OVER]


async def test_both_stop_cleanly_under_load_and_others_go_on(
    app: NodeTimeout, engine_side: EngineSide, start: Start
) -> None:
    nodes = [f"n{i}" for i in range(400)]
    await arm(app, engine_side, *nodes, seconds=0.3)
    first_scan, first_worker = start("scan"), start("worker")
    await wait_until(engine_side.effects, 15)
    assert first_scan.stop() == 0
    assert first_worker.stop() == 0
    assert "stopped" in first_worker.output
    counts = await app.ledger.counts(await app.pool.now())
    assert counts.executing == 0, "a clean stop leaves nothing half done"
    start("scan")
    start("worker")
    await wait_until(lambda: settled(app, 400), 30)
    assert len(await engine_side.effects()) == 400


async def test_a_worker_asked_to_stop_finishes_the_strategy_in_flight(
    app: NodeTimeout, engine_side: EngineSide, start: Start
) -> None:
    await app.ledger.save_configs([config("slow", 0.1, "hang")], [])
    await engine_side.run(("slow", "v1"))
    await app.node_started("slow", "v1")
    start("scan")
    worker = start("worker")

    async def hanging() -> Any:
        return await engine_side.listed("hanging")

    await wait_until(hanging, 15)
    assert worker.stop() == 0
    assert await engine_side.effect_of("slow") == "failed"
    assert [row.state for row in await app.rows("slow")] == [RunState.HANDLED]


ENGINE_PROCESS = """
import asyncio, sys
from node_timeout import NodeTimeout
async def main():
    async with NodeTimeout() as app:
        await app.nodes_started([(name, "v1") for name in sys.argv[1:]])
asyncio.run(main())
"""


async def test_an_engine_killed_between_the_commit_and_the_pool_costs_seconds(
    app: NodeTimeout, engine_side: EngineSide, start: Start, settings: Settings
) -> None:
    """The deadline is shorter than the reconciler's rest: the sweep first sees it overdue."""
    nodes = [f"n{i}" for i in range(5)]
    result = await app.batch_create_node_timeout_config("root", tree_of(*nodes, seconds=1))
    assert result["result"], result["message"]
    await engine_side.run(*((node_id, "v1") for node_id in nodes))
    start("scan")
    start("worker")
    killed = subprocess.run(
        [
            sys.executable,
            "-c",
            DIE_INSTEAD_OF.format(**POOL, method="add") + ENGINE_PROCESS,
            *nodes,
        ],
        env=environment(settings),
        check=False,
        timeout=30,
    )
    assert killed.returncode == -signal.SIGKILL
    assert {(await app.rows(node_id))[0].state for node_id in nodes} == {RunState.ARMED}
    await wait_until(lambda: settled(app, 5), 30)
    assert [await engine_side.effect_of(node) for node in nodes] == ["failed"] * 5
