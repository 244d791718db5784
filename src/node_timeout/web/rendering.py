"""Renders pages: templates, with a language's texts and the formats of values."""

from functools import cache, partial
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from node_timeout.domain.tokens import Role
from node_timeout.web import views
from node_timeout.web.access import Caller, Way
from node_timeout.web.api import Call
from node_timeout.web.languages import LANGUAGES, language_of, say_in, words

REFRESH_SECONDS = 5
SPAN_PATTERN = r"-?(P[0-9WDTHMS.]+|[0-9]+(\.[0-9]+)?)"
"""What a duration field accepts, so that the browser reports a typo before it sends the form."""
NAVIGATION = (
    ("overview", "/"),
    ("runs", "/runs"),
    ("dead", "/dead"),
    ("lateness", "/lateness"),
    ("configs", "/configs"),
    ("processes", "/processes"),
)


@cache
def _templates(language: str) -> Environment:
    """The templates in a language; every inserted value is escaped."""
    say = say_in(language)
    environment = Environment(
        loader=PackageLoader("node_timeout.web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {
        "_": say,
        "language": language,
        "languages": [(each, words(each)["language"]) for each in LANGUAGES],
        "navigation": NAVIGATION,
        "refresh_seconds": REFRESH_SECONDS,
        "span_pattern": SPAN_PATTERN,
    }
    environment.filters |= {name: partial(_with, look, say) for name, look in LOOKS.items()}
    environment.filters["payload"] = views.payload
    return environment


LOOKS: dict[str, Any] = {
    "instant": views.instant,
    "duration": views.duration,
    "number": views.number,
}


def _with(look: Any, say: Any, value: Any) -> Any:
    return look(value, say)


def page(call: Call, template: str, *, code: int = 200, **context: Any) -> Response:
    """A page for a caller who may see it."""
    return render(call.request, template, code=code, caller=call.caller, **context)


def render(
    request: Request, template: str, *, code: int = 200, caller: Caller | None, **context: Any
) -> Response:
    """A page, also for an unknown caller."""
    may_change = caller is not None and caller.role.may(Role.OPERATE)
    context |= {
        "caller": caller,
        "may_change": may_change and not request.app.state.is_read_only,
        "has_session": caller is not None and caller.way is Way.SESSION,
        "path": request.url.path,
        "request_method": request.method,
        "here_url": request.url.path + (f"?{request.url.query}" if request.url.query else ""),
    }
    text = _templates(language_of(request)).get_template(template).render(context)
    return HTMLResponse(text, code, headers={"Vary": "Accept-Language, Cookie"})
