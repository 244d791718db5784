"""The Django app."""

from django.apps import AppConfig


class NodeTimeoutConfig(AppConfig):  # type: ignore[misc] # Django is not typed
    name = "node_timeout.contrib.bamboo"
    label = "node_timeout_bamboo"
    verbose_name = "node-timeout"

    def ready(self) -> None:
        from django.core.signals import setting_changed  # noqa: PLC0415 - as the next

        from node_timeout.contrib.bamboo import (  # noqa: PLC0415 - needs the apps
            client,
            forget_client,
            receivers,
        )

        client()  # a wrong setting or gevent stops the start, before a task is taken
        setting_changed.connect(forget_client, dispatch_uid="node_timeout")
        receivers.connect()
