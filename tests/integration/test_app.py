"""The library API: status, replay, wiring."""

import asyncio
import json
import math
import time
import uuid
from typing import Any

import pytest

from node_timeout import NodeTimeout, TimeoutConfig, apply_node_timeout_configs
from node_timeout.domain.errors import (
    AmbiguousNodeError,
    InvalidInputError,
    InvalidTimeoutConfigError,
    NodeTimeoutError,
    SettingsError,
)
from node_timeout.domain.events import NodeStarted
from node_timeout.domain.run import Outcome, RunState
from node_timeout.engines.registry import load_engine
from node_timeout.runtime.loop import Health
from node_timeout.runtime.serving import _alive
from node_timeout.settings import Settings
from node_timeout.stores.memory.exchange import MemoryExchange
from tests.servers import RedisServer
from tests.support import absent, config, configure, gone, run, started, tree_of

PLAIN = {"activities": {"a": {"type": "ServiceActivity"}}}
GOOD = {"enable": True, "action": "forced_fail", "seconds": 5}


async def test_status_looks_at_every_store(settings: Settings) -> None:
    async with NodeTimeout(settings) as app:
        await configure(app.ledger, config("a", 50))
        await app.node_started("a", "v1")
        status = await app.status()
        assert (status.armed, status.ledger_armed, status.dead) == (1, 1, 0)
        assert status.queues == {
            settings.dispatch_queue: 0,
            f"{settings.dispatch_queue}.dead": 0,
        }
        assert status.unreachable == ()
        assert status.as_dict()["recent"] == ()


async def test_dead_runs_are_replayed_in_the_pool_too(settings: Settings) -> None:
    async with NodeTimeout(settings) as app:
        await configure(app.ledger, config("a", 1), config("b", 1))
        now = await app.pool.now()
        due = await app.ledger.arm(started([run("a"), run("b")]), now - 9)
        taking = await app.ledger.take(due, now=now, lease_seconds=9, max_attempts=1)
        outcomes = [Outcome(node=node, state=RunState.DEAD) for node in taking.taken]
        await app.ledger.record(outcomes, owner=taking.owner, now=now)
        assert (await app.replay(node_id="a")).done == 1
        assert (await app.replay(root_pipeline_id="root")).done == 1
        assert (await app.replay(everything=True)).runs == ()
        assert (await app.pool.counts()).overdue == 2


async def test_configs_are_checked_against_the_objects_own_settings(settings: Settings) -> None:
    app = NodeTimeout(Settings(max_seconds=3))
    with pytest.raises(InvalidTimeoutConfigError, match="at most 3"):
        app.apply_node_timeout_configs(PLAIN, {"a": GOOD})
    assert (
        apply_node_timeout_configs(PLAIN, {"a": GOOD})["activities"]["a"]["timeout_config"] == GOOD
    )


