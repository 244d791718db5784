"""Redis over TLS with a given context; the driver's own also trusts the system's authorities."""

import ssl
from typing import Any

from redis.asyncio import Redis, RedisCluster, SSLConnection
from redis.asyncio.sentinel import SentinelManagedSSLConnection

from node_timeout.stores.tls import Tls


class _Given:
    """Uses the given TLS context instead of creating one."""

    ssl_context: Any

    def __init__(self, *, context: ssl.SSLContext, **options: Any) -> None:
        super().__init__(**options)
        self.ssl_context.context = context


class _TlsConnection(_Given, SSLConnection):
    pass


class _TlsSentinelConnection(_Given, SentinelManagedSSLConnection):
    """Asks the Sentinels which server to connect to."""


def secure(client: Redis | RedisCluster, tls: Tls) -> None:
    """Let the TLS connections of a new client use ``tls``. Raises `SettingsError`."""
    if isinstance(client, RedisCluster):
        if client.connection_kwargs.get("connection_class") is SSLConnection:
            given = {"context": tls.context}
            # The update is for nodes found later; the loop is for nodes named at the start.
            client.connection_kwargs.update({"connection_class": _TlsConnection, **given})
            for node in client.nodes_manager.startup_nodes.values():
                node.connection_class = _TlsConnection
                node.connection_kwargs.update(given)
        return
    pool = client.connection_pool
    if issubclass(pool.connection_class, SSLConnection):
        managed = issubclass(pool.connection_class, SentinelManagedSSLConnection)
        pool.connection_class = _TlsSentinelConnection if managed else _TlsConnection
        pool.connection_kwargs["context"] = tls.context
