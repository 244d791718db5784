"""The written contracts, OpenAPI and AsyncAPI, say what the code does."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from node_timeout.domain.config_check import ConfigRules
from node_timeout.domain.errors import EngineUnavailableError
from node_timeout.domain.events import NodeStarted
from node_timeout.domain.run import TimedOutNode
from node_timeout.engines.http import HttpEngine, SurveyableHttpEngine, http_engine
from node_timeout.settings import Settings
from node_timeout.wire import engine_calls, events
from tests.http_server import Reply, serving

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"
RULES = ConfigRules(actions=("forced_fail",), max_seconds=1e9)

Mutation = Callable[[dict[str, Any]], Any]


def contract(name: str) -> Any:
    return yaml.safe_load((REFERENCE / name).read_text(encoding="utf-8"))


def check(document: Any, schema: str, value: Any) -> None:
    """Raises `jsonschema.ValidationError`."""
    rules = {"$ref": f"#/components/schemas/{schema}", "components": document["components"]}
    jsonschema.validate(value, rules, cls=jsonschema.Draft202012Validator)


async def test_every_call_of_the_engine_http_is_as_openapi_has_it() -> None:
    document = contract("engine.openapi.yaml")
    node = TimedOutNode(
        node_id="a", version="v1", root_pipeline_id="r", action="x", deadline=1.5, attempt=1
    )
    with serving(lambda _: Reply(200, {"running": True})) as server:
        engine = HttpEngine(Settings(engine_url=server.url))
        await engine.is_running(node)
        await engine.forced_fail(node, "why")
        await engine.forced_fail_and_skip(node, "why")
        await engine.close()
    *about_one, survey = document["paths"]
    assert [request.path for request in server.requests] == about_one
    assert survey == "/v1/running"
    for request in server.requests:
        check(document, "Call", request.json)
        operation = document["paths"][request.path]["post"]
        assert request.json["operation"] == operation["operationId"]
        with pytest.raises(jsonschema.ValidationError):
            check(document, "Call", {**request.json, "version": 7})


async def test_the_survey_of_the_engine_http_is_as_openapi_has_it() -> None:
    document = contract("engine.openapi.yaml")
    start = NodeStarted(node_id="a", version="v1", root_pipeline_id="r", happened_at=1.5)
    answer = engine_calls.survey_answer([start])
    check(document, "Runs", answer)
    nodes = [("r", f"n{i}") for i in range(41)]
    with serving(lambda _: Reply(200, answer)) as server:
        engine = http_engine(Settings(engine_url=server.url, engine_survey=True))
        assert isinstance(engine, SurveyableHttpEngine)
        assert await engine.running(nodes) == [start, start], "one answer for each call"
        await engine.close()
    for request in server.requests:
        check(document, "Survey", request.json)
        assert "idempotency-key" not in request.headers
    asked = [engine_calls.read_survey(request.body) for request in server.requests]
    assert [each for some in asked for each in some] == nodes
    assert not isinstance(http_engine(Settings(engine_url="http://h")), SurveyableHttpEngine)


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"runs": 1},
        {"runs": [1]},
        {"runs": [{"node_id": "a", "version": "v"}]},
        {"runs": [{"node_id": "a", "version": "v", "root_pipeline_id": None, "started_at": 1}]},
        {"runs": [{"node_id": "a", "version": "v", "root_pipeline_id": "r"}]},
    ],
)
async def test_an_answer_to_the_survey_that_is_none_is_not_guessed_at(answer: Any) -> None:
    with serving(lambda _: Reply(200, answer)) as server:
        engine = http_engine(Settings(engine_url=server.url, engine_survey=True))
        assert isinstance(engine, SurveyableHttpEngine)
        with pytest.raises(EngineUnavailableError, match="answer to running"):
            await engine.running([("r", "n")])
        await engine.close()


def examples() -> list[Any]:
    messages = contract("events.asyncapi.yaml")["components"]["messages"]["events"]["examples"]
    return [example["payload"] for example in messages]


@pytest.mark.parametrize("payload", examples())
def test_the_examples_of_asyncapi_are_read_whole(payload: Any) -> None:
    check(contract("events.asyncapi.yaml"), "Events", payload)
    read, unreadable = events.decode(json.dumps(payload).encode(), RULES, time.time())
    assert (len(read), unreadable) == (1, [])


@pytest.mark.parametrize(
    "change",
    [
        {"event": "node_began"},
        {"node_id": ""},
        {"node_id": "n" * 129},
        {"version": "v" * 65},
        {"version": 7},
        {"happened_at": "now"},
        {"happened_at": None},
        {"surprise": 1},
        {"root_pipeline_id": None},
        {"timeout_config": {"enable": True, "action": "forced_fail"}},
        {"timeout_config": {"enable": 1, "action": "forced_fail", "seconds": 5}},
        {"timeout_config": {"enable": True, "action": "forced_fail", "seconds": 0}},
    ],
)
def test_what_asyncapi_forbids_is_refused(change: dict[str, Any]) -> None:
    payload = examples()[0]
    event = {**payload["events"][0], **change}
    if event["root_pipeline_id"] is None:
        del event["root_pipeline_id"]
    payload["events"] = [event]
    with pytest.raises(jsonschema.ValidationError):
        check(contract("events.asyncapi.yaml"), "Events", payload)
    read, (unreadable,) = events.decode(json.dumps(payload).encode(), RULES, time.time())
    assert read == []
    assert unreadable.reason
