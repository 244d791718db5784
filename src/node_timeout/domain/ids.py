"""Rules for the ids of a node, a root pipeline and a version."""

from __future__ import annotations

import re

from node_timeout.domain.errors import InvalidNodeRunError
from node_timeout.domain.hints import shown

MAX_ID_LENGTH = 128
MAX_VERSION_LENGTH = 64
MAX_TRACE_LENGTH = 55
_ID = re.compile(r"(?!\s)[^\x00-\x1f\x7f\ud800-\udfff]+(?<!\s)")


def id_problem(what: str, value: object, max_length: int = MAX_ID_LENGTH) -> str | None:
    """Say what is wrong with an id, or return None.

    An id is 1 to ``max_length`` characters of text, without control characters or surrogates and
    without white space at its ends (databases disagree on whether such white space counts).
    """
    if isinstance(value, str) and len(value) <= max_length and _ID.fullmatch(value):
        return None
    if not isinstance(value, str):
        return f"{what} {shown(value)} is {type(value).__name__}, not text"
    if not value:
        return f"{what} is empty"
    if len(value) > max_length:
        return (
            f"{what} {value[:32] + '…'!r} has {len(value)} characters, "
            f"at most {max_length} are allowed"
        )
    if value != value.strip():
        return f"{what} {value!r} begins or ends with white space"
    return f"{what} {value!r} has a control character or a lone surrogate"


def check_ids(node_id: object, version: object, root_pipeline_id: object = None) -> None:
    """Raise `InvalidNodeRunError` that lists every fault. A missing root is not checked."""
    problems = [
        id_problem("node id", node_id),
        id_problem(f"version of node {shown(node_id)}", version, MAX_VERSION_LENGTH),
        None
        if root_pipeline_id is None
        else id_problem(f"root pipeline id of node {shown(node_id)}", root_pipeline_id),
    ]
    if any(problems):
        raise InvalidNodeRunError(*filter(None, problems))
