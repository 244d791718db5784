"""Calls to an engine over HTTP: docs/reference/engine.openapi.yaml."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

from node_timeout.domain.errors import UnreadableMessageError
from node_timeout.domain.run import TimedOutNode, check_ids

SCHEMA = 1
OPERATIONS = ("state", "fail", "skip")
MAX_CALL_BYTES = 64 * 1024


def request_body(operation: str, node: TimedOutNode, reason: str) -> dict[str, Any]:
    """What a call carries."""
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
    """The same for every attempt at one operation on one node run; 64 hexadecimal digits."""
    return hashlib.sha256(f"{operation}\n{node.run_id}".encode()).hexdigest()


def read_call(body: bytes, operation: str) -> tuple[TimedOutNode, str]:
    """The node run that a call is about, and its reason.

    Raises `UnreadableMessageError` or `InvalidNodeRunError` for what is no call of this operation.
    """
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
    check_ids(call.get("node_id"), call.get("version"), call.get("root_pipeline_id", ""))
    node = TimedOutNode(
        node_id=call["node_id"],
        version=call["version"],
        root_pipeline_id=call["root_pipeline_id"],
        action=_text(call, "action"),
        deadline=_number(call, "deadline"),
        attempt=1,
    )
    return node, _text(call, "reason")


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
