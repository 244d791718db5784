"""Rate limits per caller: token buckets, which refill with time."""

import time
from collections.abc import Callable

SECONDS_OF_REST = 2.0
"""After a rest, the requests of this many seconds may come at once."""
MAX_CALLERS = 10_000


class RateLimit:
    """The rate limit of each caller."""

    def __init__(
        self,
        rate: float,
        at_once: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``rate``: requests per second, on average; ``at_once``: the largest burst."""
        self._rate = rate
        self._most = max(1.0, rate * SECONDS_OF_REST if at_once is None else at_once)
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}
        """By caller: the requests left, and the time of that count."""

    def seconds_until_free(self, caller: str) -> float:
        """Count a request and return 0 if it is allowed; else return how long to wait."""
        now = self._clock()
        left, since = self._buckets.get(caller, (self._most, now))
        left = min(self._most, left + (now - since) * self._rate)
        if left < 1.0:
            self._buckets[caller] = (left, now)
            return (1.0 - left) / self._rate
        if caller not in self._buckets and len(self._buckets) >= MAX_CALLERS:
            self._buckets.clear()  # all start again with a full bucket
        self._buckets[caller] = (left - 1.0, now)
        return 0.0

    def give_back(self, caller: str) -> None:
        """Uncount the caller's last request."""
        if found := self._buckets.get(caller):
            left, since = found
            self._buckets[caller] = (min(self._most, left + 1.0), since)
