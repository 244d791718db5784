"""The wire form of a dispatch message: which node runs are due.

``{"schema": 1, "lease": Unix seconds, "traceparent": str, "runs": [{"run_id": str, "deadline": Unix
seconds}, …]}``, UTF-8 JSON. ``lease`` is the lease under which the scanner has claimed the runs,
``traceparent`` belongs to its span; both may be missing. A run that an engine has put into the pool
itself has ``node_id`` and ``version`` in place of ``run_id``. A message with an unknown schema
number is refused.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from node_timeout import tracing
from node_timeout.domain.errors import InvalidNodeRunError, UnreadableMessageError
from node_timeout.domain.hints import shown
from node_timeout.domain.run import DueRun, ForeignRun
from node_timeout.domain.run_id import is_run_id

SCHEMA = 1
MAX_BODY_BYTES = 4 * 1024 * 1024
MAX_ENTRIES = 10_000
"""The most entries in a message: each may become a dead letter of its own."""
MAX_UNIX_SECONDS = 1e12


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreadable:
    """A message that cannot be read, or one such entry of a readable message, as a message."""

    body: bytes
    reason: str


def encode(
    due: Sequence[DueRun | ForeignRun], lease: float | None = None, trace: str | None = None
) -> bytes:
    """The message that `decode` reads; all its runs were claimed under one lease."""
    message: dict[str, Any] = {"schema": SCHEMA}
    if lease is not None:
        message["lease"] = lease
    if trace is not None:
        message[tracing.HEADER] = trace
    message["runs"] = [_entry(each) for each in due]
    return json.dumps(message, separators=(",", ":")).encode()


def _entry(due: DueRun | ForeignRun) -> dict[str, Any]:
    if isinstance(due, DueRun):
        return {"run_id": due.run_id, "deadline": due.due_at}
    return {"node_id": due.node_id, "version": due.version, "deadline": due.due_at}


def decode(body: bytes) -> tuple[list[DueRun | ForeignRun], list[Unreadable]]:
    """Read a message; a bad entry does not affect the others. Raises `UnreadableMessageError`."""
    due: list[DueRun | ForeignRun] = []
    unreadable: list[Unreadable] = []
    message = read_message(body, SCHEMA, "runs")
    lease, trace = _lease(message), tracing.read(message.get(tracing.HEADER))
    for entry in message["runs"]:
        try:
            due.append(_due_run(entry, lease, trace))
        except InvalidNodeRunError as error:
            letter = json.dumps({"schema": SCHEMA, "runs": [entry]}).encode()
            unreadable.append(Unreadable(body=letter, reason=str(error)))
    return due, unreadable


def read_entries(body: bytes, schema: int, key: str) -> list[Any]:
    """The list ``key`` of a JSON message of this schema. Raises `UnreadableMessageError`."""
    entries: list[Any] = read_message(body, schema, key)[key]
    return entries


def read_message(body: bytes, schema: int, key: str) -> dict[str, Any]:
    """A JSON message of this schema, with a list ``key``. Raises `UnreadableMessageError`."""
    if len(body) > MAX_BODY_BYTES:
        raise UnreadableMessageError(f"{len(body)} bytes, at most {MAX_BODY_BYTES} are read")
    try:
        message = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise UnreadableMessageError(f"not JSON: {error}") from error
    if not isinstance(message, dict):
        raise UnreadableMessageError(f"a JSON {type(message).__name__}, not an object")
    if message.get("schema") != schema:
        raise UnreadableMessageError(
            f"schema {shown(message.get('schema'))} is unknown, this version reads {schema}"
        )
    entries = message.get(key)
    if not isinstance(entries, list):
        raise UnreadableMessageError(f"{key!r} is not a list")
    if len(entries) > MAX_ENTRIES:
        raise UnreadableMessageError(f"{len(entries)} {key}, at most {MAX_ENTRIES} are read")
    return message


def how_many(sizes: Sequence[int], max_bytes: int | None) -> int:
    """How many of the first messages fit into ``max_bytes`` together; the first always counts."""
    if max_bytes is None:
        return len(sizes)
    return max(1, sum(total <= max_bytes for total in accumulate(sizes))) if sizes else 0


def _lease(message: dict[str, Any]) -> float | None:
    """The lease; None if it cannot be read: the runs are then put back as `Pool.lower` does it."""
    lease = message.get("lease")
    if isinstance(lease, bool) or not isinstance(lease, int | float):
        return None
    return float(lease) if abs(lease) < MAX_UNIX_SECONDS else None


def _due_run(entry: Any, lease: float | None, trace: str | None) -> DueRun | ForeignRun:
    if not isinstance(entry, dict):
        raise InvalidNodeRunError(f"{shown(entry)} is not an object with run_id and deadline")
    deadline = entry.get("deadline")
    if isinstance(deadline, bool) or not isinstance(deadline, int | float):
        raise InvalidNodeRunError(f"deadline {shown(deadline)} is not a number of Unix seconds")
    if not abs(deadline) < MAX_UNIX_SECONDS:
        raise InvalidNodeRunError(f"deadline {shown(deadline)} is out of range")
    run_id = entry.get("run_id")
    if run_id is None:
        return ForeignRun.of(entry.get("node_id"), entry.get("version"), float(deadline))
    if not isinstance(run_id, str) or not is_run_id(run_id):
        raise InvalidNodeRunError(f"run_id {shown(run_id)} is no run id")
    return DueRun(run_id=run_id, due_at=float(deadline), lease=lease, trace=trace)
