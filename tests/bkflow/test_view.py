"""The view that answers the worker: the contract, and who may call."""

import json
from http.client import HTTPConnection
from typing import Any

import pytest

from tests.bkflow.house import TOKEN, Hands, House, wait
from tests.servers import free_port


def running(hands: Hands, seconds: float = 600) -> list[str]:
    """Options that name a node that runs."""
    made = hands.run("forced_fail", seconds)
    wait(lambda: hands.state(made["node_id"])["name"] == "RUNNING")
    version = hands.state(made["node_id"])["version"]
    return ["--node", made["node_id"], "--version", version, "--root", made["root"]]


@pytest.mark.parametrize("operation", ["fail", "skip"])
def test_it_keeps_every_rule_of_the_contract(house: House, hands: Hands, operation: str) -> None:
    tried = house.check_engine(*running(hands), "--operation", operation)
    assert tried.returncode == 0, tried.stdout + tried.stderr
    for rule in (
        "among those that run",
        "another pipeline",
        "acted on once",
        "a wrong token",
        "an hour ago",
    ):
        assert rule in tried.stdout


def post(port: int, headers: dict[str, str], body: bytes = b"{}") -> tuple[int, dict[str, Any]]:
    connection = HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("POST", "/node_timeout/v1/fail", body, headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def test_without_a_secret_nobody_may_call(house: House) -> None:
    port = free_port()
    nothing = {"NODE_TIMEOUT_ENGINE_TOKEN": "", "NODE_TIMEOUT_ENGINE_SIGNING_KEY": ""}
    web = house.start_web(port, **nothing)
    try:
        status, said = post(port, {"Authorization": "Bearer "})
        assert status == 403
        assert "NODE_TIMEOUT_ENGINE_TOKEN" in said["message"]
    finally:
        web.stop()


def test_what_is_no_call_is_refused_without_a_word_of_the_secret(house: House) -> None:
    port = free_port()
    web = house.start_web(port, NODE_TIMEOUT_ENGINE_SIGNING_KEY="")
    known = {"Authorization": f"Bearer {TOKEN}"}
    try:
        for wrong in ("", TOKEN, f"Bearer {TOKEN}x"):
            assert post(port, {"Authorization": wrong})[0] == 401
        assert post(port, known, b"x" * 70_000)[0] == 413
        for body in (b"no json", b"[]", b"{}", b'{"schema": 1}', b"\xff", b"[" * 60_000):
            status, said = post(port, known, body)
            assert status == 400, said
            assert TOKEN not in said["message"]
        connection = HTTPConnection("127.0.0.1", port, timeout=20)
        connection.request("GET", "/node_timeout/v1/fail", headers=known)
        assert connection.getresponse().status == 405
        connection.close()
        assert TOKEN not in web.output
    finally:
        web.stop()
