"""``post_set_state`` for our own actions. Import it only after Django is set up."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import Any

from django.db import close_old_connections
from pipeline.eri.models import State
from pipeline.eri.signals import post_set_state

logger = logging.getLogger(__name__)

_local = threading.local()


def is_ours() -> bool:
    """Whether this thread is sending a signal of our own action, which the ledger already knows."""
    return bool(getattr(_local, "ours", False))


def send(signals: Sequence[dict[str, Any]]) -> None:
    """Call the receivers of these signals, in order. A receiver that fails does not stop others."""
    close_old_connections()
    _local.ours = True
    try:
        for signal in signals:
            for receiver, answer in post_set_state.send_robust(sender=State, **signal):
                if isinstance(answer, Exception):
                    logger.error("post_set_state receiver %r failed", receiver, exc_info=answer)
    finally:
        _local.ours = False
        close_old_connections()
