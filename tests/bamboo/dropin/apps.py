"""The line that bamboo's own app lacks: it never imports its signal handlers."""

from django.apps import AppConfig


class DropinConfig(AppConfig):
    name = "tests.bamboo.dropin"

    def ready(self) -> None:
        import pipeline.contrib.node_timeout.signals.handlers  # noqa: F401
