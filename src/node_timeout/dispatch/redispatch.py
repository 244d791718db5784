"""Redispatch: how long to wait before a run is dispatched again that may be waiting in a queue.

A queue without a consumer keeps its messages. So each time a run is dispatched again, the next wait
doubles: an outage of any length costs a few messages per run.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from node_timeout.domain.run import DueRun
from node_timeout.runtime.loop import Backoff

MAX_REMEMBERED = 200_000
"""The most runs to remember."""
LONGEST_WAIT_SECONDS = 3600.0


@dataclass(slots=True)
class _Seen:
    since: float
    """When it was first seen absent, or last dispatched again."""
    times: int = 1


class Redispatch:
    """Remembers which runs the leader has seen absent from the pool."""

    def __init__(self, first_seconds: float, clock: Callable[[], float] | None = None) -> None:
        longest = max(first_seconds, LONGEST_WAIT_SECONDS)
        self._waits = Backoff(first=first_seconds, longest=longest, random=lambda: 1.0)
        self._clock = clock or time.monotonic
        self._seen: dict[DueRun, _Seen] = {}

    def over(self, absent: Iterable[DueRun], *, at_first: bool) -> list[DueRun]:
        """The runs to dispatch again; their next wait begins now.

        ``at_first``: whether to dispatch a run again that was not seen absent before.
        """
        now = self._clock()
        return [due for due in absent if self._is_over(due, now, at_first=at_first)]

    def _is_over(self, due: DueRun, now: float, *, at_first: bool) -> bool:
        seen = self._seen.get(due)
        if seen is None:
            if len(self._seen) >= MAX_REMEMBERED:
                self._seen.clear()  # the waits start again
            self._seen[due] = _Seen(since=now)
            return at_first
        if now - seen.since < self._waits.seconds(seen.times):
            return False
        seen.since = now
        seen.times += 1
        return True

    def forget_found(self, pause_seconds: float) -> None:
        """Forget runs whose wait ended more than a round ago: they are closed or in the pool again.

        ``pause_seconds``: the pause between two checks of the same run.
        """
        now = self._clock()
        over = [
            due
            for due, seen in self._seen.items()
            if now - seen.since > 2 * self._waits.seconds(seen.times) + 2 * pause_seconds
        ]
        for due in over:
            del self._seen[due]

    def clear(self) -> None:
        """Forget all runs: another process leads."""
        self._seen.clear()
