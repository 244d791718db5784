"""The console's texts in English and Chinese: one file per language, read into a dict."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from starlette.requests import Request

WORDS = Path(__file__).parent / "words"
LANGUAGES = ("en", "zh")
COOKIE = "node_timeout_language"

Say = Callable[..., str]
"""Returns the text of a key, with its values filled in."""


@cache
def words(language: str) -> dict[str, str]:
    """All texts of a language, by key."""
    found: dict[str, str] = json.loads((WORDS / f"{language}.json").read_text(encoding="utf-8"))
    return found


def say_in(language: str) -> Say:
    texts = words(language)

    def say(key: str, **values: Any) -> str:
        return texts[key].format(**values) if values else texts[key]

    return say


def language_of(request: Request) -> str:
    """The language that the user chose, else the browser's preferred one, else English."""
    chosen = request.cookies.get(COOKIE)
    if chosen in LANGUAGES:
        return chosen
    for part in request.headers.get("accept-language", "").split(","):
        name = part.partition(";")[0].strip().lower().partition("-")[0]
        if name in LANGUAGES:
            return name
    return LANGUAGES[0]
