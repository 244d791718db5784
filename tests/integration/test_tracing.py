"""Spans of arming, dispatching and attempts, read by OpenTelemetry's own SDK."""

import asyncio
import subprocess
import sys

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased
from opentelemetry.trace import SpanContext, SpanKind, StatusCode, TraceFlags

from node_timeout import NodeTimeout, tracing
from node_timeout.arming.tracker import Tracker
from node_timeout.domain.errors import LedgerUnavailableError
from node_timeout.domain.events import NodeStarted
from node_timeout.settings import Settings
from node_timeout.stores.memory.ledger import MemoryLedger
from node_timeout.stores.memory.pool import MemoryPool
from node_timeout.strategies.webhook import WebhookStrategy
from tests.http_server import Reply, serving
from tests.integration.test_http_engine import NODE
from tests.support import FakeEngine, config, configure, run, started, wait_until

PARENT = f"00-{'a' * 32}-{'b' * 16}-01"


class Spans:
    """What has ended so far, by name."""

    def __init__(self, exporter: InMemorySpanExporter) -> None:
        self._exporter = exporter

    def named(self, name: str) -> list[ReadableSpan]:
        return [each for each in self._exporter.get_finished_spans() if each.name == name]

    def only(self, name: str) -> ReadableSpan:
        (found,) = self.named(name)
        return found


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Spans:
    return spans_of(TracerProvider(), monkeypatch)


def spans_of(provider: TracerProvider, monkeypatch: pytest.MonkeyPatch) -> Spans:
    """Of this test alone: the SDK lets a provider be set once in a process."""
    exporter = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    return Spans(exporter)


def is_sampled(text: str) -> bool:
    return bool(int(text[-2:], 16) & TraceFlags.SAMPLED)


def text_of(span: ReadableSpan) -> str:
    return written(span.context)


def parent_of(span: ReadableSpan) -> str | None:
    return None if span.parent is None else written(span.parent)


def links_of(span: ReadableSpan) -> list[str]:
    return [written(each.context) for each in span.links]


def written(context: SpanContext | None) -> str:
    assert context is not None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


async def test_an_attempt_belongs_to_its_dispatch_and_links_to_its_arming(
    settings: Settings, spans: Spans
) -> None:
    with serving(lambda _: Reply(204)) as server:
        ours = Settings(
            **{name: getattr(settings, name) for name in settings.model_fields_set},
            webhook_url=server.url,
            handle_queues={"webhook": f"{settings.dispatch_queue}-webhooks"},
        )
        stop = asyncio.Event()
        async with NodeTimeout(ours) as app, asyncio.TaskGroup() as group:
            try:
                await configure(app.ledger, config("a", 0.2, action="webhook"))
                with tracing.within(PARENT):
                    assert await app.node_started("a", "v1", "root")
                group.create_task(app.scan(stop))
                group.create_task(app.work(stop))
                group.create_task(app.work(stop, [f"{settings.dispatch_queue}-webhooks"]))
                await wait_until(lambda: spans.named(tracing.ATTEMPT))
                (row,) = await app.rows("a")
            finally:
                stop.set()
        (request,) = server.requests
    arming, attempt = spans.only(tracing.ARM), spans.only(tracing.ATTEMPT)
    # The reconciler may have had it sent once more: the pool is new.
    (dispatch,) = [
        each for each in spans.named(tracing.DISPATCH) if text_of(each) == parent_of(attempt)
    ]
    assert parent_of(arming) == PARENT
    assert row.trace == text_of(arming)
    # It is found though the message went on to another queue.
    assert (parent_of(dispatch), dispatch.kind) == (None, SpanKind.PRODUCER)
    assert dispatch.attributes == {"node_timeout.runs": 1}
    assert links_of(attempt) == [text_of(arming)]
    assert attempt.attributes == {
        "node_timeout.node_id": "a",
        "node_timeout.version": "v1",
        "node_timeout.root_pipeline_id": "root",
        "node_timeout.action": "webhook",
        "node_timeout.attempt": 1,
        "node_timeout.state": "handled",
    }
    assert request.headers["traceparent"] == text_of(attempt)


