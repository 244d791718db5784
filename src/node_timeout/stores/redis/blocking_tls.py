"""`tls` for redis-py's synchronous clients."""

from __future__ import annotations

import socket
import ssl
from typing import Any

import redis
from redis.sentinel import SentinelManagedSSLConnection

from node_timeout.stores.tls import Tls


class _BlockingGiven:
    """Uses the given TLS context instead of creating one."""

    host: str

    def __init__(self, *, context: ssl.SSLContext, **options: Any) -> None:
        super().__init__(**options)
        self._context = context

    def _connect(self) -> ssl.SSLSocket:
        # Skips SSLConnection, which creates a context of its own, in a different method in each
        # version of the driver.
        connect: Any = redis.Connection._connect  # noqa: SLF001 - see above
        plain: socket.socket = connect(self)
        try:
            return self._context.wrap_socket(plain, server_hostname=self.host)
        except (OSError, ValueError):
            plain.close()
            raise


class BlockingTlsConnection(_BlockingGiven, redis.SSLConnection):
    """A connection to one server, with the given TLS context."""


class _BlockingTlsSentinelConnection(_BlockingGiven, SentinelManagedSSLConnection):
    pass


def secure_sentinel(client: redis.Redis, tls: Tls) -> None:
    """Let the TLS connections of a new client, to a Sentinel or to the server that Sentinels name,
    use ``tls``. Raises `SettingsError`.
    """
    pool = client.connection_pool
    if issubclass(pool.connection_class, redis.SSLConnection):
        managed = issubclass(pool.connection_class, SentinelManagedSSLConnection)
        pool.connection_class = _BlockingTlsSentinelConnection if managed else BlockingTlsConnection
        pool.connection_kwargs["context"] = tls.context
