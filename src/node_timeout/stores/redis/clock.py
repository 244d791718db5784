"""An estimate of Redis's clock, kept by asking for the time now and then, and from replies."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from node_timeout.domain.errors import PoolUnavailableError

RESYNC_SECONDS = 2.0
"""How long an idle process may use the old time after Redis's clock stepped."""
GOOD_SECONDS = 0.001
STEP_SECONDS = 0.5
TRUST_SECONDS = 0.1
"""An answer younger than this is not asked for again, whatever time other replies contain."""
ASK_AGAIN_SECONDS = 2.0
SLOW_SECONDS = 0.1
"""After an answer that took this long, a blocking caller asks no further question."""
QUESTIONS = 4
"""The most questions of one synchronisation: the quickest answer counts, or the first good one."""


class ClockEstimate:
    """An estimate of Redis's clock.

    It is ahead of Redis's clock by at most the duration of the quickest of a few requests, and
    never behind: a deadline computed from it is never before the one Redis would have computed.
    """

    def __init__(self) -> None:
        self._ask_again_at = 0.0
        self._offset: float | None = None
        self._error = 0.0
        self._synchronised_at = 0.0
        self._wall_offset = 0.0

    def now(self) -> float:
        """The estimate; this host's own clock if Redis was never reached."""
        return time.monotonic() + self._offset if self._offset is not None else time.time()

    def passed(self) -> float | None:
        """A lower bound of Redis's time; None if Redis was never reached."""
        return None if self._offset is None else self.now() - self._error

    def observe(self, now: float) -> None:
        """Compare with the time in a fresh reply: if Redis's clock stepped, ask again next time."""
        asked_ago = time.monotonic() - self._synchronised_at
        if asked_ago > TRUST_SECONDS and abs(now - self.now()) > STEP_SECONDS:
            self._synchronised_at = float("-inf")

    def _is_stale(self) -> bool:
        """True if never asked, or long ago, or if this host's clock has stepped or slept since."""
        if time.monotonic() < self._ask_again_at:
            return False
        wall_offset = time.time() - time.monotonic()
        return (
            self._offset is None
            or time.monotonic() - self._synchronised_at > RESYNC_SECONDS
            or abs(wall_offset - self._wall_offset) > STEP_SECONDS
        )

    def _not_answered(self) -> None:
        self._ask_again_at = time.monotonic() + ASK_AGAIN_SECONDS

    def _answered(self, sent: float, now: float, best: float) -> float:
        """Use an answer if it is quicker than the ``best`` so far; return the new best duration."""
        took = time.monotonic() - sent
        if took < best:
            best = self._error = took
            self._offset = now - sent
        self._synchronised_at = time.monotonic()
        self._wall_offset = time.time() - time.monotonic()
        return best


class BlockingClock(ClockEstimate):
    """The estimate for synchronous callers, in any number of threads."""

    def __init__(self, ask: Callable[[], float]) -> None:
        """``ask`` returns Redis's time, or raises `PoolUnavailableError` within a short time."""
        super().__init__()
        self._ask = ask
        self._asking = threading.Lock()

    def keep(self) -> None:
        """Ask again if the estimate is stale. Once there is one, only one caller asks at a time and
        the others go on without waiting. Raises what ``ask`` raises; the estimate stays usable.
        """
        if not self._is_stale():
            return
        is_mine = self._asking.acquire(blocking=False)
        if not is_mine and self._offset is not None:
            return
        try:
            self._synchronise()
        except PoolUnavailableError:
            self._not_answered()
            raise
        finally:
            if is_mine:
                self._asking.release()

    def _synchronise(self) -> None:
        best = float("inf")
        for _ in range(QUESTIONS):
            sent = time.monotonic()
            best = self._answered(sent, self._ask(), best)
            if best < GOOD_SECONDS or time.monotonic() - sent > SLOW_SECONDS:
                break
