"""Which of the Django project's databases holds the ledger, if one does."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from node_timeout.urls.database import DatabaseUrl, read_database_url

FAMILIES = {"postgresql": "postgresql", "mysql": "mysql", "mariadb": "mysql", "sqlite": "sqlite"}
"""The database family of the schemes of our URLs, and of Django's vendors."""
PORTS = {"postgresql": 5432, "mysql": 3306}
LOOPBACK = ("", "localhost", "127.0.0.1", "::1")


def alias_of(url: str, connections: Iterable[Any]) -> str | None:
    """The alias of the database that one of our URLs names; None if the project does not have it.

    ``connections`` are Django's. Names are compared as written, except the names of this host.
    """
    wanted = _place(read_database_url(url))
    for connection in connections:
        if wanted is not None and wanted == _place_in_django(connection):
            return str(connection.alias)
    return None


def _place(url: DatabaseUrl) -> tuple[Any, ...] | None:
    """What identifies the database; None for several hosts: Django's could be any of them."""
    family = FAMILIES[url.family]
    if family == "sqlite":
        return family, url.name
    if len(url.hosts) > 1:
        return None
    host, port = (url.hosts[0].name, url.hosts[0].port) if url.hosts else ("", None)
    return family, _name(host), str(port or PORTS[family]), url.name


def _place_in_django(connection: Any) -> tuple[Any, ...] | None:
    family = FAMILIES.get(connection.vendor)
    known = connection.settings_dict
    if family is None:
        return None
    if family == "sqlite":
        return family, str(known["NAME"])
    return family, _name(known["HOST"]), str(known["PORT"] or PORTS[family]), known["NAME"]


def _name(host: str) -> str:
    return "localhost" if host in LOOPBACK else host
