"""How often one caller may ask: a bucket of requests that fills up again with time."""

import time
from collections.abc import Callable

SECONDS_OF_REST = 2.0
"""So many seconds' worth of requests may come at once."""
MAX_CALLERS = 10_000


class RateLimit:
    """Of all callers, each for itself."""

    def __init__(
        self,
        rate: float,
        at_once: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``rate``: requests a second, on average; ``at_once``: after a rest."""
        self._rate = rate
        self._most = max(1.0, rate * SECONDS_OF_REST if at_once is None else at_once)
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}
        """Requests left, and when that was so."""

    def seconds_until_free(self, caller: str) -> float:
        """0 if the request may go on, which then counts."""
        now = self._clock()
        left, since = self._buckets.get(caller, (self._most, now))
        left = min(self._most, left + (now - since) * self._rate)
        if left < 1.0:
            self._buckets[caller] = (left, now)
            return (1.0 - left) / self._rate
        if caller not in self._buckets and len(self._buckets) >= MAX_CALLERS:
            self._buckets.clear()  # all begin anew
        self._buckets[caller] = (left - 1.0, now)
        return 0.0

    def give_back(self, caller: str) -> None:
        """The last request does not count after all."""
        if found := self._buckets.get(caller):
            left, since = found
            self._buckets[caller] = (min(self._most, left + 1.0), since)
