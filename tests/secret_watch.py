"""Looks for secrets in every log line of the tests and of the processes they start."""

import contextlib
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

# Every password, token and key of the tests has one of these in it.
SECRETS = re.compile(r"s3cret|hunter2|t0ken|c2VjcmV0IGtleQ|czNjcmV0")


class SecretWatch(logging.Handler):
    """Sees records as an application's own handler does: with their tracebacks, not redacted."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.leaks: list[str] = []
        self.lines = 0
        self._files: dict[Path, int] = {}

    def emit(self, record: logging.LogRecord) -> None:
        self.see(f"logger {record.name}", self.format(record))

    def follow(self, file: Path) -> None:
        """Look at what is written to a file, at its end."""
        self._files.setdefault(file, 0)

    def see(self, where: str, text: str) -> None:
        for line in text.splitlines():
            self.lines += 1
            if SECRETS.search(line):
                self.leaks.append(f"{where}: {line}")

    def taken(self) -> list[str]:
        """What was found since the last call."""
        for file, seen in self._files.items():
            with contextlib.suppress(FileNotFoundError), file.open("rb") as content:
                content.seek(seen)
                text = content.read()
                self._files[file] = seen + len(text)
                self.see(str(file), text.decode("utf-8", "replace"))
        leaks, self.leaks = self.leaks, []
        return leaks


WATCH = SecretWatch()


@pytest.fixture(autouse=True)
def nothing_secret_is_logged() -> Iterator[None]:
    """Set up before all else, so that it looks when the processes of the test have ended."""
    root, ours = logging.getLogger(), logging.getLogger("node_timeout")
    level = ours.level
    ours.setLevel(logging.DEBUG)
    root.addHandler(WATCH)
    try:
        yield
    finally:
        root.removeHandler(WATCH)
        ours.setLevel(level)
    leaks = WATCH.taken()
    assert not leaks, "secrets were logged:\n" + "\n".join(leaks)
