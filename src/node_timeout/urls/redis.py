"""The URL of Redis, read whole before anything is connected. Raises ValueError."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from node_timeout.older_python import dataclass
from node_timeout.urls.addresses import Host
from node_timeout.urls.parameters import MAX_REDIS_DATABASE, pairs_of, parameters_of, parse

REDIS_SCHEMES = (
    *("redis", "rediss", "unix"),
    *("redis+cluster", "rediss+cluster", "redis+sentinel", "rediss+sentinel"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisUrl:
    kind: str
    """cluster, sentinel, or empty: one server."""
    tls: bool
    user: str | None
    password: str | None
    hosts: Sequence[Host]
    path: str
    """Of the socket of a ``unix://`` URL, else empty."""
    service: str
    """That the Sentinels know, else empty."""
    database: int
    parameters: Mapping[str, Any]


def read_redis_url(text: str) -> RedisUrl:
    url = parse(text, REDIS_SCHEMES)
    scheme, _, kind = url.scheme.partition("+")
    if len(url.hosts) > 1 and not kind:
        raise ValueError(f"has several hosts, {scheme}:// takes one")
    if kind and not url.hosts[0].name:
        raise ValueError("has no host")
    if url.user and url.password is None:
        raise ValueError(
            "has a user and no password, write redis://:password@host (redis://user:@host for a "
            "user without one)"
        )
    parameters = dict(parameters_of("redis", pairs_of(url)))
    service, database = "", url.path.removeprefix("/")
    if scheme == "unix":
        database = ""
        if url.hosts[0].name or not url.path.strip("/"):
            raise ValueError("names no socket, write unix:///path/of/the.sock")
    elif kind == "sentinel":
        service, _, database = database.partition("/")
        if not service:
            raise ValueError("has no service, write redis+sentinel://host:port/service")
    return RedisUrl(
        kind=kind,
        tls=scheme == "rediss",
        user=url.user,
        password=url.password,
        hosts=url.hosts,
        path=unquote(url.path) if scheme == "unix" else "",
        service=unquote(service),
        database=_redis_database(kind, database, parameters.pop("db", None)),
        parameters=parameters,
    )


def _redis_database(kind: str, path: str, parameter: int | None) -> int:
    if path and parameter is not None:
        raise ValueError("has a database in its path and as parameter db, write one of both")
    if kind == "cluster" and (path or parameter):
        raise ValueError("has a database, a cluster has none: write nothing behind the hosts")
    if not path:
        return parameter or 0
    if not re.fullmatch(r"[0-9]+", path) or int(path) > MAX_REDIS_DATABASE:
        raise ValueError("has a path that is no number of a database, write redis://host:port/0")
    return int(path)
