"""The examples do what their documents say."""

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from node_timeout import NodeTimeout
from node_timeout.settings import Settings
from tests.acceptance.conftest import EngineSide, Process, Start, environment
from tests.servers import free_port
from tests.support import config, configure, wait_until

EXAMPLES = Path(__file__).parents[2] / "examples"
KEY = "a key of the example"
KEY_VARIABLE = "NODE_TIMEOUT_ENGINE_SIGNING_KEY"
RunCli = Callable[..., "subprocess.CompletedProcess[str]"]


class ExampleEngine:
    def __init__(self, process: Process, url: str) -> None:
        self.process, self.url = process, url

    def post(self, path: str, value: Any) -> Any:
        request = urllib.request.Request(self.url + path, json.dumps(value).encode())
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    def nodes(self) -> Any:
        with urllib.request.urlopen(self.url + "/nodes", timeout=10) as answer:
            return json.load(answer)

    def wait_for(self, node_id: str, state: str) -> Any:
        until = time.monotonic() + 20
        while (node := self.nodes().get(node_id, {})).get("state") != state:
            assert time.monotonic() < until, f"{node}: {self.process.output}"
            time.sleep(0.02)
        return node


@pytest.fixture
def http_settings(settings: Settings) -> Settings:
    events = f"{settings.dispatch_queue}-events"
    return settings.model_copy(
        update={
            "engine": "http",
            "engine_url": f"http://127.0.0.1:{free_port()}",
            "events_queue": events,
        }
    )


@pytest.fixture
def daemons(http_settings: Settings, start: Start) -> dict[str, str]:
    """Scanner and worker, which know of the engine only its URL and its queue."""
    env = environment(http_settings, **{KEY_VARIABLE: KEY})
    start("scan", env=env)
    start("worker", env=env)
    return env


@pytest.fixture
def engine(
    http_settings: Settings, daemons: dict[str, str], tmp_path: Path
) -> Iterator[ExampleEngine]:
    url = str(http_settings.engine_url)
    env = environment(
        AMQP_URL=http_settings.amqp_url.get_secret_value(),
        EVENTS_QUEUE=str(http_settings.events_queue),
        SIGNING_KEY=KEY,
        PORT=url.rpartition(":")[2],
    )
    command = [sys.executable, str(EXAMPLES / "engine" / "engine.py")]
    process = Process(command, env, tmp_path / "engine.log")
    process.wait_for("Uvicorn running")
    yield ExampleEngine(process, url)
    process.stop()


def test_the_example_engine_has_a_node_failed_after_events_alone(engine: ExampleEngine) -> None:
    """The engine knows no store of ours: a message, and three HTTP calls, are all there is."""
    order = {"seconds": 60, "timeout": 1, "action": "forced_fail"}
    began = time.monotonic()
    engine.post("/nodes/hangs", order)
    node = engine.wait_for("hangs", "failed")
    assert 1 <= time.monotonic() - began < 10
    assert node["version"] in node["story"]


def test_its_nodes_are_skipped_finish_in_time_and_start_again(engine: ExampleEngine) -> None:
    hang = {"seconds": 60, "timeout": 1}
    engine.post("/nodes/skipped", {**hang, "action": "forced_fail_and_skip"})
    engine.post("/nodes/quick", {"seconds": 0.2, "timeout": 1, "action": "forced_fail"})
    engine.post("/nodes/twice", {"seconds": 60, "timeout": 1, "action": "forced_fail"})
    again = engine.post("/nodes/twice", {"seconds": 60, "timeout": 2, "action": "forced_fail"})
    engine.wait_for("skipped", "skipped")
    time.sleep(0.3)  # were the old run struck, it would be by now
    assert engine.nodes()["twice"]["state"] == "running"
    assert engine.wait_for("twice", "failed")["version"] == again["version"]
    assert engine.nodes()["quick"]["state"] == "finished"


def test_it_keeps_the_contract(
    engine: ExampleEngine, daemons: dict[str, str], run_cli: RunCli
) -> None:
    tried = run_cli("check-engine", engine.url, env=daemons)
    assert tried.returncode == 0, tried.stdout
    assert tried.stdout.count("ok    ") == 8
    *_, last = tried.stdout.splitlines()
    assert last == "not tried: what needs a node that runs (--node, --version, --root)"
    for operation, state in (("fail", "failed"), ("skip", "skipped")):
        order = {"seconds": 60, "timeout": 60, "action": "forced_fail"}
        version = engine.post(f"/nodes/{operation}", order)["version"]
        node = ("--node", operation, "--version", version, "--root", "example")
        tried = run_cli("check-engine", engine.url, *node, "--operation", operation, env=daemons)
        assert tried.returncode == 0, tried.stdout
        assert tried.stdout.count("ok    ") == 12
        assert engine.nodes()[operation]["state"] == state
    wrong = run_cli("check-engine", engine.url, env=daemons | {KEY_VARIABLE: "another"})
    assert wrong.returncode == 1
    assert "FAIL  an unknown node is not running: the engine answered 401" in wrong.stdout


def test_it_hears_nobody_without_the_key(engine: ExampleEngine) -> None:
    with pytest.raises(urllib.error.HTTPError, match="401"):
        engine.post("/v1/fail", {"operation": "fail"})


@pytest.fixture(scope="module")
def strategy_package(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where the package is installed."""
    target = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    command += ["--no-build-isolation", "--target", str(target)]
    subprocess.run([*command, str(EXAMPLES / "strategy_package")], check=True, timeout=120)
    return str(target)


def test_the_strategy_package_is_found_once_installed(
    settings: Settings, start: Start, strategy_package: str
) -> None:
    env = environment(settings)
    env["PYTHONPATH"] = f"{strategy_package}:{env['PYTHONPATH']}"
    check = start("check", env=env, ready="")
    assert check.wait() == 0, check.output
    assert "extend_once" in check.output


async def test_its_strategy_extends_the_time_once_and_then_fails_the_node(
    settings: Settings,
    start: Start,
    strategy_package: str,
    engine_side: EngineSide,
    app: NodeTimeout,
) -> None:
    env = environment(settings, EXTEND_SECONDS="3", NODE_TIMEOUT_RETRY_BACKOFF="0.1")
    env["PYTHONPATH"] = f"{strategy_package}:{env['PYTHONPATH']}"
    start("scan", env=env)
    start("worker", env=env)
    await configure(app.ledger, *(config(name, 1, "extend_once") for name in ("hangs", "ends")))
    await engine_side.run(("hangs", "v1"), ("ends", "v1"))
    await app.nodes_started([("hangs", "v1"), ("ends", "v1")])

    async def extended() -> bool:
        (row,) = await app.rows("ends")
        return (row.state, row.message) == ("armed", "extended by 3 s")

    await wait_until(extended, 20)
    assert await app.node_left("ends", "v1") == 1, "in the time that it got"

    async def failed() -> bool:
        return await engine_side.effect_of("hangs") == "failed"

    await wait_until(failed, 20)
    (effect,) = await engine_side.effects()
    late = float(effect["at"]) - float(effect["deadline"])
    assert 3 <= late < 10
    (row,) = await app.rows("hangs")
    assert row.attempts == 2
    assert [row.state for row in await app.rows("ends")] == ["cancelled"]
