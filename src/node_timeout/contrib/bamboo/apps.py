"""The Django app."""

from django.apps import AppConfig

from node_timeout.blocking import require_native_threads


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

        require_native_threads()  # before a task is taken, which would be lost
        client()  # a wrong setting stops the start, not the first pipeline
        setting_changed.connect(forget_client, dispatch_uid="node_timeout")
        receivers.connect()
