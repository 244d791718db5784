"""Addresses of a service that several servers offer."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import unquote, urlsplit

from node_timeout.older_python import Self, dataclass

# A comma ends a URL only where the next one begins.
BETWEEN_URLS = re.compile(r"\s*,\s*(?=[a-z][a-z0-9+.-]*://)", re.IGNORECASE)
# Read by hand: urlsplit takes a list of hosts for one host with a bad port.
PARTS = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?:(?P<login>[^/?#]*)@)?(?P<hosts>[^/?#@]*)"
    r"(?P<rest>(?P<path>[^?#]*)(?:\?(?P<query>[^#]*))?(?P<fragment>#.*)?)",
    re.IGNORECASE | re.DOTALL,
)
# What RFC 3986 lets a user and a password hold; everything else is percent-encoded.
USER = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*")
PASSWORD = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=:-]|%[0-9A-Fa-f]{2})*")
HOST_NAME = re.compile(r"[\w.-]*")
NOT_ENCODED = (
    "has a user or password that is not percent-encoded: write '@' as %40, ':' as %3A, '/' as %2F, "
    "'?' as %3F, '#' as %23, '%' as %25, a space as %20, and any other sign as its UTF-8 bytes; "
    "an '@' behind the host is %40 too"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """One server. An IPv6 address stands here without brackets."""

    name: str
    port: int | None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``host``, ``host:port`` or ``[::1]:port``. Raises ValueError."""
        parts = urlsplit(f"//{text}")
        name, port = parts.hostname or "", parts.port
        if port == 0:
            raise ValueError("port 0")
        if ":" in name:
            ipaddress.ip_address(name)
        elif not HOST_NAME.fullmatch(name):
            raise ValueError("no host name")
        name.encode("idna")  # as the resolver does, whose UnicodeError nobody expects
        return cls(name=name, port=port)

    def __str__(self) -> str:
        name = f"[{self.name}]" if ":" in self.name else self.name
        return name if self.port is None else f"{name}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostsUrl:
    """A URL that may have several hosts: ``scheme://login@host:port,host:port/path?query``."""

    scheme: str
    """As it is written; the known ones are in lower case."""
    login: str
    """The user and password as they are written, percent-encoded."""
    user: str | None
    password: str | None
    hosts: tuple[Host, ...]
    path: str
    """As it is written, percent-encoded; begins with ``/`` if there is one."""
    query: str

    @classmethod
    def parse(cls, url: str) -> Self:
        """Raises ValueError, whose text does not quote the URL, where it is none."""
        parts = PARTS.fullmatch(url)
        if not parts:
            raise ValueError("is not a URL, write scheme://user:password@host:port/name")
        login = parts["login"] or ""
        if parts["hosts"] and "@" in parts["rest"]:
            raise ValueError(NOT_ENCODED)
        user, colon, password = login.partition(":")
        if not (USER.fullmatch(user) and PASSWORD.fullmatch(password)):
            raise ValueError(NOT_ENCODED)
        try:
            user, password = unquote(user, errors="strict"), unquote(password, errors="strict")
        except UnicodeDecodeError:
            raise ValueError(NOT_ENCODED) from None
        if not (user + password + url).isprintable():
            raise ValueError("has a line break or another character that cannot be printed")
        try:
            hosts = tuple(Host.parse(each.strip()) for each in parts["hosts"].split(","))
        except ValueError:
            raise ValueError("has a port that is no number, or no host") from None
        if len(hosts) > 1 and not all(host.name for host in hosts):
            raise ValueError("has an empty host in its list")
        if parts["fragment"]:
            raise ValueError("has a '#', write it as %23")
        return cls(
            scheme=parts["scheme"],
            login=login,
            user=user or None,
            password=password if colon else None,
            hosts=hosts,
            path=parts["path"],
            query=parts["query"] or "",
        )


def split_urls(text: str) -> list[str]:
    """Split URLs that are separated by commas; each has its own user, port and path."""
    return BETWEEN_URLS.split(text.strip())
