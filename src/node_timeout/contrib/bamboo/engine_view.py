"""Answers a worker that acts on this project's bamboo-engine over HTTP.

See docs/reference/engine.openapi.yaml. A caller must know the secret: ``engine_token``,
``engine_signing_key``, or both. If none is set, every call is refused.
"""

from __future__ import annotations

import hmac
import logging
import time
from typing import Any

from django.db import connections, transaction
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.csrf import csrf_exempt

from node_timeout.contrib.bamboo import client
from node_timeout.contrib.bamboo.switched_off import OFF, SwitchedOff
from node_timeout.domain.errors import (
    InvalidInputError,
    NodeRunSupersededError,
    NodeTimeoutError,
    StrategyRefusedError,
    TemporaryError,
    UnreadableMessageError,
)
from node_timeout.setting_rules import variable
from node_timeout.urls.redaction import redact
from node_timeout.wire.engine_calls import (
    MAX_CALL_BYTES,
    SURVEY,
    read_call,
    read_survey,
    survey_answer,
)
from node_timeout.wire.signing import verify

logger = logging.getLogger(__name__)

RETRY_SECONDS = 1


STATUSES: dict[type[NodeTimeoutError], int] = {
    UnreadableMessageError: 400,
    InvalidInputError: 400,
    NodeRunSupersededError: 409,
    StrategyRefusedError: 422,
    TemporaryError: 503,
}


class _RefusedCallError(Exception):
    """The call is refused before it reaches the engine."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def _engine_call(request: HttpRequest, operation: str) -> HttpResponse:
    """Do to the node run in the body what the path says; or list the running nodes."""
    try:
        body = _body(request)
        said = _running(body) if operation == SURVEY else _done(operation, body)
        answer = JsonResponse(said, json_dumps_params={"ensure_ascii": False})
    except _RefusedCallError as error:
        return _answer(error.status, str(error))
    except tuple(STATUSES) as error:
        status = next(STATUSES[kind] for kind in STATUSES if isinstance(error, kind))
        return _answer(status, str(error))
    except Exception:
        logger.exception("%s of a node run failed", operation)
        return _answer(500, "it failed; the project's log says why")
    return answer


def _running(body: bytes) -> dict[str, Any]:
    from node_timeout.engines.bamboo import bamboo_calls  # noqa: PLC0415 - as below

    nodes = read_survey(body)
    asked = {*nodes}
    starts = bamboo_calls.in_database(lambda: bamboo_calls.running(nodes))
    return survey_answer(each for each in starts if each.node in asked)


def _done(operation: str, body: bytes) -> dict[str, Any]:
    # Imported here, because it imports the engine's models and registers Celery tasks.
    from node_timeout.engines.bamboo import bamboo_calls  # noqa: PLC0415

    node, reason = read_call(body, operation)
    if operation == "state":
        return {"running": bamboo_calls.in_database(lambda: bamboo_calls.is_unfinished(node))}
    act = bamboo_calls.forced_fail if operation == "fail" else bamboo_calls.forced_fail_and_skip
    return {"message": bamboo_calls.in_database(lambda: act(node, reason))}


def _body(request: HttpRequest) -> bytes:
    """The body of the call, if the caller may make it. Raises `_RefusedCallError`."""
    if request.method != "POST":
        raise _RefusedCallError(405, "only POST is known here")
    ours = client()
    if isinstance(ours, SwitchedOff):
        raise _RefusedCallError(503, OFF)
    token, key = ours.settings.engine_token, ours.settings.engine_signing_key
    if not token and not key:
        raise _RefusedCallError(
            403,
            f"neither {variable('engine_token')} nor {variable('engine_signing_key')} is set in "
            "this project: nobody may call",
        )
    if token and not _is_same(request.headers.get("Authorization", ""), f"Bearer {token}"):
        raise _RefusedCallError(401, "the bearer token is missing or wrong")
    body = _bounded(request)
    if key and not verify(key, request.headers, body, now=time.time()):
        raise _RefusedCallError(401, "the signature is missing, wrong, or too old")
    return body


def _bounded(request: HttpRequest) -> bytes:
    body: bytes = request.read(MAX_CALL_BYTES + 1)
    if len(body) > MAX_CALL_BYTES:
        raise _RefusedCallError(413, f"the body has more than {MAX_CALL_BYTES} bytes")
    return body


def _is_same(given: str, expected: str) -> bool:
    """Compare in constant time."""
    return hmac.compare_digest(
        given.encode("utf-8", "surrogateescape"), expected.encode("utf-8", "surrogateescape")
    )


def _answer(status: int, message: str) -> HttpResponse:
    answer = JsonResponse({"message": redact(message)}, status=status)
    if status == 503:  # noqa: PLR2004 - try again
        answer["Retry-After"] = str(RETRY_SECONDS)
    if status == 401:  # noqa: PLR2004 - who are you
        answer["WWW-Authenticate"] = "Bearer"
    return answer


def _served() -> Any:
    view: Any = csrf_exempt(_engine_call)
    # BlueKing's platform redirects callers that are not logged in, unless the view is marked so.
    view.login_exempt = True
    # Messages that let a pipeline go on are sent after the commit, so the call must have its own
    # transaction, not the request's.
    for alias in connections:
        view = transaction.non_atomic_requests(using=alias)(view)
    return view


engine_call = _served()
"""The view."""
