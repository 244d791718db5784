"""Traces: spans for arming, dispatching and attempts, where `opentelemetry-api` is installed.

The API alone is used: what becomes of the spans is up to the SDK that the process has set up. With
the API and no SDK a context that came in is passed on; without the API nothing is done here. A
context travels as text, the ``traceparent`` of W3C Trace Context.

Arming lies hours before the attempt. So that is a child of the message that brought it, and
*links* to the arming: as its child it would stretch one trace over all these hours.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

try:
    from opentelemetry import context, trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError:
    is_installed = False
else:
    is_installed = True

if TYPE_CHECKING:
    from node_timeout.domain.events import NodeStarted

HEADER = "traceparent"
NAME = "node_timeout"
ARM, DISPATCH, ATTEMPT = (f"{NAME}.{each}" for each in ("arm", "dispatch", "attempt"))
_FORM = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


def read(value: Any) -> str | None:
    """A context in its text form; None for anything else: nobody is refused for a bad one."""
    return value if isinstance(value, str) and _FORM.fullmatch(value) else None


def current() -> str | None:
    """The context of what is being done now; None without one."""
    return _text_of(None) if is_installed else None


def headers() -> dict[str, str]:
    """The header of a call to somebody else, if there is a context."""
    text = current()
    return {} if text is None else {HEADER: text}


@contextmanager
def within(parent: str | None) -> Iterator[None]:
    """What is done inside belongs to this context; without one, to what it belonged before."""
    if not is_installed or parent is None:
        yield
        return
    token = context.attach(_context_of(parent))
    try:
        yield
    finally:
        context.detach(token)


@contextmanager
def span(
    name: str,
    attributes: Mapping[str, str | float],
    *,
    kind: str,
    link: str | None = None,
    begins: bool = False,
) -> Iterator[dict[str, str | float]]:
    """A span around what is done inside. What is put into the yielded dict becomes attributes of
    its own, named ``node_timeout.<key>`` as the others.

    A new trace ``begins`` with it, whatever is being done; else it belongs to that.
    """
    more: dict[str, str | float] = {}
    tracer = _tracer()
    if tracer is None:
        yield more
        return
    linked = [] if link is None else [trace.Link(_span_context(link))]
    parent = context.Context() if begins else None
    with tracer.start_as_current_span(
        name, parent, kind=trace.SpanKind[kind], links=linked, attributes=_named(attributes)
    ) as current_span:
        try:
            yield more
        finally:
            current_span.set_attributes(_named(more))


@contextmanager
def arming(events: Sequence[NodeStarted]) -> Iterator[Sequence[NodeStarted]]:
    """A span for each start, around the arming of all; with the events, which name it as theirs."""
    tracer = _tracer()
    if tracer is None:
        here = current()
        yield [replace(each, trace=each.trace or here) for each in events] if here else events
        return
    spans = [(event, _begin_arming(tracer, event)) for event in events]
    try:
        yield [
            replace(event, trace=_text_of(trace.set_span_in_context(each))) for event, each in spans
        ]
    except Exception as error:
        for _, each in spans:
            each.record_exception(error)
            each.set_status(trace.StatusCode.ERROR)
        raise
    finally:
        for _, each in spans:
            each.end()


def _tracer() -> Any:
    """None without an SDK: its spans would record nothing, and cost a worker some percent."""
    if not is_installed:
        return None
    provider = trace.get_tracer_provider()
    return None if isinstance(provider, trace.ProxyTracerProvider) else provider.get_tracer(NAME)


def _begin_arming(tracer: Any, event: NodeStarted) -> Any:
    """Not as the current span, as others begin beside it."""
    parent = None if event.trace is None else _context_of(event.trace)
    ids = {
        "node_id": event.node_id,
        "version": event.version,
        "root_pipeline_id": event.root_pipeline_id or "",
    }
    return tracer.start_span(ARM, parent, attributes=_named(ids))


def _text_of(of: Any) -> str | None:
    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier, of)
    return read(carrier.get(HEADER))


def _named(attributes: Mapping[str, str | float]) -> dict[str, str | float]:
    return {f"{NAME}.{key}": value for key, value in attributes.items()}


def _context_of(text: str) -> Any:
    return TraceContextTextMapPropagator().extract({HEADER: text})


def _span_context(text: str) -> Any:
    return trace.get_current_span(_context_of(text)).get_span_context()
