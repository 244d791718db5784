"""The settings of a Django project, as settings of node-timeout. Django must be set up.

Order of precedence: ``NODE_TIMEOUT``; the environment and secret files; the project's settings for
bamboo's own app (``PIPELINE_NODE_TIMEOUT_…``); the project's settings for itself: ``DATABASES``,
``redis_inst``, the broker of Celery.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Mapping
from pathlib import PurePath
from typing import Any
from urllib.parse import quote

from node_timeout.contrib.bamboo.installed import is_whole
from node_timeout.contrib.bamboo.own_database import FAMILIES
from node_timeout.domain.errors import SettingsError
from node_timeout.domain.hints import shown
from node_timeout.setting_rules import said_elsewhere, variable
from node_timeout.urls.amqp import read_amqp_urls
from node_timeout.urls.database import read_database_url
from node_timeout.urls.redaction import redact
from node_timeout.urls.redis import read_redis_url

logger = logging.getLogger(__name__)

OWN, REDIS = "NODE_TIMEOUT", "redis_inst"
BROKERS = ("CELERY_BROKER_URL", "BROKER_URL")
BAMBOO_PREFIX = "PIPELINE_NODE_TIMEOUT_"
DEFAULT_DATABASE = "default"
OLD_STRATEGY = "node_timeout.contrib.bamboo_daemon.old_strategies:OldStrategy"
BUILT_IN = ("forced_fail", "forced_fail_and_skip")
REDIS_URL = "redis_url"
STORES: dict[str, Callable[[str], object]] = {
    "database_url": read_database_url,
    REDIS_URL: read_redis_url,
    "amqp_url": read_amqp_urls,
}
ODD_OPTIONS = {
    *("sslmode", "sslrootcert", "sslcert", "sslkey", "ssl", "ssl_mode"),
    *("options", "service", "assume_role", "passfile", "unix_socket", "read_default_file"),
}
"""The keys of ``OPTIONS`` that change where, as whom or how Django connects."""


def is_read(setting: str) -> bool:
    """Whether this module reads a Django setting."""
    return setting in (OWN, REDIS, *BROKERS) or setting.startswith(BAMBOO_PREFIX)


def is_enabled() -> bool:
    """Raises `SettingsError`."""
    enabled = _own().get("enabled", True)
    if not isinstance(enabled, bool):
        raise SettingsError(f"NODE_TIMEOUT['enabled'] is {shown(enabled)}, not True or False")
    return enabled


def settings_of_project(*, stores: bool = True) -> dict[str, Any]:
    """The project's settings, by the names of `Settings`. They include those of the environment
    only for `node-timeout-bamboo`, where no other code reads that.

    Without ``stores`` they do not include where the stores are, unless ``NODE_TIMEOUT`` says it.
    Raises `SettingsError`.
    """
    from django.conf import settings  # noqa: PLC0415 - as in every module of the app
    from django.db import connections  # noqa: PLC0415

    own = _own()
    own.pop("enabled", None)
    elsewhere = said_elsewhere()
    said = elsewhere.keys() | own.keys()
    found: dict[str, Any] = {"executing_pool": _of_bamboo("EXECUTING_POOL")}
    if is_whole():
        found["dispatch_queue"] = _of_bamboo("DISPATCH_QUEUE")
        found["handle_queue"] = _of_bamboo("HANDLE_QUEUE")
        found["handlers"] = _handlers(old_strategies())
    if stores:
        found |= _stores(settings, connections[DEFAULT_DATABASE], said)
    if not is_whole():
        own = elsewhere | own
    return {name: value for name, value in found.items() if value and name not in said} | own


def _stores(settings: Any, database: Any, said: Collection[str]) -> dict[str, str]:
    """The URLs of the stores, except those in ``said``. Raises `SettingsError`."""
    redis = getattr(settings, REDIS, None)
    urls: tuple[tuple[str, str, Callable[[], str | None]], ...] = (
        ("database_url", "DATABASES['default']", lambda: database_url(database)),
        (REDIS_URL, REDIS, lambda: redis_url(redis)),
        ("amqp_url", " or ".join(BROKERS), lambda: _broker(settings)),
    )
    used = STORES if is_whole() else (REDIS_URL,)
    found = {
        name: url
        for name, source, read in urls
        if name not in said and name in used and (url := read()) and _can_be_read(name, source, url)
    }
    if redis is not None and REDIS_URL not in {*said, *found}:
        raise SettingsError(
            f"settings.{REDIS} is no client of one server by a host: give redis_url in {OWN}"
        )
    return found


def _can_be_read(name: str, source: str, url: str) -> bool:
    """Whether we can read this URL, which was written for other programs; if not, warn."""
    try:
        STORES[name](url)
    except ValueError as error:
        logger.warning("%s is not taken for %s: it %s", source, name, redact(str(error)))
        return False
    return True


def environment_of(settings: Mapping[str, Any]) -> dict[str, str]:
    """The same settings as environment variables, for our own command line."""
    return {variable(name): _text(value) for name, value in settings.items()}


def _text(value: Any) -> str:
    """The value as text; None becomes empty, and an empty variable counts as unset."""
    if value is None:
        return ""
    if hasattr(value, "get_secret_value"):
        return str(value.get_secret_value())
    return str(value) if isinstance(value, (str, PurePath)) else json.dumps(value, default=str)


def old_strategies() -> dict[str, Any]:
    """The strategies that bamboo's own app would call, by action."""
    handlers = _of_bamboo("HANDLER") or {}
    if not isinstance(handlers, Mapping):
        raise SettingsError(f"{BAMBOO_PREFIX}HANDLER is {shown(handlers)}, not a dict by action")
    return dict(handlers)


