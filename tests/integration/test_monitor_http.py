"""The metrics port under clients that mean no good."""

import contextlib
import http.client
import socket
import threading
from collections.abc import Iterator

import pytest

from node_timeout.runtime import monitor as monitor_http
from node_timeout.runtime.loop import Health
from node_timeout.runtime.monitor import MAX_CONNECTIONS, MonitorHttp
from node_timeout.settings import Settings
from tests.servers import SECRET
from tests.support import wait_until


@pytest.fixture
def port() -> Iterator[int]:
    server = MonitorHttp("127.0.0.1", 0, [Health(name="scanner", ready=True)])
    server.start()
    yield server.port
    server.close()


def get(port: int, path: str, method: str = "GET", body: bytes | None = None) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request(method, path, body)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def silent(port: int, said: bytes = b"") -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=5)
    connection.sendall(said)
    return connection


def threads() -> int:
    return sum("process_request" in thread.name for thread in threading.enumerate())


def test_only_this_host_may_ask_unless_a_setting_says_otherwise() -> None:
    assert Settings().metrics_host == "127.0.0.1"
    assert Settings().metrics_port is None


def test_there_are_three_pages_and_no_settings_in_them(port: int) -> None:
    assert get(port, "/healthz") == (200, "ok\n")
    assert get(port, "/readyz") == (200, "ok\n")
    status, page = get(port, "/metrics")
    assert status == 200
    assert "node_timeout_claimed_total" in page
    for secret in (SECRET, "://", "password"):
        assert secret not in page
    for path in ("/", "/debug", "/../../etc/passwd", "/metrics/..", "//etc/passwd", "/%2e%2e/x"):
        assert get(port, path)[0] == 404


async def test_silent_clients_keep_nobody_from_asking(port: int) -> None:
    with contextlib.ExitStack() as stack:
        for i in range(3 * MAX_CONNECTIONS):
            said = b"GET /metrics HTTP/1.1\r\nX-Slow: " if i % 2 else b""
            stack.enter_context(silent(port, said))
            if i % MAX_CONNECTIONS == 0:
                assert get(port, "/healthz")[0] == 200
        assert get(port, "/metrics")[0] == 200
        await wait_until(lambda: threads() <= MAX_CONNECTIONS)


async def test_who_asks_slowly_is_cut_off(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor_http, "REQUEST_SECONDS", 0.3)
    with silent(port, b"GET /metrics HTTP/1.1\r\n") as connection:
        connection.settimeout(0.05)

        def ended() -> bool:
            try:
                connection.sendall(b"X")
                return connection.recv(1) == b""
            except TimeoutError:
                return False
            except OSError:
                return True

        await wait_until(ended, 5)
    await wait_until(lambda: threads() == 0)
    assert get(port, "/healthz")[0] == 200


async def test_requests_without_measure_are_refused(
    port: int, capfd: pytest.CaptureFixture[str]
) -> None:
    for said in (
        b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X-More: more\r\n" * 1000 + b"\r\n",
        b"GET / HTTP/1.1\r\nX-Long: " + b"x" * 100_000 + b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500) + b"\n",
        b"\r\n",
    ):
        with contextlib.suppress(ConnectionError), silent(port, said) as connection:
            answer = connection.recv(100)
            assert b" 200 " not in answer
    with contextlib.suppress(ConnectionError):
        assert get(port, "/healthz", "POST", b"x" * 10_000_000)[0] == 200
    assert get(port, "/healthz")[0] == 200
    await wait_until(lambda: threads() == 0)
    assert "Traceback" not in capfd.readouterr().err
