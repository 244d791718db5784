"""Engine ``http`` and strategy ``webhook``, against a real HTTP server."""

import asyncio
import contextlib
import hashlib
import ssl
import threading
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
import trustme

from node_timeout.domain.errors import (
    EngineUnavailableError,
    InvalidInputError,
    NodeRunSupersededError,
    SettingsError,
    StrategyRefusedError,
    TemporaryError,
)
from node_timeout.domain.run import TimedOutNode
from node_timeout.engines.http import HttpEngine
from node_timeout.settings import Settings
from node_timeout.strategies.webhook import WebhookStrategy
from node_timeout.wire.signing import verify
from tests.http_server import Reply, Request, serving
from tests.support import FakeEngine

NODE = TimedOutNode(
    node_id="节点",
    version="v1",
    root_pipeline_id="root",
    action="forced_fail",
    deadline=1_700_000_000.25,
    attempt=2,
)
KEY = "whsec_" + "c2VjcmV0IGtleQ=="


async def call(url: str, operation: str = "fail", **settings: Any) -> Any:
    engine = HttpEngine(Settings(engine_url=url, **settings))
    try:
        match operation:
            case "state":
                return await engine.is_running(NODE)
            case "fail":
                return await engine.forced_fail(NODE, "it timed out")
            case _:
                return await engine.forced_fail_and_skip(NODE, "it timed out")
    finally:
        await engine.close()


@pytest.mark.parametrize("operation", ["state", "fail", "skip"])
async def test_every_call_carries_the_node_run_and_who_calls(operation: str) -> None:
    with serving(lambda _: Reply(200, {"running": True, "message": "done so"})) as server:
        said = await call(
            server.url + "/base/", operation, engine_token="t0ken", engine_signing_key=KEY
        )
        (request,) = server.requests
    assert said == (True if operation == "state" else "done so")
    assert request.path == f"/base/v1/{operation}"
    key = hashlib.sha256(f"{operation}\n{NODE.run_id}".encode()).hexdigest()
    assert request.json == {
        "schema": 1,
        "operation": operation,
        "idempotency_key": key,
        "node_id": "节点",
        "version": "v1",
        "root_pipeline_id": "root",
        "action": "forced_fail",
        "deadline": 1_700_000_000.25,
        "reason": "" if operation == "state" else "it timed out",
    }
    assert request.headers["authorization"] == "Bearer t0ken"
    assert request.headers.get("idempotency-key") == (None if operation == "state" else key)
    assert request.headers["webhook-id"] == key
    assert verify(KEY, request.headers, request.body, now=time.time())
    assert not verify(KEY, request.headers, request.body + b" ", now=time.time())
    assert not verify(KEY, request.headers, request.body, now=time.time() + 301), "replayed"
    assert not verify("another", request.headers, request.body, now=time.time())
    assert not verify(KEY, {}, request.body, now=time.time())
    for nobody in ("", "whsec_", "whsec_!"):
        with pytest.raises(InvalidInputError):
            verify(nobody, request.headers, request.body, now=time.time())


@pytest.mark.parametrize(
    ("status", "error", "text"),
    [
        (409, NodeRunSupersededError, "because"),
        (410, NodeRunSupersededError, "because"),
        (400, StrategyRefusedError, "the engine refuses (400): because"),
        (422, StrategyRefusedError, "because"),
        (401, EngineUnavailableError, "NODE_TIMEOUT_ENGINE_TOKEN"),
        (403, EngineUnavailableError, "NODE_TIMEOUT_ENGINE_TOKEN"),
        (404, EngineUnavailableError, "is NODE_TIMEOUT_ENGINE_URL right?"),
        (429, EngineUnavailableError, "answered 429: because"),
        (500, EngineUnavailableError, "because"),
        (503, EngineUnavailableError, "because"),
    ],
)
async def test_what_an_answer_means(status: int, error: type[Exception], text: str) -> None:
    with serving(lambda _: Reply(status, {"message": "because"})) as server:
        with pytest.raises(error) as caught:
            await call(server.url, "fail")
        assert text in str(caught.value)
        if error is NodeRunSupersededError:
            assert await call(server.url, "state") is False
        else:
            with pytest.raises(error):
                await call(server.url, "state")


@pytest.mark.parametrize("status", [400, 422])
async def test_a_page_of_a_web_server_is_no_word_of_the_engine(status: int) -> None:
    """Such as Django's, where the host is not in ALLOWED_HOSTS: that can be mended."""
    page = b"\n<!doctype html> <title>Bad Request</title>"
    with serving(lambda _: Reply(status, page)) as server:
        for operation in ("state", "fail", "skip"):
            with pytest.raises(EngineUnavailableError, match=r"with a page, .*ENGINE_URL right"):
                await call(server.url, operation)


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"<html>", {"running": "yes"}, {}])
async def test_a_state_that_is_none_is_not_guessed_at(body: Any) -> None:
    with serving(lambda _: Reply(200, body)) as server:
        with pytest.raises(EngineUnavailableError, match="not an object with a bool 'running'"):
            await call(server.url, "state")
        assert await call(server.url, "fail") == "failed"
        assert await call(server.url, "skip") == "failed and skipped"


