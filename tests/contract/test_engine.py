"""The contract of engines: on the fake one, and on an HTTP engine; and that each rule can fail."""

from collections.abc import AsyncIterator
from functools import partial

import pytest

from node_timeout.domain.errors import NodeRunSupersededError
from node_timeout.domain.run import Node, TimedOutNode
from node_timeout.engines.http import HttpEngine
from node_timeout.ports.engine import Engine
from node_timeout.settings import Settings
from node_timeout.testing import conformance
from node_timeout.testing.conformance import NODE_RULES, SAFE_RULES, fail, name_of, try_rule
from node_timeout.testing.contracts.engine import *  # noqa: F403 - the suite
from node_timeout.testing.http_conformance import check_http_engine
from node_timeout.testing.words import timed_out
from tests.http_server import Reply, Request, serving
from tests.support import FakeEngine, run

NODE = timed_out("deploy", "1")
TOKEN = "a-token-of-its-own"


class Behind:
    """An engine behind HTTP, as careful as the documents ask for."""

    def __init__(self) -> None:
        self.running: dict[Node, str] = {NODE.run.node: NODE.version}
        self.done: set[str] = set()

    def __call__(self, request: Request) -> Reply:
        call = request.json
        if request.headers.get("authorization") != f"Bearer {TOKEN}":
            return Reply(401, {"message": "who are you?"})
        if call["schema"] != 1 or call["operation"] != request.path.rpartition("/")[2]:
            return Reply(400, {"message": "what is that?"})
        node = (call["root_pipeline_id"], call["node_id"])
        is_running = self.running.get(node) == call["version"]
        if call["operation"] == "state":
            return Reply(200, {"running": is_running})
        if call["idempotency_key"] in self.done:
            return Reply(200, {"message": "done before"})
        if not is_running:
            return Reply(409, {"message": "moved on"})
        del self.running[node]
        self.done.add(call["idempotency_key"])
        return Reply(200, {"message": "done"})


@pytest.fixture
def expendable() -> TimedOutNode:
    return NODE


@pytest.fixture(params=["fake", "http"])
async def engine(request: pytest.FixtureRequest) -> AsyncIterator[Engine]:
    if request.param == "fake":
        yield FakeEngine([NODE.run])
        return
    with serving(Behind()) as server:
        engine = HttpEngine(Settings(engine_url=server.url, engine_token=TOKEN))
        yield engine
        await engine.close()


class Lenient(FakeEngine):
    """Acts on whatever it is given."""

    async def forced_fail(self, node: TimedOutNode, reason: str) -> str:
        return f"failed {node.node_id}: {reason}"

    async def forced_fail_and_skip(self, node: TimedOutNode, reason: str) -> str:
        return f"skipped {node.node_id}: {reason}"


class Confirming(FakeEngine):
    async def is_running(self, node: TimedOutNode) -> bool:
        return bool(node.version)


class Denying(FakeEngine):
    async def is_running(self, node: TimedOutNode) -> bool:
        return not node.version


class Forgetful(FakeEngine):
    """Knows a node by its id alone, as many do."""

    async def is_running(self, node: TimedOutNode) -> bool:
        return node.node_id == NODE.node_id and node.version == NODE.version and bool(self.versions)


class AnyVersion(FakeEngine):
    async def is_running(self, node: TimedOutNode) -> bool:
        return node.run.node in self.versions


class Angry(FakeEngine):
    async def is_running(self, node: TimedOutNode) -> bool:
        raise NodeRunSupersededError(node.node_id)


@pytest.mark.parametrize(
    ("kind", "broken"),
    [
        (Confirming, {"an_unknown_node_is_not_running", "another_version_is_left_alone"}),
        (Lenient, {"an_unknown_node_is_not_failed", "an_unknown_node_is_not_skipped"}),
        (Denying, {"a_running_node_is_running", "another_version_is_left_alone"}),
        (AnyVersion, {"another_version_is_left_alone"}),
        (Forgetful, {"another_pipeline_is_left_alone"}),
        (Lenient, {"a_running_node_is_acted_on_once", "another_pipeline_is_left_alone"}),
        (Angry, {"an_unknown_node_is_not_running", "a_running_node_is_running"}),
    ],
)
async def test_what_breaks_a_rule_is_found(kind: type[FakeEngine], broken: set[str]) -> None:
    found = set()
    for safe in SAFE_RULES:
        finding = await try_rule(name_of(safe), partial(safe, kind([NODE.run])))
        found |= set() if finding.passed else {safe.__name__}
    for rule in NODE_RULES:
        finding = await try_rule(name_of(rule), partial(rule, kind([NODE.run]), NODE, fail))
        found |= set() if finding.passed else {rule.__name__}
    assert found >= broken


async def test_a_fake_engine_tells_pipelines_and_versions_apart() -> None:
    engine = FakeEngine([run("a", "v1", "one"), run("a", "v1", "two")])
    engine.start(run("a", "v2", "two"))
    assert engine.versions == {("one", "a"): "v1", ("two", "a"): "v2"}


async def test_an_engine_that_never_looks_at_a_call_is_found() -> None:
    """It says of every node that it does not know it, which is right by chance."""
    with serving(lambda _: Reply(409, {"message": "unknown"})) as server:
        findings = await check_http_engine(
            Settings(engine_url=server.url, engine_token=TOKEN), None, conformance.fail
        )
    assert {each.rule for each in findings if not each.passed} == {
        "an unknown schema is refused",
        "an operation that is not that of the path is refused",
        "a call without a token is refused",
        "a wrong token is refused",
    }


async def test_an_engine_that_answers_anything_breaks_each_rule_of_http() -> None:
    settings = {"engine_token": TOKEN, "engine_signing_key": "a key"}
    with serving(lambda _: Reply(200, {"running": True})) as server:
        findings = await check_http_engine(
            Settings(engine_url=server.url, **settings), None, conformance.fail
        )
    assert len(findings) == 10
    assert [each.rule for each in findings if each.passed] == []
    with serving(Behind()) as server:
        findings = await check_http_engine(
            Settings(engine_url=server.url, engine_token=TOKEN), NODE, conformance.skip
        )
    assert [each for each in findings if not each.passed] == []
    assert len(findings) == 11
