"""The URLs of RabbitMQ, read whole before anything is connected. Raises ValueError."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from node_timeout.older_python import dataclass
from node_timeout.urls.addresses import Host, HostsUrl, split_urls
from node_timeout.urls.parameters import pairs_of, parameters_of, parse

AMQP_SCHEMES = ("amqp", "amqps", "memory")
MAX_VHOST_BYTES = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class AmqpUrl:
    scheme: str
    address: str
    """The URL without its parameters."""
    host: Host
    parameters: Mapping[str, Any]


def read_amqp_urls(text: str) -> list[AmqpUrl]:
    """The nodes of one cluster."""
    urls = [parse(each, AMQP_SCHEMES) for each in split_urls(text)]
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
        parameters=parameters_of("memory" if memory else "amqp", pairs_of(url)),
    )
