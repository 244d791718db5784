"""Updates of the pool after the engine's transaction is committed.

The row is enough: the reconciler arms a run that never reaches the pool. So while Redis is down, it
costs the engine one try, then none for a while; missed runs are armed in the background.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Protocol

from node_timeout import metrics
from node_timeout.domain.run import DueRun

logger = logging.getLogger(__name__)

AGAIN_SECONDS = 2.0
"""Pause after a failure of Redis; ten times the failed call's duration if that is longer."""
MAX_MISSED = 100_000


class Pool(Protocol):
    """What an engine's process needs of the pool; see `stores.redis.blocking`."""

    def now(self) -> float: ...

    def estimate(self) -> float: ...

    def arm(self, due: DueRun) -> None: ...

    def disarm(self, run_id: str) -> None: ...

    def disarm_foreign(self, node_id: str, version: str) -> None: ...

    def close(self) -> None: ...


class PoolOutbox:
    """The pool for an engine's process: no call raises. Thread-safe."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._rest_until = 0.0
        """When the pause ends, on this host's monotonic clock."""
        self._missed: dict[str, DueRun] = {}
        self._timer: threading.Timer | None = None
        self._pid = os.getpid()

    def close(self) -> None:
        """Close the connections; the reconciler arms the runs that are still missed."""
        if self._timer is not None:
            self._timer.cancel()
        self._pool.close()

    def now(self) -> float:
        """Redis's time (Unix seconds), or the last estimate of it; see `ClockEstimate`."""
        self._has_heard(self._pool.now)
        return self._pool.estimate()

    def arm(self, due: DueRun) -> bool:
        """Arm a run; return whether the pool has it. If not, it is armed later."""
        if self._has_heard(partial(self._pool.arm, due)):
            return True
        self._miss(due)
        return False

    def disarm(self, run_id: str) -> None:
        """Disarm a run. One that stays in the pool does no harm: its row says that it has left."""
        self._missed.pop(run_id, None)
        self._has_heard(partial(self._pool.disarm, run_id))

    def disarm_foreign(self, node_id: str, version: str) -> None:
        """Remove the member in the form of bamboo's own app."""
        self._has_heard(partial(self._pool.disarm_foreign, node_id, version))

    def _has_heard(self, call: Callable[[], object]) -> bool:
        """Call Redis unless it is paused; a failure pauses it. Return whether it succeeded."""
        began = time.monotonic()
        if began < self._rest_until:
            return False
        try:
            call()
        except Exception as error:  # noqa: BLE001 - the engine's transaction is committed already
            failed = time.monotonic()
            rest = max(AGAIN_SECONDS, 10 * (failed - began))
            self._rest_until = failed + rest
            logger.warning("what runs is noted in the ledger only for %.0f s: %s", rest, error)
            return False
        return True

    def _miss(self, due: DueRun) -> None:
        metrics.ARM_FAILURES.inc()
        if self._pid != os.getpid():  # after a fork: the parent arms its own runs
            self._pid, self._missed, self._timer = os.getpid(), {}, None
        if len(self._missed) < MAX_MISSED:
            self._missed[due.run_id] = due
        if self._timer is None:
            self._again()

    def _again(self) -> None:
        timer = threading.Timer(AGAIN_SECONDS, self._tell)
        timer.daemon = True
        try:
            timer.start()
        except RuntimeError as error:  # no thread could start: the reconciler arms them
            logger.warning("%d runs are in the ledger only: %s", len(self._missed), error)
        else:
            self._timer = timer

    def _tell(self) -> None:
        """Arm the missed runs until all are in the pool, or one fails again."""
        try:
            for run_id, due in list(self._missed.items()):
                self._pool.arm(due)
                self._missed.pop(run_id, None)
                self._rest_until = 0.0
        except Exception as error:  # noqa: BLE001 - as above; they are told again
            logger.debug("%d runs are in the ledger only: %s", len(self._missed), error)
        finally:
            self._timer = None
            if self._missed:
                self._again()
