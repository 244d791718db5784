"""Every command, as a person at a terminal meets it."""

import json
import re
import resource
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner
from redis.asyncio import Redis

from node_timeout import NodeTimeout
from node_timeout.cli.main import cli
from node_timeout.domain.run import Outcome, RunState
from node_timeout.settings import Settings
from node_timeout.stores.rabbitmq.exchange import RabbitExchange
from node_timeout.stores.sql.tables import HEAD_REVISION
from tests.acceptance.conftest import NODE_TIMEOUT, EngineSide, Start, environment
from tests.servers import PostgresServer, free_port
from tests.support import config, configure, due, id_of, tree_of, wait_until

RunCli = Callable[..., subprocess.CompletedProcess[str]]


def changed(settings: Settings, **changes: object) -> dict[str, str]:
    """The environment of settings with these changes."""
    known = {name: getattr(settings, name) for name in settings.model_fields_set}
    return environment(Settings(**{**known, **changes}))


def assert_one_line(done: subprocess.CompletedProcess[str], code: int, says: str) -> None:
    assert done.returncode == code, done.stderr
    assert says in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "Traceback" not in done.stderr


def test_help_is_quick() -> None:
    """It takes little more CPU than to import what every asynchronous command line needs.

    By CPU time, so that the tests beside this one have no part in it.
    """
    libraries = [sys.executable, "-c", "import asyncio, json, logging, click"]
    times: dict[str, list[float]] = {"help": [], "libraries": []}
    for _ in range(10):
        for what, command in (("help", [*NODE_TIMEOUT, "--help"]), ("libraries", libraries)):
            before = _cpu_of_children()
            subprocess.run(command, capture_output=True, check=True)
            times[what].append(_cpu_of_children() - before)
    assert min(times["help"]) < 2 * min(times["libraries"])


