"""Secret files: what Kubernetes, Docker and others mount, a file a setting."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from node_timeout.domain.errors import SettingsError

SECRETS_DIR = "NODE_TIMEOUT_SECRETS_DIR"
DEFAULT = Path("/run/secrets")


def read_secret_files(variables: Iterable[str]) -> dict[str, str | None]:
    """Return the texts of the files that are named like a variable, by its name in lower case.

    White space at the ends is cut off. Raises `SettingsError` for a directory that is named and not
    there, and for a file that cannot be read.
    """
    named = os.environ.get(SECRETS_DIR, "").strip()
    folder = Path(named) if named else DEFAULT
    names = {each.lower(): each for each in variables}
    try:
        files = [file for file in folder.iterdir() if file.name.lower() in names]
    except OSError as error:
        if not named and not folder.is_dir():
            return {}
        raise SettingsError(f"{SECRETS_DIR}: {folder} cannot be read: {error.strerror}") from None
    return {file.name.lower(): _text(file, names[file.name.lower()]) for file in files}


def _text(file: Path, name: str) -> str:
    try:
        return file.read_text("utf-8-sig").strip()
    except OSError as error:
        raise SettingsError(f"{name}: {file} cannot be read: {error.strerror}") from None
    except UnicodeError:
        raise SettingsError(f"{name}: {file} is not UTF-8") from None