async def test_the_configs_of_many_pipelines_are_stored_in_one_call(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    bad = tree_of("x", action="nobody's")
    async with NodeTimeout(settings) as app:
        refused = await app.batch_create_node_timeout_configs({"c": tree_of("a", "b"), "d": bad})
        assert (refused["result"], refused["data"]) == (False, [])
        assert refused["message"].startswith("root pipeline 'd': node 'x': action")
        assert await app.ledger.configured(None, 9) == [], "all or none"
        assert caplog.messages == [], "the caller is told"
        stored = await app.batch_create_node_timeout_configs(
            {"c": tree_of("a", "b"), "d": bad, "e": [], "f": tree_of("a")}, lenient=True
        )
        assert stored["result"]
        assert [node.node for node in stored["data"]] == [("c", "a"), ("c", "b"), ("f", "a")]
        assert "root pipeline 'd': node 'x': action" in stored["message"]
        assert "root pipeline 'e': " in stored["message"]
        assert [each[:17] for each in caplog.messages] == ["root pipeline 'd'", "root pipeline 'e'"]
        assert await app.ledger.configured(None, 9) == [("c", "a"), ("c", "b"), ("f", "a")]
        for nonsense in ((), None, "c"):
            said = await app.batch_create_node_timeout_configs(nonsense)
            assert not said["result"]
            assert "not a dict by root pipeline id" in said["message"]
        assert await app.forget("c", ["b", "x"]) == 1
        assert await app.ledger.configured(None, 9) == [("c", "a"), ("f", "a")]
        for wrong in ("a", [7], [" "]):
            with pytest.raises(InvalidInputError, match=r"node.id"):
                await app.forget("c", wrong)  # type: ignore[arg-type]
        assert await app.forget("c") == 1


async def test_a_node_without_a_root_is_never_guessed(settings: Settings) -> None:
    async with NodeTimeout(settings) as app:
        for root in ("c", "d"):
            await app.batch_create_node_timeout_config(root, tree_of("deploy", f"only {root}"))
        assert await app.nodes_started([("deploy", "1", "c"), ("deploy", "1", "d")]) == 2
        with pytest.raises(AmbiguousNodeError, match="'c' and 'd' among them"):
            await app.nodes_started([("only c", "1"), ("deploy", "2")])
        assert await app.rows("only c") == [], "none of a batch that is refused"
        with pytest.raises(AmbiguousNodeError, match="'c' and 'd' among them"):
            await app.nodes_left([("deploy", None), ("only c", None)])
        assert await app.node_started("only c", "1")
        assert await app.node_left("deploy", "1", "d") == 1
        assert not await app.node_started("stranger", "1")
        assert await app.node_left("stranger") == 0
        assert await app.node_left("only c", "1") == 1
        assert [row.root_pipeline_id for row in await app.rows("only c")] == ["c"]
        assert {row.root_pipeline_id: str(row.state) for row in await app.rows("deploy")} == {
            "c": "armed",
            "d": "cancelled",
        }


async def test_a_leaving_without_a_root_counts_open_runs_beside_configs(
    settings: Settings,
) -> None:
    """A stored config for one pipeline, and one that came with the start in another."""
    async with NodeTimeout(settings) as app:
        await app.batch_create_node_timeout_config("a", tree_of("deploy"))
        assert await app.node_started("deploy", "1", "a")
        brought = config("deploy", root="b")
        event = NodeStarted.of(run("deploy", "1", "b"), config=brought)
        await app.ledger.arm([event], await app.pool.now())
        for leave in (app.node_left, app.cancel):
            with pytest.raises(AmbiguousNodeError, match="'a' and 'b' among them"):
                await leave("deploy", "1")
        assert (await app.cancel("deploy", "1", "b")).done == 1
        assert await app.node_left("deploy", "1") == 1, "one is left"


async def test_what_only_the_pool_knows_is_cancelled_by_root_as_well(settings: Settings) -> None:
    async with NodeTimeout(settings) as app:
        await app.batch_create_node_timeout_config("a", tree_of("one", "two"))
        await app.batch_create_node_timeout_config("b", tree_of("two"))
        later = await app.pool.now() + 100
        await app.pool.give_back({"one_v1": later, "two_v1": later})
        assert (await app.cancel("one", "v1", "a")).done == 1
        assert (await app.cancel("two", "v1", "a")).done == 0, "whose it is nobody knows"
        assert await absent(app.pool, ["one_v1", "two_v1"]) == ["one_v1"]


async def test_questions_that_mean_nothing_are_refused(settings: Settings) -> None:
    async with NodeTimeout(settings) as app:
        questions: list[dict[str, Any]] = [
            {"state": "gone"},
            {"limit": 0},
            {"due_within": math.inf},
            {"due_within": math.nan},
            {"due_within": 5, "state": "dead"},
            {"after": (math.nan, "0" * 26)},
            {"after": (1.0, "Z" * 26)},
        ]
        for question in questions:
            with pytest.raises(InvalidInputError):
                await app.find(**question)
        with pytest.raises(InvalidInputError, match="'x' is no run id"):
            await app.history(["x"])


async def test_who_goes_back_finds_no_run_twice_and_none_of_ours(
    redis_server: RedisServer, any_database_url: str
) -> None:
    settings = Settings(
        database_url=any_database_url,
        redis_url=redis_server.url,
        executing_pool=f"back-{uuid.uuid4().hex}",
    )
    async with NodeTimeout(settings) as app:
        await configure(app.ledger, *(config(name, 300) for name in ("a", "b", "c", "d_1")))
        now = await app.pool.now()
        due = await app.ledger.arm(started([run(name) for name in ("a", "b", "c", "d_1")]), now)
        await app.pool.arm(due)
        await app.ledger.disarm([gone("c")], now)
        taken = [each for each in due if each.run_id == run("b").run_id]
        await app.ledger.take(
            taken, now=now, lease_seconds=5, max_attempts=3, ahead_seconds=999, owner="w"
        )
        with pytest.raises(NodeTimeoutError, match="a worker has runs in its hands"):
            await app.give_back()
        await app.ledger.renew([run("b").run_id], ["w"], now - 1)
        for _ in range(2):
            report = await app.give_back()
            assert report.given == 2
            (refused,) = report.refused
            assert refused.startswith("node 'd_1', version 'v1', has an underscore")
        claim = await app.pool.shards[0].claim(10, 1, 1000)
        assert {each.member for each in claim.members} == {"a_v1", "b_v1", run("c").run_id}


async def test_configs_end_with_their_root_pipeline_and_open_runs_go_on(
    settings: Settings,
) -> None:
    async with NodeTimeout(settings) as app:
        await app.batch_create_node_timeout_config("r", tree_of("a", "b"))
        assert await app.node_started("a", "1")
        assert await app.root_finished("r") == 2
        assert await app.ledger.purge_configs(await app.pool.now(), 9) == 0
        in_time = await app.pool.now() + app.settings.config_retention
        assert await app.ledger.purge_configs(in_time - 60, 9) == 0
        assert await app.ledger.purge_configs(in_time + 60, 9) == 2
        assert [str(row.state) for row in await app.rows("a")] == ["armed"]
        assert await app.node_left("a", "1") == 1, "found by its open run"
        await app.batch_create_node_timeout_config("r", tree_of("a", "b"))
        assert (await app.forget("r"), await app.forget("r")) == (2, 0)
        with pytest.raises(InvalidInputError, match="root pipeline id is empty"):
            await app.forget("")


async def test_what_is_disabled_later_is_removed(settings: Settings) -> None:
    async with NodeTimeout(settings) as app:
        await app.batch_create_node_timeout_config("r", tree_of("a", "b"))
        result = await app.batch_create_node_timeout_config("r", tree_of("a", enable=False))
        assert result == {"result": True, "data": [], "message": ""}
        assert await app.ledger.configs([("r", "a"), ("r", "b")]) == {
            ("r", "b"): TimeoutConfig(
                node_id="b", root_pipeline_id="r", action="forced_fail", timeout=10.0
            )
        }


async def test_the_result_holds_configs_and_names_what_was_passed_over(
    redis_server: RedisServer, any_database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    tree = tree_of("a")
    tree["activities"] |= {
        "converted": {
            "type": "ServiceActivity",
            "timeout_config": {"enabled": False, "seconds": 10, "action": "forced_fail"},
        },
        "typo": {"type": "ServiceActivity", "timeout_config": {"enabled": True, "seconds": 10}},
        "template": {"type": "SubProcess", "template_id": "t1", "timeout_config": GOOD},
        "canvas": {"type": "SubCanvas", "pipeline": tree_of("b", seconds=5)},
    }
    settings = Settings(database_url=any_database_url, redis_url=redis_server.url)
    async with NodeTimeout(settings) as app:
        result = await app.batch_create_node_timeout_config("r", tree)
        stored = await app.ledger.configs(
            [("r", name) for name in ("a", "b", "converted", "typo", "template")]
        )
    assert result["result"] is True
    first, second = result["data"]
    assert (first.node_id, first.root_pipeline_id) == ("a", "r")
    assert (first.action, first.timeout) == ("forced_fail", 10.0)
    assert stored == {first.node: first, second.node: second}
    assert json.loads(json.dumps(second.as_dict())) == {
        name: getattr(second, name)
        for name in ("node_id", "root_pipeline_id", "action", "timeout", "payload")
    }
    template, typo, sub_process = result["message"].split("; ")
    assert template == (
        "the 'pipeline' of SubProcess 'template' is missing: no node inside it gets a timeout"
    )
    assert typo.startswith("node 'typo' gets no timeout: its timeout_config {'enabled': True,")
    assert sub_process.startswith("node 'template' gets no timeout: it is a SubProcess")
    assert f"root pipeline 'r': {result['message']}" in caplog.messages


@pytest.mark.parametrize(
    "change", [{}, {"enable": False}, {"enable": 1}, {"action": "forced_fale"}]
)
async def test_a_tree_of_10000_nodes_does_not_hold_up_the_event_loop(
    redis_server: RedisServer, any_database_url: str, change: dict[str, Any]
) -> None:
    pauses = []

    async def watch() -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0)
            pauses.append(time.perf_counter() - before)

    tree = tree_of(*(f"node_{number:05}" for number in range(10_000)), **change)
    settings = Settings(database_url=any_database_url, redis_url=redis_server.url)
    async with NodeTimeout(settings) as app:
        await app.ledger.configs([("to", "connect")])
        watching = asyncio.create_task(watch())
        result = await app.batch_create_node_timeout_config("r", tree)
        watching.cancel()
    assert len(result["data"]) == (0 if change else 10_000)
    assert len(result["message"]) < 10_000
    assert max(pauses, default=0) < 1, "a generous bound: it takes a twentieth of it"


def test_an_engine_is_chosen_by_name() -> None:
    assert type(load_engine(Settings(engine="dry_run"))).__name__ == "DryRunEngine"
    with pytest.raises(SettingsError, match="is not set; engines installed: bamboo, dry_run"):
        load_engine(Settings())
    with pytest.raises(SettingsError, match="did you mean 'dry_run'"):
        load_engine(Settings(engine="dryrun"))


async def test_in_one_process_every_strategy_runs_where_its_message_came(
    settings: Settings,
) -> None:
    changes = {name: getattr(settings, name) for name in settings.model_fields_set}
    settings = Settings(**{**changes, "amqp_url": "memory://", "handle_queue": "elsewhere"})
    async with NodeTimeout(settings) as app:
        assert isinstance(app.exchange, MemoryExchange)
        assert app.wiring.routes().queues == [settings.dispatch_queue]


async def test_a_service_that_ends_by_itself_is_loud() -> None:
    async def ends(stop: asyncio.Event, health: Health) -> None:
        return

    async def cancels_itself(stop: asyncio.Event, health: Health) -> None:
        raise asyncio.CancelledError

    for service in (ends, cancels_itself):
        with pytest.raises(RuntimeError, match="the scanner ended by itself"):
            await _alive(service, asyncio.Event(), Health(name="scanner"))
    stopped = asyncio.Event()
    stopped.set()
    await _alive(ends, stopped, Health(name="scanner"))
