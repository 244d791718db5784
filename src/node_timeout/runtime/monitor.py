"""/metrics, /healthz and /readyz over HTTP, served from a separate thread.

* ``/healthz``: 200 while the event loop runs, 503 if it has been stuck for `STUCK_SECONDS`.
* ``/readyz``: 200 if the last pass of every service succeeded, else 503 and the failing names.

Anyone who can reach the port may read these pages, so they contain no secrets. A client that sends
slowly, or opens connections and is silent, is disconnected and does not block other clients.
"""

import asyncio
import contextlib
import logging
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import make_wsgi_app

from node_timeout.runtime.loop import Health

logger = logging.getLogger(__name__)

STUCK_SECONDS = 30.0
REQUEST_SECONDS = 10.0
MAX_CONNECTIONS = 64


class _Server(ThreadingMixIn, WSGIServer):
    """One thread per connection, for at most `REQUEST_SECONDS`; beyond `MAX_CONNECTIONS` the oldest
    is disconnected.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, *args: Any) -> None:
        self._open: dict[Any, float] = {}
        super().__init__(*args)

    def process_request(self, request: Any, client_address: Any) -> None:
        for oldest in list(self._open)[: -MAX_CONNECTIONS + 1]:
            self._cut(oldest)
        self._open[request] = time.monotonic()
        super().process_request(request, client_address)

    def service_actions(self) -> None:
        """Disconnect clients that take too long; the server calls this twice a second."""
        late = time.monotonic() - REQUEST_SECONDS
        for request in [each for each, since in list(self._open.items()) if since < late]:
            self._cut(request)

    def _cut(self, request: Any) -> None:
        self._open.pop(request, None)
        with contextlib.suppress(OSError):
            request.shutdown(socket.SHUT_RDWR)  # its thread sees the end, and closes it

    def shutdown_request(self, request: Any) -> None:
        self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, _request: Any, client_address: Any) -> None:
        logger.debug("metrics port: %s was cut off: %r", client_address[0], sys.exception())


class _QuietHandler(WSGIRequestHandler):
    timeout = REQUEST_SECONDS

    def log_message(self, *_args: Any) -> None:
        """Do not log requests: scrapes are routine."""


class MonitorHttp:
    """The server. Call `start` and `close`; in between, `beat` must run in the event loop."""

    def __init__(self, host: str, port: int, services: Sequence[Health]) -> None:
        self._services = services
        self._last_beat = time.monotonic()
        self._metrics = make_wsgi_app()
        self._server = make_server(
            host, port, self._answer, server_class=_Server, handler_class=_QuietHandler
        )
        self.port = self._server.server_port

    def start(self) -> None:
        threading.Thread(target=self._server.serve_forever, name="monitor", daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    async def beat(self) -> None:
        """Record that the event loop runs, until cancelled."""
        while True:
            self._last_beat = time.monotonic()
            await asyncio.sleep(1)

    def _answer(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "/")
        if path == "/metrics":
            page: Iterable[bytes] = self._metrics(environ, start)
            return page
        status, text = "404 Not Found", "try /metrics, /healthz or /readyz"
        if path == "/healthz":
            stuck = time.monotonic() - self._last_beat > STUCK_SECONDS
            status, text = _verdict(["event loop"] if stuck else [])
        elif path == "/readyz":
            status, text = _verdict([each.name for each in self._services if not each.ready])
        start(status, [("Content-Type", "text/plain; charset=utf-8")])
        return [text.encode() + b"\n"]


def _verdict(failing: Sequence[str]) -> tuple[str, str]:
    if failing:
        return "503 Service Unavailable", "failing: " + ", ".join(failing)
    return "200 OK", "ok"
