"""A project with a slow receiver of its own, where ``BAMBOO_TEST_RECEIVER`` names its notes."""

import os
import time
from pathlib import Path
from typing import Any

from django.apps import AppConfig

NOTES = os.environ.get("BAMBOO_TEST_RECEIVER", "")


class ProjectConfig(AppConfig):
    name = "tests.bamboo.project"

    def ready(self) -> None:
        from pipeline.eri.signals import post_set_state

        if NOTES:
            post_set_state.connect(note_slowly)


def note_slowly(sender: Any, node_id: str, to_state: str, **_more: Any) -> None:
    with Path(NOTES).open("a", encoding="utf-8") as notes:
        notes.write(f"{node_id} {to_state}\n")
    time.sleep(1)
