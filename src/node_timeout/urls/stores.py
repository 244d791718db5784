"""The URLs of database, Redis and RabbitMQ, read whole before anything is connected.

Each function raises ValueError that says what is wrong and what to write, and quotes nothing of a
password. What a URL's parameters may be stands here; what they do, in the adapters.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote

from node_timeout.domain.hints import did_you_mean
from node_timeout.urls.addresses import Host, HostsUrl, split_urls
from node_timeout.urls.redaction import remember

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
REDIS_SCHEMES = (
    *("redis", "rediss", "unix"),
    *("redis+cluster", "rediss+cluster", "redis+sentinel", "rediss+sentinel"),
)
AMQP_SCHEMES = ("amqp", "amqps", "memory")
MAX_REDIS_DATABASE = 2**31 - 1
MAX_VHOST_BYTES = 255

# How drivers let a URL decide about TLS. Here one place decides, and none can switch checks off.
TLS_PARAMETER = re.compile(
    r"ssl\w*|direct_tls|no_verify_ssl|verify\w*|ca(?:file|path|data)|certfile|keyfile",
    re.IGNORECASE,
)
LOGIN = "belongs before the host: scheme://user:password@host"
PATH = "belongs into the path: scheme://host/name"
UNICODE = "cannot be chosen: the connection is utf8mb4 or UTF8, for all of Unicode"
REFUSED = {
    **dict.fromkeys(("user", "username", "password", "passwd"), LOGIN),
    **dict.fromkeys(("dbname", "database", "virtual_host"), PATH),
    **dict.fromkeys(("charset", "collation", "client_encoding", "encoding"), UNICODE),
    "server_settings": "is not for URLs: write options=-c%20name=value",
}
"""Parameters that drivers know, and why they are not taken."""

Reader = Callable[[str], Any]


def _text(value: str) -> str:
    if not value:
        raise ValueError("is empty")
    return value


def _number(kind: type[int] | type[float], least: float, most: float) -> Reader:
    def read(value: str) -> float:
        try:
            number = kind(value)
        except ValueError:
            number = kind(least) - 1
        if not least <= number <= most:  # not a number is neither
            what = "a whole number" if kind is int else "a number"
            raise ValueError(f"is not {what} from {least:g} to {most:g}")
        return number

    return read


def _one_of(*words: str) -> Reader:
    def read(value: str) -> str:
        if value not in words:
            raise ValueError(f"is none of {', '.join(words)}")
        return value

    return read


def _flag(value: str) -> bool:
    return _one_of("0", "1", "false", "true", "no", "yes")(value) in ("1", "true", "yes")


SECONDS = _number(float, 0.1, 3600)
WHOLE_SECONDS = _number(int, 1, 3600)
COUNT = _number(int, 0, 1_000_000)

PARAMETERS: Mapping[str, Mapping[str, Reader]] = {
    "postgresql": {
        "application_name": _text,
        "options": _text,
        "connect_timeout": SECONDS,
        "target_session_attrs": _one_of("any", "read-write", "primary"),
        "keepalives": _flag,
        "keepalives_idle": WHOLE_SECONDS,
        "keepalives_interval": WHOLE_SECONDS,
        "keepalives_count": _number(int, 1, 100),
        "tcp_user_timeout": _number(int, 0, 3_600_000),
        # The driver has neither: what asks for nothing is let pass, for the sake of copied URLs.
        "channel_binding": _one_of("disable", "prefer"),
        "gssencmode": _one_of("disable", "prefer"),
        "passfile": _text,
        "krbsrvname": _text,
        "command_timeout": SECONDS,
        "statement_cache_size": COUNT,
        "max_cached_statement_lifetime": COUNT,
        "max_cacheable_statement_size": COUNT,
        "prepared_statement_cache_size": COUNT,
    },
    "mysql": {
        "connect_timeout": SECONDS,
        "unix_socket": _text,
        "program_name": _text,
        "auth_plugin": _text,
        "init_command": _text,
    },
    "sqlite": {"timeout": SECONDS, "cached_statements": COUNT},
    "redis": {
        "db": _number(int, 0, MAX_REDIS_DATABASE),
        "client_name": _text,
        "socket_timeout": SECONDS,
        "socket_connect_timeout": SECONDS,
        "socket_keepalive": _flag,
        "health_check_interval": _number(int, 0, 3600),
        "max_connections": _number(int, 1, 100_000),
    },
    "amqp": {
        "name": _text,
        "heartbeat": _number(int, 0, 65_534),
        "auth": _one_of("plain", "external"),
        "interleave": COUNT,
        "happy_eyeballs_delay": SECONDS,
    },
    "memory": {},
}
"""What may stand behind the ``?`` of a URL, by family. Times are seconds, but ``tcp_user_timeout``
milliseconds, as libpq has it."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class AmqpUrl:
    scheme: str
    address: str
    """The URL without its parameters."""
    host: Host
    parameters: Mapping[str, Any]


