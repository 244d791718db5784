"""Event source for bamboo-engine: put ``node_timeout.contrib.bamboo`` into INSTALLED_APPS.

The settings are those of the project, see `project`; the dict ``NODE_TIMEOUT`` wins:

    NODE_TIMEOUT = {"redis_url": "redis://…"}

If ``database_url`` is one of the project's ``DATABASES``, states and configs are written through
Django's own connection, in the engine's transaction. A ledger in another database is reached by a
thread with an event loop and its own connections.

``"enabled": False`` in the dict turns the app off, for example for a project's unit tests: it then
connects to nothing, stores nothing and arms nothing, but still checks trees and configs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from node_timeout.contrib.bamboo.installed import PART, is_whole
from node_timeout.domain.errors import SettingsError

if TYPE_CHECKING:
    from node_timeout.contrib.bamboo.project_client import ProjectClient

default_app_config = "node_timeout.contrib.bamboo.apps.NodeTimeoutConfig"


_made: list[ProjectClient] = []
"""The process's client: the first one made. Threads that start at the same time may make several;
the unused ones hold no resources. There is no lock, because a fork could leave it locked.
"""


def client() -> ProjectClient:
    """The process's client, with the settings of the project. Raises what `new_client` raises."""
    if not _made:
        _made.append(new_client())
    return _made[0]


def new_client() -> ProjectClient:
    """Make a client; it connects at its first call.

    Raises `SettingsError`; also `GreenThreadsError` if the ledger is in no database of the project.
    """
    from node_timeout.contrib.bamboo import project  # noqa: PLC0415 - needs Django set up

    is_enabled = project.is_enabled()
    values = project.settings_of_project(stores=is_enabled)
    return _of_the_whole(values, is_enabled) if is_whole() else _of_the_part(values, is_enabled)


def _of_the_whole(values: dict[str, Any], is_enabled: bool) -> ProjectClient:
    from django.db import connections  # noqa: PLC0415 - Django is not needed to import this

    from node_timeout.contrib.bamboo.own_connection import OwnConnection  # noqa: PLC0415
    from node_timeout.contrib.bamboo.own_database import alias_of  # noqa: PLC0415
    from node_timeout.contrib.bamboo.project_client import ProjectClient  # noqa: PLC0415
    from node_timeout.contrib.bamboo.switched_off import SwitchedOff  # noqa: PLC0415
    from node_timeout.contrib.bamboo_daemon.full import Full  # noqa: PLC0415 - not in each distribution
    from node_timeout.stores.redis.blocking import is_served  # noqa: PLC0415

    full = Full(values)
    ours = full.app_settings()
    if not is_enabled:
        return SwitchedOff(ours)
    alias = alias_of(ours.database_url or "", connections.all())
    if alias is not None and is_served(ours.redis_url):
        return OwnConnection(ours, alias, full.bridge())
    full.require_native_threads()
    return ProjectClient(ours, full.bridge())


def _of_the_part(values: dict[str, Any], is_enabled: bool) -> ProjectClient:
    from django.db import DEFAULT_DB_ALIAS, connections  # noqa: PLC0415 - as above

    from node_timeout.contrib.bamboo.app_settings import AppSettings  # noqa: PLC0415
    from node_timeout.contrib.bamboo.own_connection import OwnConnection  # noqa: PLC0415
    from node_timeout.contrib.bamboo.own_database import alias_of  # noqa: PLC0415
    from node_timeout.contrib.bamboo.switched_off import SwitchedOff  # noqa: PLC0415
    from node_timeout.stores.redis.blocking import is_served  # noqa: PLC0415

    ours = AppSettings.read(values)
    if not is_enabled:
        return SwitchedOff(ours)
    url = ours.database_url
    alias = DEFAULT_DB_ALIAS if url is None else alias_of(url, connections.all())
    if alias is None:
        raise SettingsError(
            f"database_url names no database of this project, and {PART} reaches no other: write "
            "host, port and name as in DATABASES, or leave it out for DATABASES['default']"
        )
    if not is_served(ours.redis_url):
        raise SettingsError(f"redis_url names a cluster of Redis, which {PART} does not reach")
    return OwnConnection(ours, alias)


def forget_client(*, setting: str, **_more: Any) -> None:
    """Receiver of Django's ``setting_changed``, which `override_settings` sends."""
    from node_timeout.contrib.bamboo import project  # noqa: PLC0415

    while project.is_read(setting) and _made:
        _made.pop().close()


def apply_node_timeout_configs(pipeline_tree: Any, configs: Any) -> dict[str, Any]:
    """`node_timeout.apply_node_timeout_configs`, with the settings of the project."""
    return client().apply_node_timeout_configs(pipeline_tree, configs)


def batch_create_node_timeout_config(
    root_pipeline_id: Any, pipeline_tree: Any, *, lenient: bool = False, payload: Any = None
) -> dict[str, Any]:
    """`node_timeout.batch_create_node_timeout_config`, with the settings of the project."""
    return client().batch_create_node_timeout_config(
        root_pipeline_id, pipeline_tree, lenient=lenient, payload=payload
    )


def batch_create_node_timeout_configs(
    pipeline_trees: Any, *, lenient: bool = False
) -> dict[str, Any]:
    """`node_timeout.NodeTimeout.batch_create_node_timeout_configs`, with the project's settings."""
    return client().batch_create_node_timeout_configs(pipeline_trees, lenient=lenient)


# The original's spelling, which its users import.
apply_node_timout_configs = apply_node_timeout_configs
