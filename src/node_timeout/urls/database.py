"""The URL of a database, read whole before anything is connected. Raises ValueError."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from node_timeout.older_python import dataclass
from node_timeout.urls.addresses import Host, HostsUrl
from node_timeout.urls.parameters import number, pairs_of, parameters_of, parse

DATABASES = {
    "postgresql": "postgresql",
    "postgres": "postgresql",
    "postgresql+asyncpg": "postgresql",
    "mysql": "mysql",
    "mysql+aiomysql": "mysql",
    "mariadb": "mariadb",
    "mariadb+aiomysql": "mariadb",
    "sqlite": "sqlite",
    "sqlite+aiosqlite": "sqlite",
}
"""The family of each scheme."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseUrl:
    family: str
    """postgresql, mysql, mariadb or sqlite."""
    user: str | None
    password: str | None
    hosts: Sequence[Host]
    """None at all: where the driver looks by itself. A name that begins with ``/`` is a directory
    of PostgreSQL's sockets."""
    name: str | None
    """Of the database; of SQLite the path of its file."""
    parameters: Mapping[str, Any]


def read_database_url(text: str) -> DatabaseUrl:
    url = parse(text, DATABASES)
    family = DATABASES[url.scheme]
    pairs = pairs_of(url, takes_database_tls=True)
    hosts = [host for host in url.hosts if host.name]
    name = unquote(url.path[1:]) or None
    if family == "postgresql":
        hosts = _postgresql_hosts(url, pairs)
    elif len(hosts) > 1:
        raise ValueError(f"has several hosts, {url.scheme}:// takes one")
    elif family == "sqlite" and (hosts or url.login):
        raise ValueError("has a host or a user, write sqlite:/// before the path of the file")
    elif family == "sqlite" and name in (None, ":memory:"):
        raise ValueError("names no file, write sqlite:///path: memory is shared by no processes")
    elif name is None:
        raise ValueError(f"names no database, write {url.scheme}://user:password@host/name")
    return DatabaseUrl(
        family=family,
        user=url.user,
        password=url.password,
        hosts=hosts,
        name=name,
        parameters=parameters_of("mysql" if family == "mariadb" else family, pairs),
    )


def _postgresql_hosts(url: HostsUrl, pairs: list[tuple[str, str]]) -> list[Host]:
    """Take the hosts out of the pairs, where libpq lets them stand too."""
    given = [host for host in url.hosts if host.name]
    names = [each for key, value in pairs if key == "host" for each in value.split(",")]
    ports = [each for key, value in pairs if key == "port" for each in value.split(",")]
    pairs[:] = [pair for pair in pairs if pair[0] not in ("host", "port")]
    if not names and not ports:
        return given
    if given or not names:
        raise ValueError("has hosts before the path and among the parameters, write one of both")
    try:
        hosts = [
            Host(name=each, port=None) if each.startswith("/") else Host.parse(each)
            for each in names
        ]
        if len(ports) < len(hosts):
            (port,) = ports or [""]  # for all of them
            ports = [port] * len(hosts)
        if len(ports) != len(hosts):
            raise ValueError  # noqa: TRY301 - said below
        hosts = [
            Host(name=host.name, port=host.port or _port(port)) for host, port in zip(hosts, ports)
        ]
    except ValueError:
        raise ValueError("has a list of hosts that cannot be read") from None
    if not all(host.name for host in hosts):
        raise ValueError("has a list of hosts that cannot be read")
    return hosts


def _port(text: str) -> int | None:
    return int(number(int, 1, 65535)(text)) if text else None
