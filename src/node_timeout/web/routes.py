"""Every route with the role that it needs, and what all answers have in common."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from node_timeout.app import NodeTimeout
from node_timeout.domain.errors import (
    AmbiguousNodeError,
    InvalidInputError,
    LedgerError,
    NodeTimeoutError,
    TemporaryError,
    UnreadableMessageError,
)
from node_timeout.domain.tokens import Role
from node_timeout.urls.redaction import redact
from node_timeout.web import api, console, pages
from node_timeout.web.access import Access, Caller
from node_timeout.web.api import Call, Json
from node_timeout.web.changing import CHANGES
from node_timeout.web.console import to_login
from node_timeout.web.problems import MEDIA_TYPE, Problem
from node_timeout.web.rendering import render
from node_timeout.web.shared import Shared

logger = logging.getLogger(__name__)

REQUEST_SECONDS = 30.0
UNAUTHORIZED, UNAVAILABLE = 401, 503
CONTRACT = "api.openapi.yaml"
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
Handler = Callable[[Call], Awaitable[Response]]
Answer = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Operation:
    """What a route offers."""

    method: str
    path: str
    role: Role
    handler: Handler


API = "/api/v1"
OPERATIONS = (
    Operation("POST", f"{API}/events", Role.EVENTS, api.post_events),
    Operation("GET", f"{API}/runs", Role.READ, api.get_runs),
    Operation("GET", f"{API}/run", Role.READ, api.get_run),
    *(Operation("POST", f"{API}/runs/{name}", Role.OPERATE, api.post_change) for name in CHANGES),
    Operation("GET", f"{API}/configs", Role.READ, api.get_configs),
    Operation("PUT", f"{API}/configs", Role.ADMIN, api.put_configs),
    Operation("POST", f"{API}/roots/finished", Role.EVENTS, api.post_root),
    Operation("POST", f"{API}/roots/forget", Role.ADMIN, api.post_root),
    Operation("GET", f"{API}/status", Role.READ, api.get_status),
    Operation("GET", f"{API}/processes", Role.READ, api.get_processes),
    Operation("GET", f"{API}/lateness", Role.READ, api.get_lateness),
    Operation("GET", f"{API}/names", Role.READ, api.get_names),
    Operation("POST", f"{API}/letters/look", Role.OPERATE, api.look_at_letters),
    Operation("POST", f"{API}/letters/resend", Role.OPERATE, api.post_letters),
    Operation("POST", f"{API}/letters/discard", Role.OPERATE, api.post_letters),
)


PAGES: dict[str, Handler] = {
    "/": pages.overview,
    "/runs": pages.runs,
    "/dead": pages.dead,
    "/run": pages.run,
    "/search": pages.search,
    "/pipeline": pages.pipeline,
    "/lateness": pages.lateness_page,
    "/configs": pages.configs,
    "/processes": pages.processes,
    "/letters": pages.letters,
}
STEERING: dict[str, Handler] = {
    "/run/change": console.change_run,
    "/runs/change": console.change_runs,
    "/letters/change": console.change_letters,
}


def application(app: NodeTimeout, access: Access, is_ready: Callable[[], bool]) -> Starlette:
    """The ASGI application."""
    made = Starlette(
        routes=[
            *_operations(app, access),
            *_pages(app, access),
            *_about_itself(is_ready),
            Mount("/static", StaticFiles(packages=[("node_timeout.web", "static")])),
        ],
        middleware=[Middleware(_WithHeaders)],
        exception_handlers={HTTPException: _http_error},
    )
    made.state.is_read_only = app.settings.web_read_only
    made.state.overview = Shared(partial(pages.look_over, app))
    return made


def _operations(app: NodeTimeout, access: Access) -> list[Route]:
    def guarded(operation: Operation) -> Answer:
        async def answer(request: Request) -> Response:
            caller = await access.require(request, operation.role)
            return await operation.handler(Call(request=request, app=app, caller=caller))

        async def answered(request: Request) -> Response:
            return await _answered(answer, request, answer_to)

        return answered

    return [Route(each.path, guarded(each), methods=[each.method]) for each in OPERATIONS]


def _pages(app: NodeTimeout, access: Access) -> list[Route]:
    def shown(handler: Handler, role: Role) -> Answer:
        """A page: an unknown caller is redirected to the login; a problem is shown as a page."""

        async def answer(request: Request) -> Response:
            if await _known(access, request) is None:
                access.require_ours_to_change(request)
                return to_login(request)
            caller = await access.require(request, role)
            return await handler(Call(request=request, app=app, caller=caller))

        return as_page(answer)

    logins = console.logins(access)
    return [
        *(Route(path, shown(each, Role.READ), methods=["GET"]) for path, each in PAGES.items()),
        *(
            Route(path, shown(each, Role.OPERATE), methods=["POST"])
            for path, each in STEERING.items()
        ),
        Route("/login", as_page(logins["/login"]), methods=["GET", "POST"]),
        *(
            Route(path, as_page(logins[path]), methods=["POST"])
            for path in ("/logout", "/language")
        ),
    ]


def _about_itself(is_ready: Callable[[], bool]) -> list[Route]:
    async def healthz(_request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(_request: Request) -> Response:
        ready = is_ready()
        return PlainTextResponse("ok\n" if ready else "failing: stores\n", 200 if ready else 503)

    async def metrics(_request: Request) -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    async def contract(_request: Request) -> Response:
        return Response(contract_text(), media_type="application/yaml")

    return [
        Route(f"{API}/openapi.yaml", contract),
        Route("/healthz", healthz),
        Route("/readyz", readyz),
        Route("/metrics", metrics),
    ]


def contract_text() -> str:
    """The contract: in the wheel it is beside this module, in a checkout under ``docs``."""
    here = Path(__file__).parent / CONTRACT
    checkout = Path(__file__).parents[3] / "docs" / "reference" / CONTRACT
    return (here if here.exists() else checkout).read_text(encoding="utf-8")


async def _known(access: Access, request: Request) -> Caller | None:
    """The caller; None if unknown or if the token is wrong. Raises any other `Problem`."""
    try:
        return await access.caller(request)
    except Problem as problem:
        if problem.status != UNAUTHORIZED:
            raise
        return None


def as_page(answer: Answer) -> Answer:
    """Wrap a handler so that its problems are shown as pages."""

    async def answered(request: Request) -> Response:
        return await _answered(answer, request, page_of)

    return answered


async def _answered(
    answer: Answer, request: Request, refuse: Callable[[Request, Problem], Response]
) -> Response:
    """The answer, or the problem that prevents it."""
    try:
        async with asyncio.timeout(REQUEST_SECONDS):
            return await answer(request)
    except Exception as error:  # noqa: BLE001 - the edge: each is answered
        return refuse(request, problem_of(error))


STATUS: tuple[tuple[type[Exception], int], ...] = (
    (AmbiguousNodeError, 409),
    (InvalidInputError, 400),
    (UnreadableMessageError, 400),
    (LedgerError, 400),
    (TemporaryError, 503),
    (TimeoutError, 503),
    (NodeTimeoutError, 500),
)
"""The first match counts."""


def problem_of(error: Exception) -> Problem:
    """The problem that a caller gets for an error."""
    if isinstance(error, Problem):
        return error
    for kind, status in STATUS:
        if isinstance(error, kind):
            text = redact(str(error)) or f"no answer within {REQUEST_SECONDS:g} s"
            wait = max(1, round(getattr(error, "retry_after", 0.0)))
            headers = {"Retry-After": f"{wait}"} if status == UNAVAILABLE else {}
            problems = getattr(error, "problems", ())
            return Problem(status, text, problems=problems, headers=headers)
    logger.error("a request failed", exc_info=error)
    return Problem(500, "an error in node-timeout; its log says which")


def page_of(request: Request, problem: Problem) -> Response:
    answer = render(request, "problem.html", code=problem.status, caller=None, problem=problem)
    answer.headers.update(problem.headers)
    return answer


def answer_to(_request: Request, problem: Problem) -> Response:
    return Json(problem.as_dict(), problem.status, headers=problem.headers, media_type=MEDIA_TYPE)


async def _http_error(request: Request, error: Exception) -> Response:
    """Answer Starlette's own errors: no such address, wrong method."""
    status = getattr(error, "status_code", 500)
    headers = getattr(error, "headers", None) or {}
    text = {404: "there is nothing at this address", 405: "not by this method"}.get(status, "")
    return answer_to(request, Problem(status, text or str(error), headers=headers))


class _WithHeaders:
    """Adds to every answer the headers that restrict what a browser does with it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_static = scope["path"].startswith("/static/")

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = message.setdefault("headers", [])
                headers += [
                    (name.lower().encode(), value.encode()) for name, value in HEADERS.items()
                ]
                known = {name for name, _ in headers}
                if b"cache-control" not in known:
                    value = b"public, max-age=3600" if is_static else b"no-store"
                    headers.append((b"cache-control", value))
            await send(message)

        await self._app(scope, receive, sent)
