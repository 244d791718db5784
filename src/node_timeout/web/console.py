"""Actions of the console: changes of runs, logging in and out, choosing a language."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlencode, urlsplit

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from node_timeout.domain.changes import Verdict
from node_timeout.domain.errors import InvalidInputError
from node_timeout.web import changing, pages
from node_timeout.web.access import Access, require_same_origin
from node_timeout.web.api import LETTERS, Call
from node_timeout.web.changing import CHANGES
from node_timeout.web.languages import COOKIE as LANGUAGE_COOKIE
from node_timeout.web.languages import LANGUAGES
from node_timeout.web.problems import Problem
from node_timeout.web.reading import form_of
from node_timeout.web.rendering import render
from node_timeout.web.sessions import COOKIE, SESSION_SECONDS

YEAR = 365 * 86400
ALL = "all"
SECONDS = re.compile(r"-?[0-9]{1,12}(\.[0-9]+)?")


async def change_run(call: Call) -> Response:
    """Change one run, from its own page."""
    form = _single(await form_of(call.request))
    name, run_id = form.get("change", ""), form.get("run_id", "")
    said = _order(name, form) | {"run_ids": [run_id]}
    with _leading_back(f"/run?{urlencode({'run_id': run_id})}"):
        report = await changing.carry_out(
            call.app,
            name,
            said,
            call.request,
            call.caller,
            if_revision=form.get("revision"),
            key=form.get("key"),
        )
    verdict = report.runs[0].verdict if report.runs else Verdict.MISSING
    if name == "discard" and verdict is Verdict.DONE:
        return RedirectResponse("/dead", 303)
    query = urlencode({"run_id": run_id, "change": name, "said": verdict})
    return RedirectResponse(f"/run?{query}", 303)


async def change_runs(call: Call) -> Response:
    """Change the selected runs of a list, or all that match."""
    form = await form_of(call.request)
    single = _single(form)
    name, tab = single.get("change", ""), single.get("tab", "armed")
    if tab not in pages.TABS:
        raise Problem(404, "there is no such list")
    said = _order(name, single)
    filters = {key: single[key] for key in pages.FILTERS if single.get(key)}
    is_all = single.get("which") == ALL
    if is_all:
        said |= pages.filters_of(tab, filters) | {"after": single.get("after")}
    elif run_ids := form.get("run_ids"):
        said["run_ids"] = run_ids
    else:
        return await pages.runs_page(call, {"tab": tab, **filters}, report={"nothing": True})
    key = single.get("key")
    with _leading_back(f"/runs?{urlencode({'tab': tab, **filters})}"):
        report = await changing.carry_out(call.app, name, said, call.request, call.caller, key=key)
    told = {
        "nothing": False,
        "change": name,
        "done": report.done,
        "verdicts": [
            (verdict, count)
            for verdict, count in report.verdicts.items()
            if verdict is not Verdict.DONE
        ],
        "again": {**single, "after": report.after} if report.after else None,
    }
    return await pages.runs_page(call, {"tab": tab, **filters}, report=told)


async def change_letters(call: Call) -> Response:
    """Show dead letters; or send again or drop the selected ones, or all."""
    form = await form_of(call.request)
    single = _single(form)
    name = single.get("change", "")
    if name == "look":
        return await pages.letters_page(call, found=await call.app.letters(LETTERS), said={})
    if name not in ("resend", "discard"):
        raise Problem(400, "choose what is to be done")
    act = call.app.resend_letters if name == "resend" else call.app.discard_letters
    with _leading_back("/letters"):
        sifted = await act(None if single.get("which") == ALL else form.get("letter_ids", []))
    return RedirectResponse(f"/letters?{urlencode({'done': len(sifted.taken)})}", 303)


@contextmanager
def _leading_back(path: str) -> Iterator[None]:
    """Give an error page a link back to ``path``."""
    try:
        yield
    except InvalidInputError as error:
        raise Problem(400, str(error), problems=error.problems, back=path) from error
    except Problem as problem:
        problem.more["back"] = path
        raise


def _single(form: Mapping[str, list[str]]) -> dict[str, str]:
    """The first value of each field."""
    return {name: values[0] for name, values in form.items()}


def _order(name: str, form: Mapping[str, str]) -> dict[str, Any]:
    if name not in CHANGES:
        raise Problem(400, "choose what is to be done")
    said: dict[str, Any] = {"reason": form.get("reason", "").strip()}
    if name == "extend":
        by = form.get("by", "").strip()
        said["by"] = float(by) if SECONDS.fullmatch(by) else by
    return said


def logins(access: Access) -> dict[str, Any]:
    """The handlers that need no login: login, logout and the choice of language."""

    async def login(request: Request) -> Response:
        if request.method == "GET":
            return _login_page(request)
        require_same_origin(request, is_local=False)
        form = _single(await form_of(request))
        text = form.get("token", "").strip()
        if access.has_tried_too_often(request):
            raise Problem(429, "too many logins", headers={"Retry-After": "10"})
        if await access.login(text) is None:
            return _login_page(request, failed=True, status=401)
        answer = RedirectResponse(_path(form.get("next", "")), 303)
        cookie = access.sessions.begin(text, await access.now())
        answer.set_cookie(
            COOKIE,
            cookie,
            max_age=SESSION_SECONDS,
            httponly=True,
            samesite="strict",
            secure=access.is_over_tls(request),
        )
        return answer

    async def logout(request: Request) -> Response:
        require_same_origin(request, is_local=False)
        answer = RedirectResponse("/login", 303)
        answer.delete_cookie(COOKIE, httponly=True, samesite="strict")
        return answer

    async def language(request: Request) -> Response:
        require_same_origin(request, is_local=True)
        form = _single(await form_of(request))
        chosen = form.get("language", "")
        if chosen not in LANGUAGES:
            raise Problem(400, "there is no such language")
        answer = RedirectResponse(_path(form.get("next", "")), 303)
        answer.set_cookie(LANGUAGE_COOKIE, chosen, max_age=YEAR, httponly=True, samesite="strict")
        return answer

    return {"/login": login, "/logout": logout, "/language": language}


def to_login(request: Request) -> Response:
    """Redirect an unknown caller to the login, which leads back to the wanted page."""
    had_one = "1" if request.cookies.get(COOKIE) else "0"
    here = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    wanted = here if request.method == "GET" else "/"
    return RedirectResponse(f"/login?{urlencode({'next': wanted, 'ended': had_one})}", 303)


def _login_page(request: Request, *, failed: bool = False, status: int = 200) -> Response:
    return render(
        request,
        "login.html",
        code=status,
        caller=None,
        failed=failed,
        ended=not failed and request.query_params.get("ended") == "1",
        next=_path(request.query_params.get("next", "")),
    )


def _path(text: str) -> str:
    """A path on this site, else "/": a login never redirects to another site."""
    try:
        has_host = bool(urlsplit(text).netloc)
    except ValueError:
        return "/"
    is_ours = text.startswith("/") and not text.startswith(("//", "/\\")) and not has_host
    return text if is_ours and text.isprintable() else "/"
