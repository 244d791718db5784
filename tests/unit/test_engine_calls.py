"""Calls to an engine over HTTP, as the engine's side reads them."""

import json
from typing import Any

import pytest

from node_timeout.domain.errors import InvalidNodeRunError, UnreadableMessageError
from node_timeout.domain.run import TimedOutNode
from node_timeout.wire.engine_calls import (
    OPERATIONS,
    SURVEYED_AT_ONCE,
    read_call,
    read_survey,
    request_body,
    survey_body,
)

NODE = TimedOutNode(
    node_id="节点", version="v1", root_pipeline_id="r", action="x", deadline=1.5, attempt=1
)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_what_is_sent_is_what_is_read(operation: str) -> None:
    body = json.dumps(request_body(operation, NODE, "why")).encode()
    assert read_call(body, operation) == (NODE, "why")


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 2},
        {"schema": True},
        {"schema": None},
        {"operation": "skip"},
        {"node_id": ""},
        {"node_id": 7},
        {"version": "v" * 65},
        {"root_pipeline_id": None},
        {"root_pipeline_id": ""},
        {"action": None},
        {"deadline": "soon"},
        {"deadline": True},
        {"deadline": float("nan")},
        {"reason": 1},
    ],
)
def test_a_wrong_call_is_refused(change: dict[str, Any]) -> None:
    body = json.dumps(request_body("fail", NODE, "why") | change).encode()
    with pytest.raises((UnreadableMessageError, InvalidNodeRunError)):
        read_call(body, "fail")


@pytest.mark.parametrize("body", [b"", b"no", b"[]", b"1", b"\xff\xfe", b"[" * 60_000])
def test_what_is_no_call_is_refused(body: bytes) -> None:
    for read in (lambda: read_call(body, "fail"), lambda: read_survey(body)):
        with pytest.raises(UnreadableMessageError):
            read()


def test_a_survey_is_bounded_and_of_nodes() -> None:
    nodes = [("r", f"n{i}") for i in range(SURVEYED_AT_ONCE)]
    assert read_survey(json.dumps(survey_body(nodes)).encode()) == nodes
    one = survey_body(nodes[:1])["nodes"]
    for wrong in (one * (SURVEYED_AT_ONCE + 1), "r", [7], [{"node_id": "n"}], None):
        with pytest.raises(UnreadableMessageError):
            read_survey(json.dumps(survey_body([]) | {"nodes": wrong}).encode())
