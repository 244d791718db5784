"""Events of the workflow engine, and their wire form in the events queue.

``{"schema": 1, "events": [event, …]}``, UTF-8 JSON, each event one of

    {"event": "node_running", "node_id": str, "version": str, "happened_at": Unix seconds,
     "root_pipeline_id": str,
     "timeout_config": {"enable": bool, "action": str, "seconds": number, "payload": any JSON},
     "traceparent": str}
    {"event": "node_left", "node_id": str, "version": str, "happened_at": Unix seconds,
     "root_pipeline_id": str}
    {"event": "node_paused" or "node_resumed", the other keys as in "node_left"}

Optional are: in each event, the lines after its first; the ``payload``; in ``node_left``, the
``version``. A message with an unknown schema number is refused.
``docs/reference/events.asyncapi.yaml`` is the contract for other languages.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from node_timeout import tracing
from node_timeout.domain.config_check import ConfigRules
from node_timeout.domain.errors import InvalidInputError
from node_timeout.domain.events import Event, NodeLeft, NodeStarted
from node_timeout.domain.hints import shown
from node_timeout.domain.ids import check_ids
from node_timeout.domain.run import Node
from node_timeout.domain.timeout_config import TimeoutConfig, read_config
from node_timeout.wire.dispatch import Unreadable, read_entries

SCHEMA = 1
MAX_AHEAD_SECONDS = 3600.0
MAX_AGE_SECONDS = 10 * 366 * 86400.0
"""An event may have waited long, but an instant this old has the wrong unit or epoch."""

_IDS = {"event", "node_id", "version", "happened_at", "root_pipeline_id"}
_KEYS = {
    "node_running": {
        "event",
        "node_id",
        "version",
        "happened_at",
        "root_pipeline_id",
        "timeout_config",
        tracing.HEADER,
    },
    "node_left": _IDS,
    "node_paused": _IDS,
    "node_resumed": _IDS,
}


def decode(body: bytes, rules: ConfigRules, now: float) -> tuple[list[Event], list[Unreadable]]:
    """Read a message; a bad event does not affect the others. Raises `UnreadableMessageError`."""
    events: list[Event] = []
    unreadable: list[Unreadable] = []
    entries = read_entries(body, SCHEMA, "events")
    for entry, event in zip(entries, _events(entries, rules, now), strict=True):
        if isinstance(event, InvalidInputError):
            message = json.dumps({"schema": SCHEMA, "events": [entry]}).encode()
            unreadable.append(Unreadable(body=message, reason=str(event)))
        else:
            events.append(event)
    return events, unreadable


def read(body: bytes, rules: ConfigRules, now: float) -> list[Event | InvalidInputError]:
    """The events of a message in order; a bad event is replaced by its error.

    Raises `UnreadableMessageError`.
    """
    return _events(read_entries(body, SCHEMA, "events"), rules, now)


def _events(
    entries: Sequence[Any], rules: ConfigRules, now: float
) -> list[Event | InvalidInputError]:
    found: list[Event | InvalidInputError] = []
    for entry in entries:
        try:
            found.append(_event(entry, rules, now))
        except InvalidInputError as error:
            found.append(error)
    return found


def encode(events: Sequence[Event]) -> bytes:
    """The message that `decode` reads; an event without an instant stays without one."""
    return json.dumps({"schema": SCHEMA, "events": [_entry(event) for event in events]}).encode()


def _entry(event: Event) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "node_id": event.node_id,
        "version": event.version,
        "happened_at": event.happened_at,
    }
    if event.root_pipeline_id is not None:
        entry["root_pipeline_id"] = event.root_pipeline_id
    if isinstance(event, NodeLeft):
        return {"event": "node_paused" if event.is_pause else "node_left", **entry}
    entry = {"event": "node_running", **entry}
    if event.trace is not None:
        entry[tracing.HEADER] = event.trace
    if event.config:
        entry["timeout_config"] = {
            "enable": True,
            "action": event.config.action,
            "seconds": event.config.timeout,
        }
        if event.config.payload_json is not None:
            entry["timeout_config"]["payload"] = event.config.payload
    return entry


def in_rounds(events: Sequence[Event]) -> list[list[Event]]:
    """Split events so that each round has at most one event per node, and each node's events are in
    order of time.

    The roots of the events must be known.
    """
    rounds: list[list[Event]] = []
    seen: dict[Node, int] = {}
    for event in sorted(events, key=lambda event: event.happened_at or math.inf):
        number = seen.get(event.node, 0)
        seen[event.node] = number + 1
        if number == len(rounds):
            rounds.append([])
        rounds[number].append(event)
    return rounds


def _event(entry: Any, rules: ConfigRules, now: float) -> Event:
    if not isinstance(entry, Mapping):
        raise InvalidInputError(f"{shown(entry)} is not an object with event, node_id, …")
    kind = entry.get("event")
    keys = _KEYS.get(kind) if isinstance(kind, str) else None
    if keys is None:
        raise InvalidInputError(f"event {shown(kind)} is not one of {', '.join(_KEYS)}")
    if unknown := sorted(str(key) for key in set(entry) - keys):
        raise InvalidInputError(f"{kind} has the unknown keys {', '.join(unknown):.200}")
    happened_at = _instant(entry, now)
    ids: dict[str, Any] = {
        name: entry.get(name) for name in ("node_id", "version", "root_pipeline_id")
    }
    names_no_version = kind == "node_left" and ids["version"] is None
    check_ids(**ids | ({"version": "any"} if names_no_version else {}))
    if kind in ("node_left", "node_paused"):
        is_pause = kind == "node_paused"
        remember = not names_no_version
        return NodeLeft(**ids, happened_at=happened_at, remember=remember, is_pause=is_pause)
    config = _config(ids["node_id"], entry, rules)
    trace = tracing.read(entry.get(tracing.HEADER))
    return NodeStarted(**ids, happened_at=happened_at, config=config, trace=trace)


def _instant(entry: Mapping[str, Any], now: float) -> float:
    value = entry.get("happened_at")
    if isinstance(value, bool) or not isinstance(value, int | float):
        problem = "is not a number of Unix seconds"
    elif not value <= now + MAX_AHEAD_SECONDS:
        problem = "lies in the future; Unix seconds are meant"
    elif value < now - MAX_AGE_SECONDS:
        problem = "is ten years ago or more; Unix seconds are meant"
    else:
        return float(value)
    raise InvalidInputError(
        f"happened_at {shown(value)} of node {shown(entry.get('node_id'))} {problem}"
    )


def _config(node_id: str, entry: Mapping[str, Any], rules: ConfigRules) -> TimeoutConfig | None:
    """The config that the event carries; None if it carries none, or one that is no timeout."""
    if entry.get("timeout_config") is None:
        return None
    return read_config(node_id, entry.get("root_pipeline_id"), entry["timeout_config"], rules)