def read_database_url(text: str) -> DatabaseUrl:
    url = _parse(text, DATABASES)
    family = DATABASES[url.scheme]
    pairs = _pairs(url)
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
        parameters=_parameters("mysql" if family == "mariadb" else family, pairs),
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
        pairs_of_host = zip(hosts, ports, strict=True)
        hosts = [
            Host(name=host.name, port=host.port or _port(port)) for host, port in pairs_of_host
        ]
    except ValueError:
        raise ValueError("has a list of hosts that cannot be read") from None
    if not all(host.name for host in hosts):
        raise ValueError("has a list of hosts that cannot be read")
    return hosts


def _port(text: str) -> int | None:
    return int(_number(int, 1, 65535)(text)) if text else None


def read_redis_url(text: str) -> RedisUrl:
    url = _parse(text, REDIS_SCHEMES)
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
    parameters = dict(_parameters("redis", _pairs(url)))
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


def read_amqp_urls(text: str) -> list[AmqpUrl]:
    """The nodes of one cluster."""
    urls = [_parse(each, AMQP_SCHEMES) for each in split_urls(text)]
    if len(urls) > 1 and any(url.scheme == "memory" for url in urls):
        raise ValueError("has memory:// beside another URL")
    return [_amqp(url) for url in urls]


def _amqp(url: HostsUrl) -> AmqpUrl:
    if len(url.hosts) > 1:
        raise ValueError("has several hosts in one URL, write whole URLs separated by commas")
    (host,) = url.hosts
    memory = url.scheme == "memory"
    if memory and (host.name or url.login or url.path):
        raise ValueError("has more than memory://, which is all that there is to write")
    if not memory and not host.name:
        raise ValueError("has no host")
    if len(unquote(url.path[1:]).encode()) > MAX_VHOST_BYTES:
        raise ValueError(f"has a vhost of more than {MAX_VHOST_BYTES} bytes")
    login = f"{url.login}@" if url.login else ""
    return AmqpUrl(
        scheme=url.scheme,
        address=f"{url.scheme}://{login}{host}{url.path}",
        host=host,
        parameters=_parameters("memory" if memory else "amqp", _pairs(url)),
    )


def _parse(text: str, schemes: Sequence[str] | Mapping[str, str]) -> HostsUrl:
    url = HostsUrl.parse(text.strip())
    if url.scheme not in schemes:
        raise ValueError(f"has the scheme {url.scheme!r}, use one of {', '.join(schemes)}")
    if url.password and url.password != url.user:  # what is also a name is not secret
        remember(url.password)
        remember(url.login.partition(":")[2])
    return url


def _pairs(url: HostsUrl) -> list[tuple[str, str]]:
    try:
        pairs = parse_qsl(
            url.query, keep_blank_values=True, strict_parsing=bool(url.query), errors="strict"
        )
    except ValueError:
        raise ValueError("has parameters that are not written as ?name=value&name=value") from None
    for name, _ in pairs:
        if TLS_PARAMETER.fullmatch(name):
            database_tls = "database_tls and " if url.scheme in DATABASES else ""
            raise ValueError(
                f"has the parameter {name}; TLS is set by {database_tls}"
                "tls_ca_file, tls_cert_file and tls_key_file, and its checks are never off"
            )
    return pairs


def _parameters(family: str, pairs: list[tuple[str, str]]) -> Mapping[str, Any]:
    known, found = PARAMETERS[family], dict[str, Any]()
    for name, value in pairs:
        if name in REFUSED:
            raise ValueError(f"has the parameter {name}, which {REFUSED[name]}")
        if name not in known:
            listed = ", ".join(known) or "none"
            raise ValueError(
                f"has the unknown parameter {name!r}{did_you_mean(name, known)} (known: {listed})"
            )
        if name in found:
            raise ValueError(f"has the parameter {name} twice")
        try:
            found[name] = known[name](value)
        except ValueError as error:
            raise ValueError(f"has a parameter {name} that {error}") from None
    return found
