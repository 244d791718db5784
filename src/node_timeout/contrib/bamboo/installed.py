"""Which distribution is installed: `node-timeout`, or `node-timeout-bamboo`, a part of it.

The part is for projects that cannot install the whole: it is pure Python, runs from 3.9 on, and
works with whatever they pin. Both contain the same package, so only one may be installed.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from node_timeout.domain.errors import NodeTimeoutError, SettingsError

WHOLE, PART = "node-timeout", "node-timeout-bamboo"


def is_whole() -> bool:
    """Whether the command line, the services and the bridge to asyncio are installed."""
    return find_spec("node_timeout.settings") is not None


def require_one() -> None:
    """Raises `SettingsError` if both are installed: each file could be from either of them."""
    if all(map(_is_installed, (WHOLE, PART))):
        raise SettingsError(
            f"{WHOLE} and {PART} are both installed, and hold the same package: "
            f"pip uninstall {WHOLE} {PART}, then install one of them"
        )


def beyond(what: str) -> NodeTimeoutError:
    """The error that says why ``what`` cannot be done here."""
    return NodeTimeoutError(
        f"{what} is not part of {PART}, which is installed here; it is in {WHOLE}, which needs "
        "Python 3.11 or newer: do it where scanner and worker run"
    )


def how_to_make_tables() -> str:
    if is_whole():
        return "manage.py migrate"
    return f"node-timeout migrate, a command of {WHOLE}, where scanner and worker run"


def _is_installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True
