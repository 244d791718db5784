"""Calls to an engine over HTTP; the contract is docs/reference/engine.openapi.yaml."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from node_timeout.domain.errors import UnreadableMessageError
from node_timeout.domain.events import NodeStarted
from node_timeout.domain.ids import check_ids
from node_timeout.domain.run import Node, TimedOutNode

SCHEMA = 1
OPERATIONS = ("state", "fail", "skip")
"""Operations on one node run."""
SURVEY = "running"
"""An operation on many nodes: which of them run. Optional for an engine."""
SURVEYED_AT_ONCE = 40
"""Nodes in one call: even with the longest possible ids, the answer is read in full."""
MAX_CALL_BYTES = 64 * 1024


def request_body(operation: str, node: TimedOutNode, reason: str) -> dict[str, Any]:
    """The body of a call."""
    return {
        "schema": SCHEMA,
        "operation": operation,
        "idempotency_key": idempotency_key(operation, node),
        "node_id": node.node_id,
        "version": node.version,
        "root_pipeline_id": node.root_pipeline_id,
        "action": node.action,
        "deadline": node.deadline,
        "reason": reason,
    }


def idempotency_key(operation: str, node: TimedOutNode) -> str:
    """The key of an operation on a node run, the same in every attempt; 64 hexadecimal digits."""
    return hashlib.sha256(f"{operation}\n{node.run_id}".encode()).hexdigest()


def survey_body(nodes: Sequence[Node]) -> dict[str, Any]:
    """The body of a `SURVEY` call."""
    asked = [{"root_pipeline_id": root, "node_id": node_id} for root, node_id in nodes]
    return {"schema": SCHEMA, "operation": SURVEY, "nodes": asked}


def read_survey(body: bytes) -> list[Node]:
    """The nodes that a `SURVEY` call asks for. Raises `UnreadableMessageError`."""
    nodes = _call(body, SURVEY).get("nodes")
    if not isinstance(nodes, list) or len(nodes) > SURVEYED_AT_ONCE:
        raise UnreadableMessageError(f"nodes is not a list of at most {SURVEYED_AT_ONCE}")
    if not all(isinstance(each, dict) for each in nodes):
        raise UnreadableMessageError("nodes has what is no object")
    return [(_text(each, "root_pipeline_id"), _text(each, "node_id")) for each in nodes]


def survey_answer(starts: Iterable[NodeStarted]) -> dict[str, Any]:
    """The answer to `SURVEY`: the running runs and their starts, Unix seconds, engine's clock."""
    return {
        "runs": [
            {
                "root_pipeline_id": each.root_pipeline_id,
                "node_id": each.node_id,
                "version": each.version,
                "started_at": each.happened_at,
            }
            for each in starts
        ]
    }


def read_survey_answer(answer: Mapping[str, Any]) -> list[NodeStarted]:
    """Read an answer to `SURVEY`. Raises `UnreadableMessageError` or `InvalidNodeRunError`."""
    runs = answer.get("runs")
    if not isinstance(runs, list) or not all(isinstance(each, dict) for each in runs):
        raise UnreadableMessageError("runs is not a list of objects")
    for each in runs:
        check_ids(each.get("node_id"), each.get("version"), each.get("root_pipeline_id") or "")
    return [
        NodeStarted(
            node_id=each["node_id"],
            version=each["version"],
            root_pipeline_id=each["root_pipeline_id"],
            happened_at=_number(each, "started_at"),
        )
        for each in runs
    ]


def read_call(body: bytes, operation: str) -> tuple[TimedOutNode, str]:
    """The node run that a call is about, and the call's reason.

    Raises `UnreadableMessageError` or `InvalidNodeRunError` if it is no call of this operation.
    """
    call = _call(body, operation)
    check_ids(call.get("node_id"), call.get("version"), call.get("root_pipeline_id") or "")
    node = TimedOutNode(
        node_id=call["node_id"],
        version=call["version"],
        root_pipeline_id=call["root_pipeline_id"],
        action=_text(call, "action"),
        deadline=_number(call, "deadline"),
        attempt=1,
    )
    return node, _text(call, "reason")


def _call(body: bytes, operation: str) -> dict[str, Any]:
    try:
        call = json.loads(body)
    except (ValueError, RecursionError):
        raise UnreadableMessageError("the body is not JSON") from None
    if not isinstance(call, dict):
        raise UnreadableMessageError("the body is not a JSON object")
    if call.get("schema") != SCHEMA or isinstance(call.get("schema"), bool):
        raise UnreadableMessageError(f"schema is not {SCHEMA}")
    if call.get("operation") != operation:
        raise UnreadableMessageError(f"operation is not {operation!r}, which the path names")
    return call


def _text(call: dict[str, Any], name: str) -> str:
    value = call.get(name)
    if not isinstance(value, str):
        raise UnreadableMessageError(f"{name} is missing, or is no text")
    return value


def _number(call: dict[str, Any], name: str) -> float:
    value = call.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise UnreadableMessageError(f"{name} is missing, or is no number")
    return float(value)
