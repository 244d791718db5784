"""The Django app."""

from typing import Any

from django.apps import AppConfig


class NodeTimeoutConfig(AppConfig):  # type: ignore[misc] # Django is not typed
    name = "node_timeout.contrib.bamboo"
    label = "node_timeout_bamboo"
    verbose_name = "node-timeout"

    def ready(self) -> None:
        from django.core.signals import setting_changed  # noqa: PLC0415 - as the next
        from django.db.models.signals import post_migrate  # noqa: PLC0415

        from node_timeout.contrib.bamboo import (  # noqa: PLC0415 - needs the apps
            client,
            forget_client,
            receivers,
        )

        client()  # a wrong setting or gevent stops the start, before a task is taken
        setting_changed.connect(forget_client, dispatch_uid="node_timeout")
        post_migrate.connect(make_tables, sender=self, dispatch_uid="node_timeout")
        receivers.connect()


def make_tables(*, using: str, verbosity: int = 1, **_more: Any) -> None:
    """Receiver of Django's ``post_migrate``: our tables too, if this database has the ledger."""
    from node_timeout.contrib.bamboo import client  # noqa: PLC0415
    from node_timeout.contrib.bamboo.own_connection import OwnConnection  # noqa: PLC0415

    ours = client()
    if isinstance(ours, OwnConnection) and ours.is_in(using):
        revision = ours.migrate()
        if verbosity:
            print(f"  node-timeout: its tables are at revision {revision}")  # noqa: T201
