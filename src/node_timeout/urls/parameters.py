"""What the URLs of all stores have in common: scheme, login, and what stands behind the ``?``.

Each function raises ValueError that says what is wrong and what to write, and quotes nothing of a
password. What parameters there are stands here; what they do, in the adapters.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl

from node_timeout.domain.hints import did_you_mean
from node_timeout.urls.addresses import HostsUrl
from node_timeout.urls.redaction import remember

MAX_REDIS_DATABASE = 2**31 - 1

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


def number(kind: type[int | float], least: float, most: float) -> Reader:
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


SECONDS = number(float, 0.1, 3600)
WHOLE_SECONDS = number(int, 1, 3600)
COUNT = number(int, 0, 1_000_000)

PARAMETERS: Mapping[str, Mapping[str, Reader]] = {
    "postgresql": {
        "application_name": _text,
        "options": _text,
        "connect_timeout": SECONDS,
        "target_session_attrs": _one_of("any", "read-write", "primary"),
        "keepalives": _flag,
        "keepalives_idle": WHOLE_SECONDS,
        "keepalives_interval": WHOLE_SECONDS,
        "keepalives_count": number(int, 1, 100),
        "tcp_user_timeout": number(int, 0, 3_600_000),
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
        "db": number(int, 0, MAX_REDIS_DATABASE),
        "client_name": _text,
        "socket_timeout": SECONDS,
        "socket_connect_timeout": SECONDS,
        "socket_keepalive": _flag,
        "health_check_interval": number(int, 0, 3600),
        "max_connections": number(int, 1, 100_000),
    },
    "amqp": {
        "name": _text,
        "heartbeat": number(int, 0, 65_534),
        "auth": _one_of("plain", "external"),
        "interleave": COUNT,
        "happy_eyeballs_delay": SECONDS,
    },
    "memory": {},
}
"""What may stand behind the ``?`` of a URL, by family. Times are seconds, but ``tcp_user_timeout``
milliseconds, as libpq has it."""


def parse(text: str, schemes: Sequence[str] | Mapping[str, str]) -> HostsUrl:
    url = HostsUrl.parse(text.strip())
    if url.scheme not in schemes:
        raise ValueError(f"has the scheme {url.scheme!r}, use one of {', '.join(schemes)}")
    if url.password and url.password != url.user:  # what is also a name is not secret
        remember(url.password)
        remember(url.login.partition(":")[2])
    return url


def pairs_of(url: HostsUrl, *, takes_database_tls: bool = False) -> list[tuple[str, str]]:
    try:
        pairs = parse_qsl(
            url.query, keep_blank_values=True, strict_parsing=bool(url.query), errors="strict"
        )
    except ValueError:
        raise ValueError("has parameters that are not written as ?name=value&name=value") from None
    for name, _ in pairs:
        if TLS_PARAMETER.fullmatch(name):
            database_tls = "database_tls and " if takes_database_tls else ""
            raise ValueError(
                f"has the parameter {name}; TLS is set by {database_tls}"
                "tls_ca_file, tls_cert_file and tls_key_file, and its checks are never off"
            )
    return pairs


def parameters_of(family: str, pairs: list[tuple[str, str]]) -> Mapping[str, Any]:
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