@pytest.mark.parametrize(
    ("status", "works"), [(200, True), (409, True), (422, True), (401, False), (404, False)]
)
async def test_a_check_asks_for_a_node_that_nobody_has(status: int, works: bool) -> None:
    with serving(lambda _: Reply(status, {"running": False})) as server:
        engine = HttpEngine(Settings(engine_url=server.url))
        if works:
            assert await engine.check() == "it answers"
        else:
            with pytest.raises(EngineUnavailableError, match=f"answered {status}"):
                await engine.check()
        await engine.close()
        (request,) = server.requests
    assert (request.path, request.json["node_id"]) == ("/v1/state", "node-timeout-check")


async def test_redirects_are_not_followed() -> None:
    def answer(request: Request) -> Reply:
        return Reply(307, headers={"Location": "/elsewhere"})

    with serving(answer) as server:
        with pytest.raises(EngineUnavailableError, match="answered 307: it is not followed"):
            await call(server.url)
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("value", "seconds"), [("7", 7), ("999999", 3600), ("-7", 0), ("soon", 0), ("", 0)]
)
async def test_retry_after_is_heeded(value: str, seconds: float) -> None:
    with (
        serving(lambda _: Reply(429, headers={"Retry-After": value})) as server,
        pytest.raises(EngineUnavailableError) as caught,
    ):
        await call(server.url)
    assert caught.value.retry_after == seconds


@pytest.mark.parametrize(("ahead", "seconds"), [(100, 100), (-100, 0)])
async def test_retry_after_may_be_a_date(ahead: float, seconds: float) -> None:
    value = format_datetime(datetime.now(UTC) + timedelta(seconds=ahead))
    with (
        serving(lambda _: Reply(503, headers={"Retry-After": value})) as server,
        pytest.raises(EngineUnavailableError) as caught,
    ):
        await call(server.url)
    assert caught.value.retry_after == pytest.approx(seconds, abs=30)


async def test_a_silent_engine_is_given_up() -> None:
    silence = threading.Event()
    with serving(lambda _: Reply(wait_for=silence)) as server:
        began = time.monotonic()
        with pytest.raises(EngineUnavailableError, match="no answer within"):
            await call(server.url, http_timeout=0.2)
        assert time.monotonic() - began < 5
        silence.set()
    with pytest.raises(EngineUnavailableError):
        await call(server.url)


async def test_a_huge_answer_is_cut() -> None:
    with serving(lambda _: Reply(500, b"x" * 10_000_000)) as server:
        with pytest.raises(EngineUnavailableError) as caught:
            await call(server.url)
        assert len(str(caught.value)) < 500


@contextlib.asynccontextmanager
async def endless(head: bytes, more: bytes) -> AsyncIterator[tuple[str, list[int]]]:
    """A server that says the head and then more and more; its URL and the bytes it got rid of."""
    sent: list[int] = []
    ended = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head)
        try:
            for _ in range(50_000_000 // len(more)):
                writer.write(more)
                await writer.drain()
                sent.append(len(more))
        except OSError:
            return
        finally:
            writer.close()
            ended.set()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", sent
        await asyncio.wait_for(ended.wait(), 10)
    finally:
        server.close()


@pytest.mark.parametrize(
    ("head", "more"),
    [
        (b"HTTP/1.1 500 Oh\r\nContent-Length: 50000000\r\n\r\n", b"x" * 10_000),
        (b"HTTP/1.1 500 Oh\r\nTransfer-Encoding: chunked\r\n\r\n", b"5\r\nxxxxx\r\n" * 1000),
        (b"HTTP/1.1 500 Oh\r\n", b"X-More: and more\r\n" * 500),
        (b"HTTP/1.1 500 ", b"Oh" * 5000),
    ],
    ids=["long", "chunked", "headers", "reason"],
)
async def test_an_answer_without_end_is_not_read_to_its_end(head: bytes, more: bytes) -> None:
    async with endless(head, more) as (url, sent):
        with pytest.raises(EngineUnavailableError) as caught:
            await call(url)
    assert sum(sent) < 20_000_000, "all but what the sockets hold"
    assert len(str(caught.value)) < 1000


async def test_an_answer_that_drips_is_given_up() -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            while await asyncio.wait_for(drained(writer), 5):
                await asyncio.sleep(0.05)
        writer.close()

    async def drained(writer: asyncio.StreamWriter) -> bool:
        writer.write(b"x")
        await writer.drain()
        return True

    server = await asyncio.start_server(drip, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    began = time.monotonic()
    with pytest.raises(EngineUnavailableError, match="no answer within"):
        await call(url, "fail", http_timeout=0.3)
    assert time.monotonic() - began < 5
    server.close()


async def test_tls_is_verified(tmp_path: Path) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    ca_file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    with serving(lambda _: Reply(), context) as server:
        with pytest.raises(EngineUnavailableError, match="CERTIFICATE_VERIFY_FAILED"):
            await call(server.url)
        assert server.requests == []
        assert await call(server.url, http_ca_file=ca_file) == "failed"


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({}, "NODE_TIMEOUT_ENGINE_URL is not set"),
        ({"engine_url": "http://e", "engine_token": "t\nX: y"}, "has a line break"),
        ({"engine_url": "http://e", "engine_token": "s3cret x"}, "has white space"),
        ({"engine_url": "http://e", "engine_signing_key": "whsec_"}, "is empty"),
        ({"engine_url": "http://e", "engine_signing_key": "whsec_!"}, "is not base64"),
    ],
)
def test_a_wrong_setting_says_so_at_the_start(settings: Any, problem: str) -> None:
    with pytest.raises(SettingsError, match=problem) as caught:
        HttpEngine(Settings(**settings))
    assert "s3cret" not in str(caught.value)