async def test_each_start_of_a_batch_is_a_part_of_its_own_trace(spans: Spans) -> None:
    ledger, pool = MemoryLedger(), MemoryPool(lambda: 1000.0)
    await configure(ledger, config("a", 5), config("b", 5))
    (first, second) = started([run("a"), run("b")])
    told = NodeStarted.of(first.run, trace=PARENT)
    with tracing.within(f"00-{'c' * 32}-{'d' * 16}-01"):
        assert await Tracker(ledger=ledger, pool=pool).nodes_started([told, second]) == 2
    by_node = {
        (each.attributes or {})["node_timeout.node_id"]: each for each in spans.named(tracing.ARM)
    }
    assert parent_of(by_node["a"]) == PARENT
    assert parent_of(by_node["b"]) == f"00-{'c' * 32}-{'d' * 16}-01", "that of who calls"
    for name, span in by_node.items():
        (row,) = await ledger.rows(str(name))
        assert row.trace == text_of(span)


async def test_what_is_not_sampled_is_passed_on_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    """And is no longer told of: whoever is called with it does not sample it either."""
    spans = spans_of(TracerProvider(sampler=ParentBased(ALWAYS_OFF)), monkeypatch)
    ledger, pool = MemoryLedger(), MemoryPool(lambda: 1000.0)
    await configure(ledger, config("a", 5), config("b", 5))
    (first, second) = started([run("a"), run("b")])
    told = NodeStarted.of(first.run, trace=PARENT)
    await Tracker(ledger=ledger, pool=pool).nodes_started([told, second])
    traces = {name: (await ledger.rows(name))[0].trace or "" for name in "ab"}
    assert [is_sampled(traces[name]) for name in "ab"] == [True, False]
    assert [
        (each.attributes or {})["node_timeout.node_id"] for each in spans.named(tracing.ARM)
    ] == ["a"]
    with tracing.span(tracing.ATTEMPT, {}, kind="CONSUMER", link=traces["b"]) as more:
        more["state"] = "handled"
        header = tracing.headers()["traceparent"]
    assert not is_sampled(header)
    assert not spans.named(tracing.ATTEMPT)


async def test_an_arming_that_fails_is_a_span_that_failed(
    spans: Spans, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def down(*_: object) -> None:
        raise LedgerUnavailableError("down")

    ledger = MemoryLedger()
    monkeypatch.setattr(ledger, "arm", down)
    tracker = Tracker(ledger=ledger, pool=MemoryPool())
    with pytest.raises(LedgerUnavailableError):
        await tracker.nodes_started(started([run("a")]))
    span = spans.only(tracing.ARM)
    assert span.status.status_code is StatusCode.ERROR
    assert [event.name for event in span.events] == ["exception"]


async def test_without_an_sdk_a_context_is_passed_on() -> None:
    ledger, pool = MemoryLedger(), MemoryPool()
    await configure(ledger, *(config(name, 5) for name in "abcd"))
    tracker = Tracker(ledger=ledger, pool=pool)
    await tracker.nodes_started([NodeStarted.of(run("a"), trace=PARENT), NodeStarted.of(run("b"))])
    callers = f"00-{'c' * 32}-{'d' * 16}-01"
    with tracing.within(callers):
        told = [NodeStarted.of(run("c"), trace=PARENT), NodeStarted.of(run("d"))]
        await tracker.nodes_started(told)
    traces = {name: (await ledger.rows(name))[0].trace for name in "abcd"}
    assert traces == {"a": PARENT, "b": None, "c": PARENT, "d": callers}
    with tracing.within(PARENT), tracing.span(tracing.ATTEMPT, {}, kind="CONSUMER", link=PARENT):
        assert tracing.headers() == {"traceparent": PARENT}
    assert tracing.headers() == {}


async def test_a_call_outside_of_any_trace_names_none() -> None:
    with serving(lambda _: Reply(204)) as server:
        strategy = WebhookStrategy.build(FakeEngine(), Settings(webhook_url=server.url))
        try:
            await strategy.deal_with_timeout_node(NODE)
        finally:
            await strategy.close()
        (request,) = server.requests
    assert "traceparent" not in request.headers


def test_without_the_api_nothing_is_done() -> None:
    """In a process of its own, where the package cannot be imported."""
    code = f"""
import sys
sys.modules["opentelemetry"] = None
from node_timeout import tracing
from node_timeout.domain.events import NodeStarted
assert not tracing.is_installed
start = NodeStarted(node_id="a", version="v", root_pipeline_id="r", trace={PARENT!r})
with tracing.arming([start]) as events:
    assert list(events) == [start], "what the event says is kept all the same"
with tracing.within({PARENT!r}), tracing.span(
    tracing.ATTEMPT, {{"attempt": 1}}, kind="CONSUMER", link={PARENT!r}
) as more:
    more["state"] = "handled"
    assert tracing.current() is None
    assert tracing.headers() == {{}}
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
