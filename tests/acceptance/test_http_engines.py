"""Engines that know HTTP alone, in two languages: the examples, against the real processes."""

import json
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from node_timeout import NodeTimeout
from node_timeout.domain.tokens import Role
from node_timeout.settings import Settings
from tests.acceptance.conftest import Process, Start, environment
from tests.servers import free_port
from tests.support import wait_until

RunCli = Callable[..., "subprocess.CompletedProcess[str]"]

EXAMPLES = Path(__file__).parents[2] / "examples" / "http_engine"
KEY = "key-of-the-example"
LANGUAGES = {
    "python": [sys.executable, str(EXAMPLES / "engine.py")],
    "javascript": ["node", str(EXAMPLES / "engine.mjs")],
}


class Engine:
    def __init__(self, url: str, env: dict[str, str]) -> None:
        """``env``: of the processes around it."""
        self.url, self.env = url, env

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        request = urllib.request.Request(self.url + path, json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=20) as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    def nodes(self) -> dict[str, dict[str, Any]]:
        with urllib.request.urlopen(f"{self.url}/nodes", timeout=20) as answer:
            found: dict[str, dict[str, Any]] = json.load(answer)
        return found

    def is_up(self) -> bool:
        try:
            self.nodes()
        except OSError:
            return False
        return True


@pytest.fixture(params=LANGUAGES)
def language(request: pytest.FixtureRequest) -> str:
    if request.param == "javascript" and shutil.which("node") is None:
        pytest.skip("needs Node.js")
    return str(request.param)


@pytest.fixture
async def engine(
    language: str, settings: Settings, app: NodeTimeout, start: Start, tmp_path: Path
) -> AsyncIterator[Engine]:
    """The example, with the processes of node-timeout around it."""
    engine_port, web_port = free_port(), free_port()
    url = f"http://127.0.0.1:{engine_port}"
    text, _ = await app.create_token(Role.EVENTS, "the example")
    env = environment(
        settings,
        NODE_TIMEOUT_ENGINE="http",
        NODE_TIMEOUT_ENGINE_URL=url,
        NODE_TIMEOUT_ENGINE_SIGNING_KEY=KEY,
        NODE_TIMEOUT_WEB_PORT=str(web_port),
    )
    engine = Engine(url, env)
    for command in ("scan", "worker"):
        start(command, env=env)
    start("serve", env=env, ready="web started")
    own = {
        "PATH": env["PATH"],
        "PORT": str(engine_port),
        "NODE_TIMEOUT_API": f"http://127.0.0.1:{web_port}/api/v1",
        "NODE_TIMEOUT_API_TOKEN": text,
        "SIGNING_KEY": KEY,
    }
    process = Process(LANGUAGES[language], own, tmp_path / "engine.log")
    await wait_until(engine.is_up, 20)
    yield engine
    process.kill()


async def test_its_nodes_are_failed_skipped_or_left_alone(engine: Engine) -> None:
    order = {"seconds": 60, "after": "PT1S"}
    engine.post("/nodes/hangs", order | {"action": "forced_fail"})
    engine.post("/nodes/skipped", order | {"action": "forced_fail_and_skip"})
    engine.post("/nodes/quick", {"seconds": 0.2, "after": "PT1S", "action": "forced_fail"})

    def states() -> dict[str, str]:
        return {name: node["state"] for name, node in engine.nodes().items()}

    expected = {"hangs": "failed", "skipped": "skipped", "quick": "finished"}
    await wait_until(lambda: states() == expected, 20)
    assert "timed out" in engine.nodes()["hangs"]["story"]


async def test_it_keeps_the_contract(engine: Engine, run_cli: RunCli) -> None:
    for operation in ("fail", "skip"):
        order = {"seconds": 60, "after": "PT1M", "action": "forced_fail"}
        version = engine.post(f"/nodes/{operation}", order)["version"]
        node = ("--node", operation, "--version", version, "--root", "example")
        tried = run_cli("check-engine", engine.url, *node, "--operation", operation, env=engine.env)
        assert tried.returncode == 0, tried.stdout
