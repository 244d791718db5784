"""The secrets that this process knows, and texts without them.

Passwords of URLs, tokens and signing keys are remembered when they are read; `redact` takes them
out of every text on its way to a log, a terminal or a caller.
"""

from __future__ import annotations

import re
import sys
import traceback
from types import TracebackType
from urllib.parse import quote

HIDDEN = "***"
# Shorter ones are hidden in URLs only: elsewhere they would match ordinary words.
SHORTEST = 4
# Shorter ones are hidden where they stand as a word of their own, longer ones anywhere.
ANYWHERE = 8
# Up to the last "@" before the next URL, so that a password with a raw "@" or "/" is hidden whole.
IN_URL = re.compile(r"(://[^:/?#\s@]*):(?:(?!://)\S)*@")


class _Known:
    """Secrets in every form that a driver may write them in."""

    def __init__(self) -> None:
        self._forms: frozenset[str] = frozenset()
        self.pattern: re.Pattern[str] | None = None

    def add(self, secret: str) -> None:
        escaped = repr(secret)[1:-1]
        forms = {secret, quote(secret, safe=""), escaped, escaped.replace("'", r"\'")}
        new = self._forms | {form for form in forms if len(form) >= SHORTEST}
        if new == self._forms:
            return
        self._forms = new
        longest_first = sorted(new, key=len, reverse=True)
        self.pattern = re.compile("|".join(map(_where, longest_first)))


def _where(form: str) -> str:
    escaped = re.escape(form)
    return escaped if len(form) >= ANYWHERE else rf"(?<!\w){escaped}(?!\w)"


_known = _Known()


def remember(secret: str) -> None:
    """Hide this in every text from now on."""
    _known.add(secret)


def redact(text: str) -> str:
    """Hide the password of every URL in a text, and every secret that is known."""
    text = IN_URL.sub(rf"\1:{HIDDEN}@", text)
    return _known.pattern.sub(HIDDEN, text) if _known.pattern else text


def causes(error: BaseException | None) -> list[BaseException]:
    """The error, what caused it, and so on."""
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


def presentable(error: BaseException) -> BaseException | None:
    """The error to raise another from; None if a traceback of it would show a secret."""
    for each in causes(error):
        text = "".join(traceback.format_exception_only(type(each), each))
        if redact(text) != text:
            return None
    return error


def excepthook(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """`sys.excepthook` that shows no secret."""
    sys.stderr.write(redact("".join(traceback.format_exception(kind, error, trace))))
