"""Strict JSON: no key twice in one object, no number that JSON does not allow."""

import json
import math
from typing import Any

MOST_DIGITS = 300
"""An integer with at most this many digits always fits into a float."""


def loads(raw: bytes | str) -> Any:
    """The value. Raises ValueError that says what is wrong, also if it is nested too deeply."""
    try:
        return json.loads(
            raw,
            object_pairs_hook=_object,
            parse_constant=_refuse,
            parse_float=_number,
            parse_int=_integer,
        )
    except UnicodeDecodeError as error:
        raise ValueError("is not UTF-8 text") from error
    except RecursionError as error:
        raise ValueError("is nested too deeply") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r:.200} occurs twice in one object")
        found[key] = value
    return found


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not a JSON number")


def _integer(text: str) -> int:
    """Refuse integers that a float cannot hold: arithmetic with instants would fail."""
    if len(text) > MOST_DIGITS:
        _number(text)
    return int(text)


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text:.40} is too large")
    return value
