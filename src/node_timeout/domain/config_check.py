"""Checks a timeout config: its keys, its action, its seconds, its payload."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from node_timeout.domain.durations import parse_duration
from node_timeout.domain.errors import InvalidInputError
from node_timeout.domain.hints import Problems, shown
from node_timeout.older_python import dataclass

KEYS = ("enable", "action", "seconds")
AFTER = "after"
"""The key that may replace ``seconds``: an ISO 8601 duration."""
PAYLOAD = "payload"
"""An optional key: JSON that is passed to the strategy unchanged."""
ALL_KEYS = (*KEYS, AFTER, PAYLOAD)
MAX_PAYLOAD_LENGTH = 16_384
MAX_PAYLOAD_DEPTH = 64
"""Nested objects and lists: every JSON reader of a payload can handle this depth."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigRules:
    """What a config is checked against: the installed actions, and the bounds of a timeout."""

    actions: Collection[str]
    max_seconds: float
    min_seconds: float = 0.0


def check_config(
    node_id: str, config: Any, rules: ConfigRules, problems: Problems
) -> dict[str, Any]:
    """Return the config with ``seconds`` as a number; append each of its faults to ``problems``."""
    if not isinstance(config, Mapping):
        problems.append(
            f"node {node_id!r}: timeout config is {type(config).__name__}, "
            f"not a dict with the keys {', '.join(KEYS)}"
        )
        return {}
    for key in KEYS:
        if key not in config and not (key == "seconds" and AFTER in config):
            problems.append(f"node {node_id!r}: key {key!r} is missing")
    for key in config:
        if key not in ALL_KEYS:
            problems.append(
                f"node {node_id!r}: key {shown(key)} is not one of {', '.join(ALL_KEYS)}"
                f"{problems.did_you_mean(key, ALL_KEYS)}"
            )
    enable, action, seconds = (config.get(key) for key in KEYS)
    if "enable" in config and not isinstance(enable, bool):
        problems.append(f"node {node_id!r}: enable is {shown(enable)}, not True or False")
    if "action" in config and not (isinstance(action, str) and action in rules.actions):
        problems.append(
            f"node {node_id!r}: action {shown(action)} is unknown"
            f"{problems.did_you_mean(action, rules.actions)}"
            f" (installed: {', '.join(sorted(rules.actions))})"
        )
    number = _seconds(node_id, config, seconds, rules, problems)
    payload = _checked_payload(node_id, config.get(PAYLOAD), problems)
    return {"enable": enable, "action": action, "seconds": number} | payload


def _seconds(
    node_id: str, config: Mapping[Any, Any], seconds: Any, rules: ConfigRules, problems: Problems
) -> int | float | None:
    """The timeout in seconds, given by either key."""
    if AFTER in config and "seconds" in config:
        problems.append(f"node {node_id!r}: say either seconds or {AFTER}, not both")
        return None
    said, value, number = "seconds", seconds, _number(seconds)
    if AFTER in config:
        said, value = AFTER, config[AFTER]
        try:
            number = parse_duration(value)
        except InvalidInputError as error:
            problems.append(f"node {node_id!r}: {AFTER} {error}")
            return None
    if said in config and not (number is not None and _is_allowed(number, rules)):
        least = f"at least {rules.min_seconds:.15g}" if rules.min_seconds else "above 0"
        what = "a number" if said == "seconds" else "a number of seconds"
        problems.append(
            f"node {node_id!r}: {said} is {shown(value)}, "
            f"not {what} {least} and at most {rules.max_seconds:.15g}"
        )
    return number


def _checked_payload(node_id: str, payload: Any, problems: Problems) -> dict[str, Any]:
    """The payload under its key; an empty dict if there is none."""
    try:
        return {} if payload_text(payload) is None else {PAYLOAD: payload}
    except ValueError as error:
        problems.append(f"node {node_id!r}: payload {error}")
        return {}


def payload_text(payload: Any) -> str | None:
    """A payload as ASCII JSON, which every database stores unchanged; None if there is none.

    Raises ValueError.
    """
    if payload is None:
        return None
    try:
        text = json.dumps(payload, allow_nan=False, separators=(",", ":"))
        json.dumps(payload, ensure_ascii=False).encode()  # no lone surrogates: they cannot be sent
    except RecursionError:
        raise ValueError(f"is nested deeper than {MAX_PAYLOAD_DEPTH}") from None
    except (TypeError, ValueError) as error:
        raise ValueError(f"cannot be written as JSON: {error}") from None
    if len(text) > MAX_PAYLOAD_LENGTH:
        raise ValueError(
            f"has {len(text)} characters as JSON, at most {MAX_PAYLOAD_LENGTH} are allowed"
        )
    if is_nested_too_deep(payload):
        raise ValueError(f"is nested deeper than {MAX_PAYLOAD_DEPTH}")
    return text


def is_nested_too_deep(payload: Any) -> bool:
    """Whether JSON has more than `MAX_PAYLOAD_DEPTH` objects and lists inside each other."""
    values = [payload]
    for _ in range(MAX_PAYLOAD_DEPTH):
        values = [inner for each in values for inner in _inside(each)]
    return any(isinstance(each, (dict, list, tuple)) for each in values)


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, (list, tuple)) else ()


def _is_allowed(seconds: float, rules: ConfigRules) -> bool:
    return seconds > 0 and rules.min_seconds <= seconds <= rules.max_seconds


def _number(value: Any) -> int | float | None:
    """Read a finite number; text such as ``"10"`` counts. None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    if isinstance(value, int):
        return value
    try:
        number = float(value)
    except ValueError:
        return None
    if not math.isfinite(number):
        return None
    return int(number) if isinstance(value, str) and number.is_integer() else number
