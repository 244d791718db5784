"""Many pipelines whose nodes have the same ids and versions, as attempt numbers are."""

import subprocess
import time
from collections import Counter
from collections.abc import Callable

from node_timeout import NodeTimeout
from node_timeout.domain.run import RunState
from node_timeout.settings import Settings
from tests.acceptance.conftest import Start, environment
from tests.http_server import Reply, Request, serving
from tests.support import config, configure, gone, run, started, tree_of, wait_until

RunCli = Callable[..., subprocess.CompletedProcess[str]]
PIPELINES = 500
SECONDS = 10.0

Run = tuple[str, str, str]
"""(node id, version, root pipeline id)"""


async def test_500_pipelines_with_the_same_ids_each_have_their_own_deadlines(
    settings: Settings, start: Start
) -> None:
    """Half of them retry "deploy" in time, the others end "build" in time; the rest overruns."""
    roots = [f"pipeline {number}" for number in range(PIPELINES)]
    retried, ended = roots[::2], roots[1::2]
    failed: dict[str, Run] = {}
    """What the engine has failed, by idempotency key: a call may be repeated."""

    def answer(request: Request) -> Reply:
        call = request.json
        if call["operation"] == "fail":
            run = (call["node_id"], call["version"], call["root_pipeline_id"])
            failed[call["idempotency_key"]] = run
        return Reply(200, {"running": True})

    with serving(answer) as server:
        known = {name: getattr(settings, name) for name in settings.model_fields_set}
        known |= {"engine": "http", "engine_url": server.url, "worker_concurrency": 16}
        settings = Settings(**known | {"strategy_timeout": 30})
        env = environment(settings)
        processes = [start("scan", env=env), start("worker", env=env), start("worker", env=env)]
        tree = tree_of("deploy", "build", seconds=SECONDS)
        async with NodeTimeout(settings) as app:
            for root in roots:
                assert (await app.batch_create_node_timeout_config(root, tree))["result"]
            first: list[Run] = [(node, "1", root) for node in ("deploy", "build") for root in roots]
            began = time.monotonic()
            assert await app.nodes_started(first) == 2 * PIPELINES
            left: list[Run] = [("deploy", "1", root) for root in retried]
            left += [("build", "1", root) for root in ended]
            assert await app.nodes_left(left) == PIPELINES
            again: list[Run] = [("deploy", "2", root) for root in retried]
            assert await app.nodes_started(again) == len(retried)
            assert time.monotonic() < began + SECONDS, "the machine is too slow for this test"
            overrun = {*first, *again} - {*left}

            async def is_settled() -> bool:
                counts = await app.ledger.counts(await app.pool.now())
                return counts.armed == counts.executing == 0

            await wait_until(is_settled, 60)
            assert Counter(failed.values()) == Counter(overrun), "each once, in its own pipeline"
            rows = [row for node in ("deploy", "build") for row in await app.rows(node)]
            assert {
                (row.node_id, row.version, row.root_pipeline_id)
                for row in rows
                if row.state is RunState.CANCELLED
            } == {*left}
            assert len(rows) == len(first) + len(again)
        assert [process.stop() for process in processes] == [0, 0, 0]


async def test_who_goes_back_finds_the_pool_in_bamboos_form(
    run_cli: RunCli, app: NodeTimeout, start: Start
) -> None:
    scan = start("scan")
    await configure(app.ledger, *(config(name, 300) for name in ("a", "b", "c")))
    await app.ledger.arm(started([run("a"), run("b"), run("c")]), await app.pool.now())
    done = run_cli("give-back")
    assert (done.returncode, done.stdout) == (1, "")
    assert "stop all scanners and workers first" in done.stderr
    assert scan.stop() == 0
    await app.ledger.disarm([gone("c")], await app.pool.now())
    for _ in range(2):
        done = run_cli("give-back")
        assert done.stdout == "2 open node runs are in the pool as <node_id>_<version>\n"
    claim = await app.pool.shards[0].claim(10, 1, 1000)
    deadlines = {name: (await app.rows(name))[0].deadline for name in ("a", "b")}
    assert {each.member: each.deadline for each in claim.members} == {
        "a_v1": deadlines["a"],
        "b_v1": deadlines["b"],
    }
