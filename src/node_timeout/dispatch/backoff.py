"""Backoff: how long to leave a run alone that may be waiting in a queue.

A queue that nobody reads keeps what it was given. So a run that was dispatched again gets twice as
long before the next time: an outage of any length costs a few messages a run.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from node_timeout.domain.run import DueRun

MAX_REMEMBERED = 200_000
"""Runs to keep in mind."""
LONGEST_WAIT_SECONDS = 3600.0


@dataclass(slots=True)
class _Wait:
    since: float
    seconds: float


class Backoff:
    """What the leader has seen absent from the pool."""

    def __init__(self, first_seconds: float, clock: Callable[[], float] | None = None) -> None:
        self._first_seconds = first_seconds
        self._clock = clock or time.monotonic
        self._waits: dict[DueRun, _Wait] = {}

    def over(self, absent: Iterable[DueRun], *, at_first: bool) -> list[DueRun]:
        """Which of these to dispatch again; their next wait begins now.

        ``at_first``: whether one that was not seen absent before, since it is due then, is.
        """
        now = self._clock()
        return [due for due in absent if self._is_over(due, now, at_first=at_first)]

    def _is_over(self, due: DueRun, now: float, *, at_first: bool) -> bool:
        wait = self._waits.get(due)
        if wait is None:
            if len(self._waits) >= MAX_REMEMBERED:
                self._waits.clear()  # the next looks begin anew
            self._waits[due] = _Wait(since=now, seconds=self._first_seconds)
            return at_first
        if now - wait.since < wait.seconds:
            return False
        wait.since = now
        wait.seconds = max(wait.seconds, min(2 * wait.seconds, LONGEST_WAIT_SECONDS))
        return True

    def forget_found(self, pause_seconds: float) -> None:
        """Forget what is in the pool again, or closed: a wait that ended more than a round ago.

        ``pause_seconds``: between two looks at the same run.
        """
        now = self._clock()
        over = [
            due
            for due, wait in self._waits.items()
            if now - wait.since > 2 * wait.seconds + 2 * pause_seconds
        ]
        for due in over:
            del self._waits[due]

    def clear(self) -> None:
        """Another one leads."""
        self._waits.clear()
