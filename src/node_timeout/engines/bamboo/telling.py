"""Which thread is telling the engine's receivers of what was done here."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

_local = threading.local()


@contextmanager
def telling() -> Iterator[None]:
    """Signals sent inside are of our own doing: the ledger knows, its row is being executed."""
    _local.ours = True
    try:
        yield
    finally:
        _local.ours = False


def is_ours() -> bool:
    return bool(getattr(_local, "ours", False))
