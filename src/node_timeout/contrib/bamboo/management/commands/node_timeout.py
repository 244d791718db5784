"""``manage.py node_timeout …``: the command line of node-timeout, with the project's settings."""

from __future__ import annotations

import os
from typing import Any, ClassVar

from django.core.management.base import BaseCommand, CommandError

from node_timeout.contrib.bamboo.installed import beyond, is_whole
from node_timeout.contrib.bamboo.project import environment_of, settings_of_project
from node_timeout.setting_rules import variable


class Command(BaseCommand):  # type: ignore[misc] # Django is not typed
    help = "Run node-timeout with this project's settings: scan, worker, check, migrate, status, …"
    requires_system_checks: ClassVar[list[str]] = []
    requires_migrations_checks = False

    def run_from_argv(self, argv: list[str]) -> None:
        """Pass all arguments after ``node_timeout`` to our command line, which ends the process."""
        if not is_whole():
            raise CommandError(str(beyond("manage.py node_timeout")))
        from node_timeout.cli.main import main  # noqa: PLC0415 - it takes a while to import

        os.environ |= environment_of(settings_of_project())
        os.environ.setdefault(variable("engine"), "bamboo")
        main(argv[2:], "manage.py node_timeout")

    def handle(self, *args: Any, **options: Any) -> None:
        """Do nothing for `call_command`: our command line would end the caller's process."""
        del args, options
        self.stdout.write(self.help)
