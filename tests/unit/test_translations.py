"""The Chinese texts of the admin pages: all of them, none that is not used, compiled."""

import ast
from pathlib import Path

import polib

from scripts.compile_messages import LOCALE, compiled

APP = Path(__file__).parents[2] / "src/node_timeout/contrib/bamboo"
SOURCE = LOCALE / "zh_Hans/LC_MESSAGES/django.po"


def translated_texts() -> set[str]:
    """What the sources mark as text to translate."""
    calls = (
        node
        for name in ("admin.py", "admin_lists.py", "models.py")
        for node in ast.walk(ast.parse((APP / name).read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("_", "said")
    )
    return {ast.literal_eval(call.args[0]) for call in calls}


def test_every_text_is_translated() -> None:
    entries = {entry.msgid: entry.msgstr for entry in polib.pofile(str(SOURCE))}
    assert entries.keys() == translated_texts()
    assert all(entries.values())
    assert all(text.count("%d") == entries[text].count("%d") for text in entries)


def test_what_django_reads_is_what_people_wrote() -> None:
    assert SOURCE.with_suffix(".mo").read_bytes() == compiled(SOURCE)
