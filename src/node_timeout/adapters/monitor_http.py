"""/metrics, /healthz and /readyz over HTTP, from a thread of their own.

* ``/healthz``: 200 while the event loop turns, 503 if it has not for `STUCK_SECONDS`.
* ``/readyz``: 200 if the last pass of every service succeeded, else 503 and their names.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import make_wsgi_app

from node_timeout.service import Health

STUCK_SECONDS = 30.0


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _QuietHandler(WSGIRequestHandler):
    timeout = 10

    def log_message(self, *_args: Any) -> None:
        """Scrapes are no news."""


class MonitorHttp:
    """The server. Use `start` and `close`; `beat` must run in the event loop meanwhile."""

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
        """Show that the event loop turns, until cancelled."""
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