def _cpu_of_children() -> float:
    """Seconds, of all that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize("library", ["aio_pika", "alembic", "pydantic", "redis", "sqlalchemy"])
def test_help_imports_nothing_large(library: str) -> None:
    asks = (
        "import sys; from click.testing import CliRunner; from node_timeout.cli.main import cli\n"
    )
    asks += f"CliRunner().invoke(cli, ['--help']); sys.exit({library!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", asks], check=False).returncode == 0


@pytest.mark.parametrize("command", sorted(cli.commands))
def test_each_option_shows_its_variable_default_and_unit(command: str) -> None:
    shown = " ".join(CliRunner().invoke(cli, [command, "--help"]).output.split())
    for variable, default in re.findall(
        r"\[variable: NODE_TIMEOUT_(\w+); default: ([^;\]]+)", shown
    ):
        field = Settings.model_fields[variable.lower()]
        known = field.get_default()
        said = default.split(";")[0]
        assert said == (
            "none" if known is None else f"{known:g}" if isinstance(known, float) else str(known)
        )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["scna"], "No such command 'scna'"),
        (["scan", "--lease-seconds", "0"], "NODE_TIMEOUT_LEASE_SECONDS"),
        (["scan", "--lease-seconds", "long"], "neither seconds nor a duration"),
        (["worker", "--engine", "bambo"], "no engine 'bambo' is installed"),
        (["worker", "--queue", "nowhere"], "queue 'nowhere' is none of"),
        (["replay"], "choose a node"),
        (["replay", "--all", "--node", "a"], "nothing to be chosen beside it"),
        (["apply", "missing.json", "missing.json"], "missing.json"),
        (["apply", "a", "b", "--create"], "--create and --root go together"),
        (["cancel", "a", "--version", "v" * 65], "at most 64"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    run_cli: RunCli, arguments: list[str], says: str
) -> None:
    assert_one_line(run_cli(*arguments), 2, says)


def test_a_worker_without_an_engine_lists_those_installed(
    run_cli: RunCli, settings: Settings
) -> None:
    done = run_cli("worker", env=changed(settings, engine=None))
    assert_one_line(done, 2, "engines installed: bamboo, dry_run, http, recording")


def test_a_wrong_variable_is_one_line(run_cli: RunCli, settings: Settings) -> None:
    env = environment(settings, NODE_TIMEOUT_HANDLERS="{")
    assert_one_line(run_cli("scan", env=env), 2, "NODE_TIMEOUT_HANDLERS: is not JSON")


def test_a_strategy_that_cannot_load_stops_the_worker(run_cli: RunCli, settings: Settings) -> None:
    env = changed(settings, handlers={"mine": "no.such:Thing"})
    assert_one_line(run_cli("worker", env=env), 2, "the strategy of action 'mine'")


def test_services_refuse_a_database_that_is_not_migrated(
    run_cli: RunCli, settings: Settings, postgres_server: PostgresServer
) -> None:
    env = changed(settings, database_url=postgres_server.create_database("not_migrated"))
    for role in ("scan", "worker"):
        assert_one_line(run_cli(role, env=env), 1, "run: node-timeout migrate")
    check = run_cli("check", env=env)
    assert check.returncode == 1
    assert "FAIL  database: the database has no node-timeout tables" in check.stdout
    assert f"revision {HEAD_REVISION}" in run_cli("migrate", env=env).stdout
    assert run_cli("check", env=env).returncode == 0
    assert "revision none" in run_cli("migrate", "--revision", "base", env=env).stdout


async def test_services_refuse_a_queue_with_other_arguments(
    run_cli: RunCli, settings: Settings, rabbit: RabbitExchange
) -> None:
    await rabbit.ensure()
    env = changed(settings, queue_type="classic")
    done = run_cli("scan", env=env)
    assert done.returncode == 1
    assert "exists with other arguments" in done.stderr
    assert len([line for line in done.stderr.splitlines() if "node-timeout:" in line]) == 1


def test_check_tells_what_works_and_what_does_not(run_cli: RunCli, settings: Settings) -> None:
    done = run_cli("check")
    assert done.returncode == 0, done.stdout
    assert [line[:4] for line in done.stdout.splitlines()] == ["ok  "] * 6
    port = free_port()
    env = changed(
        settings,
        database_url=f"postgresql://me:s3cret@127.0.0.1:{port}/x",
        redis_url=f"redis://:s3cret@127.0.0.1:{port}/0",
        amqp_url=f"amqp://me:s3cret@127.0.0.1:{port}/",
        engine="recordin",
    )
    done = run_cli("check", env=env)
    assert done.returncode == 1
    assert [line[:4] for line in done.stdout.splitlines()] == ["FAIL"] * 6
    assert "did you mean 'recording'" in done.stdout
    assert "s3cret" not in done.stdout + done.stderr


async def test_check_refuses_a_redis_that_evicts(run_cli: RunCli, redis: Redis) -> None:
    await redis.config_set("maxmemory-policy", "allkeys-lru")
    try:
        done = run_cli("check")
    finally:
        await redis.config_set("maxmemory-policy", "noeviction")
    assert done.returncode == 1
    assert "FAIL  redis: maxmemory-policy is allkeys-lru" in done.stdout


async def test_status_show_and_cancel(run_cli: RunCli, app: NodeTimeout) -> None:
    await configure(app.ledger, config("a", 100))
    await app.node_started("a", "v1")
    found = json.loads(run_cli("status", "--json").stdout)
    assert (found["armed"], found["ledger_armed"], found["unreachable"]) == (1, 1, [])
    assert found["queues"][app.settings.dispatch_queue] == 0
    text = run_cli("status").stdout
    assert "armed 1, overdue 0" in text
    assert "a version v1: armed, root root, action forced_fail" in run_cli("show", "a").stdout
    shown = json.loads(run_cli("show", "a", "--version", "v1", "--json").stdout)
    assert (shown["state"], shown["history"], shown["late_seconds"]) == ("armed", [], None)
    assert datetime.fromisoformat(shown["deadline"]) > datetime.now(UTC)
    would = run_cli("cancel", "a", "--dry-run").stdout.splitlines()
    assert would[1].split()[:1] == ["armed"]
    assert would[-1] == "1 node run would be cancelled"
    assert run_cli("cancel", "a").stdout == "1 node run cancelled\n"
    assert "cancelled" in run_cli("show", "a").stdout
    assert_one_line(run_cli("show", "nobody"), 1, "no such run of node 'nobody'")
    assert_one_line(run_cli("show", "a", "--version", "v2"), 1, "no such run of node 'a'")


async def test_a_running_deadline_is_moved_paused_resumed_and_fired(
    run_cli: RunCli, app: NodeTimeout
) -> None:
    await configure(app.ledger, config("a", 1000), config("b", 1000))
    await app.nodes_started([("a", "v1"), ("b", "v1")])
    (before,) = await app.rows("a")
    assert (
        run_cli("extend", "a", "--by", "PT10M", "--reason", "slow").stdout == "1 node run moved\n"
    )
    assert run_cli("extend", "a", "--by", "PT10M", "--key", "k").returncode == 0
    assert run_cli("extend", "a", "--by", "PT10M", "--key", "k").returncode == 0
    (row,) = await app.rows("a")
    assert row.deadline == pytest.approx((before.deadline or 0.0) + 1200), "one key counts once"
    shown = run_cli("show", "a").stdout
    assert "extended, by " in shown
    assert ": slow" in shown
    assert "extended by PT20M" in shown
    assert run_cli("extend", "a", "--by", "-PT20M").returncode == 0
    already = run_cli("reconfigure", "a")
    assert (already.returncode, already.stdout.splitlines()[0]) == (
        1,
        "node a, version v1: unchanged",
    )
    await configure(app.ledger, config("a", 1600, action="notify"))
    would = run_cli("reconfigure", "a", "--dry-run").stdout
    assert would.endswith("1 node run would be reconfigured\n")
    assert run_cli("reconfigure", "a").stdout == "1 node run reconfigured\n"
    shown = run_cli("show", "a").stdout
    assert ", notify after 1600 s, the deadline is " in shown
    await app.forget("root", ["b"])
    refused = run_cli("reconfigure", "b")
    assert (refused.returncode, refused.stdout.splitlines()) == (
        1,
        ["node b, version v1: no_config", "0 node runs reconfigured"],
    )
    until = "2126-12-01T18:00:00+08:00"
    over = run_cli("extend", "a", "--until", until)
    assert (over.returncode, over.stdout.splitlines()) == (
        1,
        ["node a, version v1: over_cap", "0 node runs moved"],
    )
    stale = run_cli("pause", "a", "--if-revision", "0", "--json")
    assert stale.returncode == 1
    assert [each["verdict"] for each in json.loads(stale.stdout)["runs"]] == ["revision"]
    assert run_cli("pause", "--root", "root").stdout == "2 node runs paused\n"
    assert "paused" in run_cli("list", "--state", "paused").stdout
    assert "paused 2" in run_cli("status").stdout
    would = run_cli("resume", "--root", "root", "--dry-run").stdout
    assert would.endswith("2 node runs would be resumed\n")
    assert run_cli("resume", "--run", id_of("b")).stdout == "1 node run resumed\n"
    assert run_cli("fire", "a").stdout == "1 node run due now\n"
    (row,) = await app.rows("a")
    assert (row.state, row.deadline) == (RunState.ARMED, row.next_at)
    assert (row.deadline or 1e12) <= await app.pool.now()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["extend", "a"], "say either by how much to extend, or until when"),
        (["extend", "a", "--by", "PT1M", "--until", "2026-12-01T18:00:00Z"], "say either"),
        (["extend", "a", "--by", "10"], "is no duration such as PT10M"),
        (["extend", "a", "--by", "P1M"], "write days"),
        (["extend", "a", "--until", "tomorrow"], "is no instant such as"),
        (["extend", "a", "--until", "2026-12-01T18:00:00"], "names no zone"),
        (["pause"], "choose a node, a root pipeline or both"),
        (["pause", "a", "--run", "0" * 26], "leave nothing to be chosen"),
        (["fire", "--run", "x"], "is no run id"),
        (["resume", "--version", "v1"], "choose a node, a root pipeline or both"),
    ],
)
def test_an_order_that_means_nothing_is_refused(
    run_cli: RunCli, arguments: list[str], says: str
) -> None:
    assert_one_line(run_cli(*arguments), 2, says)


async def test_a_whole_root_pipeline_is_cancelled(run_cli: RunCli, app: NodeTimeout) -> None:
    for root in ("c", "d"):
        await app.batch_create_node_timeout_config(root, tree_of("a", "b", seconds=100))
        await app.nodes_started([("a", "v1", root), ("b", "v1", root)])
    assert_one_line(run_cli("cancel"), 2, "choose a node, a root pipeline or both")
    assert_one_line(run_cli("cancel", "--root", "c", "--version", "v1"), 2, "a version is one")
    would = run_cli("cancel", "--root", "c", "--dry-run").stdout
    assert would.endswith("2 node runs would be cancelled\n")
    done = run_cli("cancel", "--root", "c", "--reason", "rolled back")
    assert done.stdout == "2 node runs cancelled\n"
    assert "rolled back" in run_cli("show", "b", "--root", "c").stdout
    assert run_cli("cancel", "--root", "c").returncode == 1
    assert [row.root_pipeline_id for row in (await app.find()).rows] == ["d", "d"]
    assert (await app.pool.counts()).armed == 2


async def test_the_living_are_listed(run_cli: RunCli, start: Start) -> None:
    assert_one_line(run_cli("processes"), 1, "no process of node-timeout is alive")
    assert (
        "ALARM      no scanner is alive\nALARM      no worker is alive" in run_cli("status").stdout
    )
    check = run_cli("check", "--running")
    assert check.returncode == 1
    assert "FAIL  processes: no scanner is alive; no worker is alive" in check.stdout
    scan = start("scan")
    await wait_until(lambda: "scanner" in run_cli("processes").stdout, 10)
    assert run_cli("check", "--running").returncode == 1
    worker = start("worker")
    await wait_until(lambda: "worker" in run_cli("processes").stdout, 10)
    checked = run_cli("check", "--running")
    assert "ok    processes: 2 alive, each role among them" in checked.stdout
    assert checked.returncode == 0
    status = run_cli("status")
    assert status.returncode == 0, status.stdout
    assert "alive      1 scanner, 1 reconciler, 1 worker" in status.stdout
    found = json.loads(run_cli("processes", "--json").stdout)["processes"]
    assert [each["pid"] for each in found] == [scan.popen.pid, worker.popen.pid]
    assert abs(datetime.fromisoformat(found[0]["seen_at"]) - datetime.now(UTC)) < timedelta(
        seconds=30
    )
    assert scan.stop() == 0
    assert "scanner" not in run_cli("processes").stdout
    worker.kill()  # it says no more: its word lasts for a while, and then ends by itself
    assert "worker" in run_cli("processes").stdout


async def test_runs_are_listed_page_by_page(run_cli: RunCli, app: NodeTimeout) -> None:
    await configure(app.ledger, *(config(name, 60 + i) for i, name in enumerate("abc")))
    await app.nodes_started([(name, "v1", "root") for name in "abc"])
    await app.node_left("b", "v1", "root")
    first = run_cli("list", "--limit", "1")
    header, line, more = first.stdout.splitlines()
    assert header.split()[0] == "state"
    assert line.split()[0] == "armed"
    assert line.split()[2:] == ["root", "a", "v1", "forced_fail", "0"]
    assert more.startswith("more: --after ")
    second = run_cli("list", "--limit", "1", *more.removeprefix("more: ").split())
    assert second.stdout.splitlines()[1].split()[3] == "c"
    found = json.loads(run_cli("list", "--node", "b", "--root", "root", "--json").stdout)
    assert [each["state"] for each in found["runs"]] == ["cancelled"]
    assert (found["after"], found["runs"][0]["late_seconds"]) == (None, None)
    assert run_cli("list", "--due-within", "30").stdout == ""
    assert run_cli("list", "--due-within", "PT30S").stdout == ""
    assert json.loads(run_cli("list", "--state", "dead", "--json").stdout) == {
        "runs": [],
        "after": None,
    }
    for wrong in (
        ["--after", "x"],
        ["--state", "gone"],
        ["--limit", "0"],
        ["--due-within", "-1"],
        ["--due-within", "P1M"],
        ["--due-within", "1h"],
    ):
        assert_one_line(run_cli("list", *wrong), 2, wrong[0])


async def test_what_is_dead_is_discarded_and_configs_are_forgotten(
    run_cli: RunCli, app: NodeTimeout
) -> None:
    await configure(app.ledger, config("a", 1))
    await app.node_started("a", "v1")
    now = await app.pool.now() + 60
    taking = await app.ledger.take(
        [due("a", now)], now=now, lease_seconds=60, max_attempts=1, owner="me"
    )
    dead = Outcome(node=taking.taken[0], state=RunState.DEAD, message="no")
    await app.ledger.record([dead], owner="me", now=now - 60)
    assert_one_line(run_cli("discard"), 2, "choose a node, a root pipeline or both")
    assert run_cli("discard", "--all", "--dry-run").stdout.endswith("1 node run would be deleted\n")
    assert run_cli("discard", "--node", "b").returncode == 1
    assert run_cli("discard", "--all").stdout == "1 node run deleted\n"
    assert await app.rows("a") == []
    assert run_cli("forget", "root").stdout == "1 timeout configs deleted\n"
    assert run_cli("forget", "root").returncode == 1


async def test_a_node_of_several_pipelines_is_cancelled_where_it_is_meant(
    run_cli: RunCli, app: NodeTimeout
) -> None:
    for root in ("c", "d"):
        await app.batch_create_node_timeout_config(root, tree_of("deploy", seconds=100))
        assert await app.node_started("deploy", f"{root}1", root)
    assert_one_line(run_cli("cancel", "deploy"), 2, "several root pipelines, 'c' and 'd' among")
    assert run_cli("show", "deploy").stdout.count("armed") == 2
    assert run_cli("cancel", "deploy", "--root", "d").stdout == "1 node run cancelled\n"
    assert ": cancelled, root d, " in run_cli("show", "deploy", "--root", "d").stdout
    assert ": armed, root c, " in run_cli("show", "deploy", "--root", "c").stdout
    assert run_cli("cancel", "deploy", "--version", "c1", "--root", "d").returncode == 1


def test_status_without_its_stores_says_which(run_cli: RunCli, settings: Settings) -> None:
    dead = f"127.0.0.1:{free_port()}"
    env = changed(settings, redis_url=f"redis://{dead}/0", amqp_url=f"amqp://{dead}/")
    done = run_cli("status", env=env)
    assert done.returncode == 1
    assert "armed unknown" in done.stdout
    assert done.stdout.count("NO ANSWER") == 2


def test_status_watches_until_it_is_stopped(start: Start) -> None:
    watching = start("status", "--watch", "--interval", "0.1", ready="pool ")
    assert watching.stop() == 1  # as at its last look: no scanner is alive


async def test_apply_prints_the_tree_and_creates(
    run_cli: RunCli, app: NodeTimeout, tmp_path: Path
) -> None:
    tree, configs = tmp_path / "tree.json", tmp_path / "configs.json"
    tree.write_text(json.dumps({"activities": {"a": {"type": "ServiceActivity"}}}))
    good = {"enable": True, "action": "forced_fail", "seconds": 5}
    configs.write_text(json.dumps({"a": good}))
    done = run_cli("apply", str(tree), str(configs), "--create", "--root", "r1")
    assert json.loads(done.stdout)["activities"]["a"]["timeout_config"] == good
    assert done.stderr == "1 timeout configs stored\n"
    assert set(await app.ledger.configs([("r1", "a")])) == {("r1", "a")}
    tree.write_text(json.dumps(tree_of("a", enable="yes")))
    configs.write_text("{}")
    done = run_cli("apply", str(tree), str(configs), "--create", "--root", "r1")
    assert "node 'a' gets no timeout" in done.stderr
    assert done.stderr.endswith("0 timeout configs stored\n")
    configs.write_text(json.dumps({"b": good}))
    assert_one_line(run_cli("apply", str(tree), str(configs)), 2, "node 'b' is not in the")
    tree.write_text("{")
    assert_one_line(run_cli("apply", str(tree), str(configs)), 2, "tree.json")
    tree.write_text(json.dumps(tree_of("a")))
    configs.write_text("{}")
    done = run_cli("apply", str(tree), str(configs), "--create", "--root", "")
    assert_one_line(done, 2, "root pipeline id is empty")


async def is_dead(app: NodeTimeout) -> bool:
    return (await app.ledger.count([RunState.DEAD]))[RunState.DEAD] > 0


async def test_dead_runs_are_replayed(
    run_cli: RunCli, app: NodeTimeout, engine_side: EngineSide, start: Start, settings: Settings
) -> None:
    await configure(app.ledger, config("a", 0.1, "not_installed"))
    await engine_side.run(("a", "v1"))
    await app.node_started("a", "v1")
    start("scan")
    worker = start("worker", env=changed(settings, max_attempts=1))
    await wait_until(lambda: is_dead(app), 15)
    assert worker.stop() == 0
    assert "no strategy for action 'not_installed'" in run_cli("show", "a").stdout
    handlers = {"not_installed": "node_timeout.strategies.base:ForcedFailStrategy"}
    start("worker", env=changed(settings, handlers=handlers))
    assert run_cli("replay", "--root", "other").stdout == "0 node runs armed again\n"
    assert run_cli("replay", "--node", "a", "--version", "v2").returncode == 1
    would = run_cli("replay", "--node", "a", "--root", "root", "--dry-run")
    assert would.stdout.endswith("1 node run would be armed again\n")
    replayed = run_cli(
        "replay", "--node", "a", "--version", "v1", "--reason", "it is installed now"
    )
    assert replayed.stdout == "1 node run armed again\n"
    shown = run_cli("show", "a").stdout
    assert "replayed, by " in shown
    assert "it is installed now" in shown

    async def failed() -> bool:
        return await engine_side.effect_of("a") == "failed"

    await wait_until(failed, 15)


def test_metrics_and_health_are_served(start: Start, settings: Settings, run_cli: RunCli) -> None:
    port = free_port()
    scan = start("scan", "--metrics-port", str(port))

    def get(path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    until = time.monotonic() + 10
    while get("/readyz")[0] != 200:
        assert time.monotonic() < until
    assert get("/healthz") == (200, "ok\n")
    assert "node_timeout_pool_armed 0.0" in get("/metrics")[1]
    assert get("/")[0] == 404
    taken = run_cli("scan", "--metrics-port", str(port))
    assert taken.returncode == 2
    assert "metrics_port: cannot listen" in taken.stderr
    assert scan.stop() == 0


def test_logs_are_json_lines_without_passwords(start: Start, settings: Settings) -> None:
    port = free_port()
    env = changed(settings, redis_url=f"redis://:s3cret@127.0.0.1:{port}/0")
    scan = start("scan", env=env)
    scan.wait_for("trying again until it succeeds")
    scan.stop()
    for line in scan.output.splitlines():
        assert {"time", "level", "logger", "message"} <= set(json.loads(line))
    assert "s3cret" not in scan.output


def test_a_second_signal_ends_a_process_at_once(start: Start, settings: Settings) -> None:
    dead = free_port()
    scan = start("scan", env=changed(settings, amqp_url=f"amqp://127.0.0.1:{dead}/"), ready="")
    scan.wait_for("trying again")
    scan.popen.send_signal(2)
    assert scan.wait(10) == 0
