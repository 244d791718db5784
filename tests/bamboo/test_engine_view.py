"""The app's path for a worker that is elsewhere, in a real server of Django's."""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.acceptance.conftest import NODE_TIMEOUT
from tests.bamboo.house import OWN_APP, ROOT, House, end
from tests.servers import SECRET, free_port

SECRETS = {
    "NODE_TIMEOUT_ENGINE_TOKEN": f"{SECRET}-token",
    "NODE_TIMEOUT_ENGINE_SIGNING_KEY": f"{SECRET}-key",
}


@pytest.fixture
def url(house: House) -> Iterator[str]:
    """Of a server with ATOMIC_REQUESTS: a call is a transaction of its own all the same."""
    port = free_port()
    command = [sys.executable, "-m", "django", "runserver", "--noreload", f"127.0.0.1:{port}"]
    others = {"BAMBOO_TEST_APPS": json.dumps([OWN_APP]), "BAMBOO_TEST_ATOMIC": "yes"}
    server = house.start(command, "Quit the server", **others, **SECRETS)
    yield f"http://127.0.0.1:{port}/node_timeout"
    end(server)


def check_engine(house: House, url: str, *options: str) -> Any:
    return subprocess.run(
        [*NODE_TIMEOUT, "check-engine", url, *options],
        env=house.env | SECRETS | {"NODE_TIMEOUT_ENGINE_SURVEY": "true"},
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize(
    ("operation", "node_ends", "pipeline_ends"),
    [("fail", "FAILED", "RUNNING"), ("skip", "FINISHED", "FINISHED")],
)
def test_it_keeps_the_contract(
    house: House, url: str, operation: str, node_ends: str, pipeline_ends: str
) -> None:
    node, after = house.activity(seconds=60), house.activity(seconds=0)
    root = house.run(house.tree(node, after))
    house.wait_for(node.id, "RUNNING")
    named = ["--node", node.id, "--version", house.state(node.id).version, "--root", root]
    tried = check_engine(house, url, *named, "--operation", operation)
    assert tried.returncode == 0, tried.stdout + tried.stderr
    assert "ok    a running node is among those that run" in tried.stdout
    assert house.name(node.id) == node_ends
    house.wait_for(root, pipeline_ends)
    assert house.state(after.id) is None or operation == "skip"
