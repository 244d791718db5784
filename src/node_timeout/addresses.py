"""Addresses of a service that several servers offer."""

import re
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

# A comma ends a URL only where the next one begins.
BETWEEN_URLS = re.compile(r"\s*,\s*(?=[a-z][a-z0-9+.-]*://)", re.IGNORECASE)
# Read by hand: urlsplit takes a list of hosts for one host with a bad port.
PARTS = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<login>(?:[^/?#]*@)?)(?P<hosts>[^/?#@]*)(?P<rest>.*)",
    re.IGNORECASE | re.DOTALL,
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
        return cls(name=parts.hostname or "", port=parts.port)

    def __str__(self) -> str:
        name = f"[{self.name}]" if ":" in self.name else self.name
        return name if self.port is None else f"{name}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostsUrl:
    """A URL that may have several hosts: ``scheme://login@host:port,host:port/rest``."""

    scheme: str
    login: str
    """Ends in ``@`` if there is one."""
    hosts: tuple[Host, ...]
    rest: str

    @classmethod
    def parse(cls, url: str) -> Self:
        """Raises ValueError, whose text does not quote the URL, where it is none."""
        parts = PARTS.fullmatch(url)
        if not parts:
            raise ValueError("is not a URL, write scheme://user:password@host:port/name")
        try:
            hosts = tuple(Host.parse(each.strip()) for each in parts["hosts"].split(","))
        except ValueError:
            raise ValueError("has a port that is no number, or no host") from None
        if len(hosts) > 1 and not all(host.name for host in hosts):
            raise ValueError("has an empty host in its list")
        return cls(
            scheme=parts["scheme"].lower(), login=parts["login"], hosts=hosts, rest=parts["rest"]
        )


def split_urls(text: str) -> list[str]:
    """Split URLs that are separated by commas; each has its own user, port and path."""
    return BETWEEN_URLS.split(text.strip())
