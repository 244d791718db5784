"""Connections to PostgreSQL: to the first host that accepts writes, with the URL's parameters.

Several hosts may be given in both of libpq's forms; a host without a port has 5432:

    postgresql://user:password@one:5432,two:5432/name
    postgresql://user:password@/name?host=one:5432&host=two:5432
"""

import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from node_timeout.stores.failover import Failover
from node_timeout.urls.addresses import Host

TO_SERVER = ("application_name", "options")
NO_OPTIONS = ("connect_timeout", "channel_binding", "gssencmode")
"""Not passed to the driver: the first is the connector's limit, the others have no effect."""
SOCKET_OPTIONS = {
    "keepalives": (socket.SOL_SOCKET, "SO_KEEPALIVE"),
    "keepalives_idle": (socket.IPPROTO_TCP, "TCP_KEEPIDLE"),
    "keepalives_interval": (socket.IPPROTO_TCP, "TCP_KEEPINTVL"),
    "keepalives_count": (socket.IPPROTO_TCP, "TCP_KEEPCNT"),
    "tcp_user_timeout": (socket.IPPROTO_TCP, "TCP_USER_TIMEOUT"),
}


def driver_options(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Translate the parameters of a URL to options of asyncpg, and of SQLAlchemy for it."""
    others = (*TO_SERVER, *NO_OPTIONS, *SOCKET_OPTIONS)
    options = {name: value for name, value in parameters.items() if name not in others}
    if settings := {name: parameters[name] for name in TO_SERVER if name in parameters}:
        options["server_settings"] = settings
    return options


def connector(
    hosts: Sequence[Host], time_limit: float, parameters: Mapping[str, Any]
) -> Callable[..., Awaitable[Any]]:
    """Return a function like `asyncpg.connect` that uses the first host that accepts writes.

    asyncpg itself spends the whole time limit on a silent host. Without any host the function looks
    where libpq would. It raises a ConnectionError that names each host.
    """
    servers = hosts or [Host(name="", port=None)]
    turns = Failover(servers, name=lambda host: str(host) or "the default host")

    async def connect(**options: Any) -> Any:
        import asyncpg  # noqa: PLC0415 - only there if installed

        if len(hosts) > 1:
            options.setdefault("target_session_attrs", "read-write")

        async def dial(host: Host) -> Any:
            where = {"host": host.name, "port": host.port} if host.name else {}
            try:
                return await asyncpg.connect(**{**options, **where})
            except asyncpg.TargetServerAttributeNotMatched as error:
                wanted = options["target_session_attrs"]
                raise ConnectionError(f"is not {wanted} now") from error

        failures = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError)
        _, connection = await turns.connect(dial, time_limit, failures)
        _set_socket(connection, parameters)
        return connection

    return connect


def _set_socket(connection: Any, parameters: Mapping[str, Any]) -> None:
    """Set the socket's options like libpq; only TCP has them."""
    found = connection._transport.get_extra_info("socket")  # noqa: SLF001 - no public way
    if found is None or found.family not in (socket.AF_INET, socket.AF_INET6):
        return
    for name, (level, option) in SOCKET_OPTIONS.items():
        if name in parameters and hasattr(socket, option):
            found.setsockopt(level, getattr(socket, option), int(parameters[name]))