def _handlers(old: Mapping[str, Any]) -> dict[str, str]:
    """The handlers for old strategies, except bamboo's own two, which have successors here."""
    return {
        action: OLD_STRATEGY
        for action, strategy in old.items()
        if not (action in BUILT_IN and type(strategy).__module__.startswith("pipeline.contrib."))
    }


def database_url(connection: Any) -> str | None:
    """The URL of a Django database; None if other processes cannot reach it by a URL."""
    known, scheme = connection.settings_dict, FAMILIES.get(connection.vendor)
    name, host = str(known["NAME"] or ""), str(known["HOST"] or "localhost")
    if scheme is None or not name:
        return None
    if scheme == "sqlite":  # a test database is in memory
        return None if name.startswith((":", "file:")) else f"sqlite:///{quote(name)}"
    odd = ODD_OPTIONS & set(known.get("OPTIONS") or ())
    if host.startswith("/") or "," in host or odd:
        # Each driver has its own form of these.
        logger.warning(
            "DATABASES['default'] is not taken for database_url: write that yourself (%s)",
            ", ".join(sorted(odd)) or f"HOST is {host}",
        )
        return None
    place = _host(host) + (f":{known['PORT']}" if known["PORT"] else "")
    return f"{scheme}://{_login(known['USER'], known['PASSWORD'])}{place}/{quote(name, '')}"


def redis_url(client: Any) -> str | None:
    """The URL of a redis-py client for one server; None for any other client."""
    pool = getattr(client, "connection_pool", None)
    known = getattr(pool, "connection_kwargs", {})
    if pool is None or "host" not in known or hasattr(pool, "service_name"):
        return None
    scheme = "rediss" if "SSL" in pool.connection_class.__name__ else "redis"
    login = _login(known.get("username") or "", known.get("password") or "")
    place = f"{_host(known['host'])}:{known.get('port') or 6379}"
    return f"{scheme}://{login}{place}/{known.get('db') or 0}"


def _broker(settings: Any) -> str | None:
    """The URL of Celery's broker, if it is one URL of a RabbitMQ."""
    for name in BROKERS:
        url = getattr(settings, name, None)
        if isinstance(url, str) and url.startswith(("amqp://", "amqps://")) and ";" not in url:
            return url
    return None


def _host(name: str) -> str:
    return f"[{name}]" if ":" in name else name


def _login(user: str, password: str) -> str:
    if not user and not password:
        return ""
    return quote(str(user), "") + (f":{quote(str(password), '')}" if password else "") + "@"


def _own() -> dict[str, Any]:
    from django.conf import settings  # noqa: PLC0415

    return dict(getattr(settings, OWN, {}))


def _of_bamboo(name: str) -> Any:
    from django.conf import settings  # noqa: PLC0415

    return getattr(settings, BAMBOO_PREFIX + name, None)
