"""Reads JSON files for the command line, strictly."""

import sys
from pathlib import Path
from typing import Any

from node_timeout.domain.errors import InvalidInputError
from node_timeout.wire import strict_json

STANDARD_INPUT = Path("-")


def read_json(source: Path) -> Any:
    """The JSON value in a file, or in standard input for ``-``.

    A byte order mark is allowed. A key that occurs twice in one object and a number that JSON does
    not have (NaN, infinity) are refused. Raises `InvalidInputError`, which names the file.
    """
    name = "standard input" if source == STANDARD_INPUT else str(source)
    try:
        raw = sys.stdin.buffer.read() if source == STANDARD_INPUT else source.read_bytes()
        return strict_json.loads(raw)
    except OSError as error:
        raise InvalidInputError(f"{name}: {error.strerror}") from error
    except ValueError as error:
        raise InvalidInputError(f"{name}: {error}") from error
