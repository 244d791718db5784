"""Traces: spans for arming, dispatching and attempts, where `opentelemetry-api` is installed.

Only the API is used: the SDK that the process has set up decides what becomes of the spans. With
the API but no SDK, a received context is passed on; without the API nothing happens here. A context
travels as text, the ``traceparent`` of W3C Trace Context.

Arming happens hours before the attempt. So the attempt's span is a child of the message that
brought it, and only *links* to the arming: as its child it would make one trace hours long.
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
    """A context in its text form; None for anything else: a bad context is no reason to refuse."""
    return value if isinstance(value, str) and _FORM.fullmatch(value) else None


def current() -> str | None:
    """The current context; None without one."""
    return _text_of(None) if is_installed else None


def headers() -> dict[str, str]:
    """The header for an outgoing call; empty if there is no current context."""
    text = current()
    return {} if text is None else {HEADER: text}


@contextmanager
def within(parent: str | None) -> Iterator[None]:
    """Make ``parent`` the current context of the block; with None, the context stays as it is."""
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
    """A span around the block. Entries of the yielded dict become further attributes, named
    ``node_timeout.<key>`` like the others.

    If it ``begins`` a trace, it has no parent; otherwise its parent is the current span.
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
    """Open a span for each start while all are armed; yield the events, each with its own span."""
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
    """None without an SDK: spans would record nothing, yet cost a worker a few percent."""
    if not is_installed:
        return None
    provider = trace.get_tracer_provider()
    return None if isinstance(provider, trace.ProxyTracerProvider) else provider.get_tracer(NAME)


def _begin_arming(tracer: Any, event: NodeStarted) -> Any:
    """Begin a span that is not the current one, since other arming spans begin beside it."""
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