async def test_waiting_for_a_free_connection_is_not_the_engines_fault() -> None:
    def slowly(_: Request) -> Reply:
        time.sleep(0.15)
        return Reply()

    with serving(slowly) as server:
        settings = Settings(engine_url=server.url, http_connections=1, http_timeout=0.5)
        engine = HttpEngine(settings)
        done = await asyncio.gather(*(engine.forced_fail(NODE, "x") for _ in range(8)))
        await engine.close()
    assert done == ["failed"] * 8


async def test_a_server_that_echoes_what_is_secret_is_not_quoted() -> None:
    def echo(request: Request) -> Reply:
        return Reply(404, f"{'x' * 290} no {request.path}, {request.headers}".encode())

    with serving(echo) as server:
        strategy = WebhookStrategy.build(
            FakeEngine(),
            Settings(webhook_url=server.url + "/T0/s3cret", webhook_token="t0ken"),
        )
        with pytest.raises(TemporaryError, match="answered 404") as caught:
            await strategy.deal_with_timeout_node(NODE)
        await strategy.close()
    assert "s3c" not in str(caught.value)
    assert "t0ken" not in str(caught.value)


async def test_the_path_of_a_webhook_is_no_news() -> None:
    strategy = WebhookStrategy.build(
        FakeEngine(), Settings(webhook_url="http://127.0.0.1:1/T0/s3cret")
    )
    with pytest.raises(TemporaryError) as caught:
        await strategy.deal_with_timeout_node(NODE)
    assert "127.0.0.1:1" in str(caught.value)
    assert "s3cret" not in str(caught.value)
    await strategy.close()


@pytest.mark.parametrize(
    "url", ["engine", "ftp://engine", "http://user:secret@engine", "http://engine?key=1", "http://"]
)
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match="NODE_TIMEOUT_ENGINE_URL") as caught:
        Settings(engine_url=url)
    assert "secret@" not in str(caught.value)


async def test_the_webhook_posts_a_signed_cloud_event_and_leaves_the_node() -> None:
    engine = FakeEngine()
    with serving(lambda _: Reply(204, b"")) as server:
        settings = Settings(webhook_url=server.url + "/hook", webhook_signing_key=KEY)
        strategy = WebhookStrategy.build(engine, settings)
        assert (await strategy.deal_with_timeout_node(NODE)).result
        await strategy.close()
        (request,) = server.requests
    assert request.path == "/hook"
    assert request.headers["content-type"] == "application/cloudevents+json"
    assert verify(KEY, request.headers, request.body, now=time.time())
    event = request.json
    data = event.pop("data")
    assert event == {
        "specversion": "1.0",
        "id": request.headers["webhook-id"],
        "source": "/node-timeout",
        "type": "node_timeout.node.timed_out",
        "subject": "节点",
        "time": "2023-11-14T22:13:20.250000Z",
        "datacontenttype": "application/json",
    }
    assert data["node_id"] == "节点"
    assert (engine.failed, engine.skipped) == ([], [])


@pytest.mark.parametrize(
    ("status", "error"), [(400, StrategyRefusedError), (503, TemporaryError), (302, TemporaryError)]
)
async def test_what_a_webhooks_answer_means(status: int, error: type[Exception]) -> None:
    with serving(lambda _: Reply(status)) as server:
        strategy = WebhookStrategy.build(FakeEngine(), Settings(webhook_url=server.url))
        with pytest.raises(error, match=f"answered {status}"):
            await strategy.deal_with_timeout_node(NODE)
        await strategy.close()


async def test_a_webhook_without_a_url_is_tried_again_until_it_has_one() -> None:
    strategy = WebhookStrategy.build(FakeEngine(), Settings())
    with pytest.raises(TemporaryError, match="NODE_TIMEOUT_WEBHOOK_URL is not set"):
        await strategy.deal_with_timeout_node(NODE)
    await strategy.close()
