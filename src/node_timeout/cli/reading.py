"""What the command line reads: JSON, strictly."""

import json
import math
import sys
from pathlib import Path
from typing import Any

from node_timeout.domain.errors import InvalidInputError

STANDARD_INPUT = Path("-")


def read_json(source: Path) -> Any:
    """The JSON value in a file, or in standard input for ``-``.

    A byte order mark is allowed. A key that occurs twice in one object and a number that JSON does
    not have (NaN, infinity) are refused. Raises `InvalidInputError` that names the file.
    """
    name = "standard input" if source == STANDARD_INPUT else str(source)
    try:
        raw = sys.stdin.buffer.read() if source == STANDARD_INPUT else source.read_bytes()
        return json.loads(
            raw, object_pairs_hook=_object, parse_constant=_refuse, parse_float=_number
        )
    except OSError as error:
        raise InvalidInputError(f"{name}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{name}: is not UTF-8 text") from error
    except RecursionError as error:
        raise InvalidInputError(f"{name}: is nested too deeply") from error
    except ValueError as error:
        raise InvalidInputError(f"{name}: {error}") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r:.200} occurs twice in one object")
        found[key] = value
    return found


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not a JSON number")


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text:.40} is too large")
    return value
