"""Event source for bamboo-engine: put ``node_timeout.contrib.bamboo`` into INSTALLED_APPS.

The settings are those of the project, see `project`; ``NODE_TIMEOUT``, a dict, wins:

    NODE_TIMEOUT = {"redis_url": "redis://…"}

Where ``database_url`` is one of the project's ``DATABASES``, states and configs are written through
Django's own connection, in the engine's transaction. A ledger elsewhere is reached by a thread with
an event loop, and connections of our own.

``"enabled": False`` in it turns the app off, for a project's unit tests for example: then it
connects nowhere, stores nothing and arms nothing. Trees and configs are checked all the same.
"""

from functools import cache
from typing import Any

from node_timeout.blocking import BlockingNodeTimeout, require_native_threads
from node_timeout.contrib.bamboo.own_database import alias_of
from node_timeout.contrib.bamboo.switched_off import SwitchedOff
from node_timeout.settings import Settings
from node_timeout.stores.redis.blocking import is_served

default_app_config = "node_timeout.contrib.bamboo.apps.NodeTimeoutConfig"

CALL_SECONDS = 5.0
"""No call over connections of our own takes longer."""


@cache
def client() -> BlockingNodeTimeout:
    """The process's client with the settings of the project. Raises what `new_client` does."""
    return new_client()


def new_client() -> BlockingNodeTimeout:
    """Make one; it connects at its first call.

    Raises `SettingsError`; where the ledger is in no database of the project, `GreenThreadsError`.
    """
    from django.db import connections  # noqa: PLC0415 - Django is not needed to import this

    from node_timeout.contrib.bamboo import project  # noqa: PLC0415
    from node_timeout.contrib.bamboo.own_connection import OwnConnection  # noqa: PLC0415

    is_enabled = project.is_enabled()
    ours = Settings(**project.settings_of_project(stores=is_enabled))
    if not is_enabled:
        return SwitchedOff(ours)
    alias = alias_of(ours.database_url.get_secret_value(), connections.all())
    if alias is not None and is_served(ours.redis_url.get_secret_value()):
        return OwnConnection(ours, alias, call_timeout=CALL_SECONDS)
    require_native_threads()
    return BlockingNodeTimeout(ours, call_timeout=CALL_SECONDS)


def forget_client(*, setting: str, **_more: Any) -> None:
    """Receiver of Django's ``setting_changed``, which `override_settings` sends."""
    from node_timeout.contrib.bamboo import project  # noqa: PLC0415

    if project.is_read(setting) and client.cache_info().currsize:
        client().close()
        client.cache_clear()


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


# The spelling that users of the original import.
apply_node_timout_configs = apply_node_timeout_configs
