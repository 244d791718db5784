"""The server of the HTTP API and the console: uvicorn in our own event loop."""

import asyncio
import contextlib
import ipaddress
import logging
import socket
import ssl
from collections.abc import AsyncIterator

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from node_timeout.app import NodeTimeout
from node_timeout.domain.errors import SettingsError, TemporaryError
from node_timeout.runtime.loop import Health, sleep
from node_timeout.runtime.presence import present
from node_timeout.setting_rules import variable
from node_timeout.settings import Settings
from node_timeout.tasks import ended
from node_timeout.web.access import Access
from node_timeout.web.routes import application

logger = logging.getLogger(__name__)

HEAD_SECONDS = 10.0
"""Limit for receiving the head of a request: for the first one from the connection's start, for a
later one from its first byte.
"""
UNREAD_SECONDS = 60.0
"""Limit for a client to read its answer."""
IDLE_SECONDS = 30
CONNECTIONS = 512
LOOK_SECONDS = 5.0


class _Protocol(H11Protocol):
    """HTTP/1.1 with time limits for slow requests and slow readers."""

    _head_timer: asyncio.TimerHandle | None = None
    _unread_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # This pauses writing while anything is unsent; with high=0, TLS would pause it for ever.
        transport.set_write_buffer_limits(high=1, low=0)
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._head_timer, self._unread_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch_head()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread_timer = self.loop.call_later(UNREAD_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._unread_timer is not None:
            self._unread_timer.cancel()

    def _watch_head(self) -> None:
        """Limit the time for a head; further bytes of an unfinished head do not extend it."""
        if not self._is_between_requests():
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self._end_if_silent)

    def _end_if_silent(self) -> None:
        if self._is_between_requests() and not self.transport.is_closing():
            self.transport.close()

    def _is_between_requests(self) -> bool:
        return self.cycle is None or self.cycle.response_complete


class WebServer:
    """Serves until stopped, even while stores are down."""

    def __init__(self, app: NodeTimeout) -> None:
        """Raises `SettingsError` for TLS files that cannot be read."""
        self._app = app
        self._settings = settings = app.settings
        _check_tls(settings)
        self.health = Health(name="web")
        access = Access(settings, app.ledger, app.pool, is_open_here=is_loopback(settings.web_host))
        self._server = uvicorn.Server(
            uvicorn.Config(
                application(app, access, lambda: self.health.ready),
                http=_Protocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                date_header=True,
                proxy_headers=False,
                limit_concurrency=CONNECTIONS,
                timeout_keep_alive=IDLE_SECONDS,
                timeout_graceful_shutdown=5,
                h11_max_incomplete_event_size=32 * 1024,
                ssl_certfile=settings.web_tls_cert_file,
                ssl_keyfile=settings.web_tls_key_file,
            )
        )
        self.port = settings.web_port
        """The port; once it listens, the actual one."""

    @property
    def address(self) -> str:
        """The URL of the console."""
        scheme = "https" if self._settings.web_tls_cert_file else "http"
        host = self._settings.web_host
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{self.port}/"

    async def run(self, stop: asyncio.Event, *, name: str) -> None:
        """Listen until stopped; ``name`` is that of the process.

        Raises `SettingsError` if it may not listen, or cannot.
        """
        await self._require_guard(stop)
        if stop.is_set():
            return
        async with (
            self._listening(),
            present(self._app.pool.presence, self._app.pool, name, [self.health]),
        ):
            while not stop.is_set():
                await self._look()
                await sleep(LOOK_SECONDS, stop)

    @contextlib.asynccontextmanager
    async def _listening(self) -> AsyncIterator[None]:
        listener = _listener(self._settings)
        self.port = listener.getsockname()[1]
        # We handle the signals, not uvicorn: see `cli.running.until_signal`.
        serving = asyncio.create_task(self._server._serve([listener]), name="web")  # noqa: SLF001
        try:
            await self._started(serving)
            logger.info("web started: %s", self.address)
            yield
        finally:
            self._server.should_exit = True
            await asyncio.wait([serving], timeout=10)
            await ended(serving)
            listener.close()
            logger.info("web stopped")

    async def _started(self, serving: asyncio.Task[None]) -> None:
        """Return once the server answers; uvicorn offers no event for that."""
        while not self._server.started:
            await asyncio.wait([serving], timeout=0.01)
            if serving.done():
                await serving
                return

    async def _look(self) -> None:
        """Record in ``health`` whether the ledger answers."""
        try:
            await self._app.ledger.check_schema()
        except TemporaryError as error:
            self.health.failed(error)
        else:
            self.health.succeeded()

    async def _require_guard(self, stop: asyncio.Event) -> None:
        """Raises `SettingsError` if anybody on the network could do everything."""
        settings = self._settings
        if is_loopback(settings.web_host) or settings.web_trusted_proxies:
            return
        while not stop.is_set():
            try:
                if await self._app.ledger.has_tokens(await self._app.pool.now()):
                    return
                break
            except TemporaryError as error:
                self.health.failed(error)
                await sleep(1.0, stop)
        if not stop.is_set():
            raise SettingsError(
                f"{variable('web_host')}: {settings.web_host} can be reached from elsewhere, and "
                f"no token is there: make one with node-timeout token create, or name the proxy "
                f"that lets people in ({variable('web_trusted_proxies')})"
            )


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _listener(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.web_host else socket.AF_INET
    # asyncio disables Nagle's algorithm only if the socket's protocol is given.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.web_host, settings.web_port))
    except OSError as error:
        listener.close()
        raise SettingsError(
            f"{variable('web_port')}: cannot listen on {settings.web_host}:{settings.web_port}: "
            f"{error.strerror}"
        ) from error
    return listener


def _check_tls(settings: Settings) -> None:
    """Raises `SettingsError`."""
    cert, key = settings.web_tls_cert_file, settings.web_tls_key_file
    if cert is None:
        return
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(cert, key)
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(f"{variable('web_tls_cert_file')}: cannot be used: {error}") from error
