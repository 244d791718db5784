"""The Django app."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig

from node_timeout.contrib.bamboo.installed import is_whole, require_one
from node_timeout.domain.errors import NodeTimeoutError


class NodeTimeoutConfig(AppConfig):  # type: ignore[misc] # Django is not typed
    name = "node_timeout.contrib.bamboo"
    label = "node_timeout_bamboo"
    verbose_name = "node-timeout"

    def ready(self) -> None:
        from django.core.signals import setting_changed  # noqa: PLC0415 - as the next
        from django.db.models.signals import post_migrate  # noqa: PLC0415

        from node_timeout.contrib.bamboo import (  # noqa: PLC0415 - needs the apps
            forget_client,
            new_client,
            receivers,
        )

        require_one()
        # A wrong setting or gevent prevents the start, before any task is taken. The client is not
        # kept: apps after this one may still change the settings that it uses.
        new_client().close()
        setting_changed.connect(forget_client, dispatch_uid="node_timeout")
        post_migrate.connect(make_tables, sender=self, dispatch_uid="node_timeout")
        receivers.connect()


def make_tables(*, using: str, verbosity: int = 1, **_more: Any) -> None:
    """Receiver of Django's ``post_migrate``: make our tables too, if the ledger is in ``using``."""
    from node_timeout.contrib.bamboo import client  # noqa: PLC0415
    from node_timeout.contrib.bamboo.own_connection import OwnConnection  # noqa: PLC0415

    ours = client()
    if not (isinstance(ours, OwnConnection) and ours.is_in(using)):
        return
    if is_whole():
        said, is_good = _made()
    else:
        said, is_good = _seen(using)
    if verbosity or not is_good:
        print(f"  node-timeout: {said}")  # noqa: T201


def _made() -> tuple[str, bool]:
    from node_timeout.contrib.bamboo import project  # noqa: PLC0415
    from node_timeout.contrib.bamboo_daemon.full import Full  # noqa: PLC0415 - not in each distribution

    try:
        return f"its tables are at revision {Full(project.settings_of_project()).migrate()}", True
    except NodeTimeoutError as error:  # Django's tables are made all the same
        return f"its tables were not made: {error}; then run manage.py node_timeout migrate", False


def _seen(using: str) -> tuple[str, bool]:
    """Without alembic: only check whether the tables exist."""
    from django.db import connections  # noqa: PLC0415

    from node_timeout.contrib.bamboo.installed import how_to_make_tables  # noqa: PLC0415
    from node_timeout.stores.ledger_rows import CONFIGS, RUNS  # noqa: PLC0415

    if {CONFIGS, RUNS} <= {*connections[using].introspection.table_names()}:
        return "its tables are here", True
    return f"its tables are missing, and nothing is recorded: run {how_to_make_tables()}", False
