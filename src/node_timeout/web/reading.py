"""Strict reading of requests: bodies, queries, forms. Bad input raises `Problem`."""

import asyncio
from collections.abc import Collection, Mapping
from typing import Any
from urllib.parse import parse_qsl

from starlette.requests import ClientDisconnect, Request

from node_timeout.domain.durations import parse_seconds
from node_timeout.domain.errors import InvalidInputError
from node_timeout.domain.hints import did_you_mean, shown
from node_timeout.web.problems import Problem
from node_timeout.wire import strict_json

MAX_BODY_BYTES = 1024 * 1024
BODY_SECONDS = 15.0
MAX_FIELDS = 2000
JSON = "application/json"
FORM = "application/x-www-form-urlencoded"


async def body_of(request: Request, media_type: str) -> bytes:
    """The body: at most `MAX_BODY_BYTES`, received within `BODY_SECONDS`."""
    said = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if said != media_type:
        raise Problem(415, f"the content type is {shown(said)}, not {media_type}")
    if int(request.headers.get("content-length") or 0) > MAX_BODY_BYTES:
        raise too_large()
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    raise too_large()
    except TimeoutError:
        raise Problem(408, f"the body did not come within {BODY_SECONDS:g} s") from None
    except ClientDisconnect:
        raise Problem(400, "the connection ended before the body") from None
    return bytes(body)


def too_large() -> Problem:
    return Problem(413, f"a body has at most {MAX_BODY_BYTES} bytes")


async def json_of(request: Request) -> dict[str, Any]:
    """The JSON object in the body."""
    body = await body_of(request, JSON)
    try:
        found = strict_json.loads(body)
    except ValueError as error:
        raise Problem(400, f"the body is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise Problem(400, f"the body is a JSON {type(found).__name__}, not an object")
    return found


async def form_of(request: Request) -> dict[str, list[str]]:
    """The fields of a form, each with all its values."""
    body = await body_of(request, FORM)
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MAX_FIELDS)
    except ValueError as error:
        raise Problem(400, f"the form cannot be read: {error}") from None
    found: dict[str, list[str]] = {}
    for name, value in pairs:
        found.setdefault(name, []).append(value)
    return found


def query_of(request: Request, known: Collection[str]) -> dict[str, str]:
    """The non-empty query parameters; each may be given once."""
    found: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name in found:
            raise Problem(400, f"the parameter {shown(name)} is given twice")
        found[name] = value
    require_known(found, known, "parameter")
    return {name: value for name, value in found.items() if value}


def require_known(given: Mapping[str, Any], known: Collection[str], what: str) -> None:
    """Raises `Problem` that lists all unknown names."""
    problems = [
        f"the {what} {shown(name)} is unknown{did_you_mean(name, known)}"
        for name in given
        if name not in known
    ]
    if problems:
        raise Problem(400, problems[0], problems=problems)


def span_of(text: str, name: str) -> float:
    """A number of seconds, or an ISO 8601 duration."""
    try:
        return parse_seconds(text)
    except InvalidInputError as error:
        raise Problem(400, f"{name}: {error}") from None


def number_of(text: str, name: str, kind: type[int] | type[float] = float) -> Any:
    try:
        found = kind(text)
        float(found)
    except (ValueError, OverflowError):
        raise Problem(400, f"{name} is {shown(text)}, not a number") from None
    return found
