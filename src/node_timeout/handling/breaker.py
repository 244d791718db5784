"""A circuit breaker for the engine: while the engine is down, no worker waits for it.

    closed ──failures in a row──▶ resting ──rest is over──▶ one probe ──failed──▶ resting, longer
       ▲                                                        │
       └───────────────────────answered─────────────────────────┘

It opens after several failures in a row, if no call succeeded in the last second: with many calls
at once, five failures in a row happen by chance even if the engine fails only now and then. A
permit that is refused while the engine rests does not use an attempt of its node run.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from node_timeout import metrics
from node_timeout.domain.errors import EngineRestingError, EngineUnavailableError, NodeTimeoutError
from node_timeout.runtime.loop import Backoff

logger = logging.getLogger(__name__)

FAILURES_IN_A_ROW = 5
LATELY_SECONDS = 1.0
"""An engine with a success this recent is not down, however many other calls fail."""
PROBE_SECONDS = 1.0
"""How long other calls wait while a probe is under way."""


class Permit:
    """Permission for one use of the engine."""

    def __init__(self, breaker: "Breaker", period: int) -> None:
        self._breaker = breaker
        self.period = period
        """The number of the breaker's period, from one state change to the next; a permit from an
        earlier period does not affect the current one."""
        self.has_answered = False

    def answered(self) -> None:
        """The engine answers: from now on only `EngineUnavailableError` counts as its failure."""
        self.has_answered = True
        self._breaker.answered(self)


class Breaker:
    """Counts failures in a row; refuses permits while the engine rests."""

    def __init__(
        self,
        *,
        failures: int = FAILURES_IN_A_ROW,
        rest: Backoff | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit = failures
        self._rest = rest or Backoff(first=1.0, longest=60.0, random=lambda: 1.0)
        self._clock = clock
        self._failures = 0
        self._succeeded_at = float("-inf")
        self._rests = 0
        """How many rests in a row, without a permit that succeeded to its end."""
        self._resting_until: float | None = None
        self._probing = False
        self._period = 0

    @contextmanager
    def permit(self) -> Iterator[Permit]:
        """Use the engine inside. Raises `EngineRestingError` while the circuit is open."""
        probing = self._resting_until is not None
        if self._resting_until is not None:
            left = self._resting_until - self._clock()
            if left > 0 or self._probing:
                raise EngineRestingError(
                    "the engine failed too often in a row: the circuit is open, "
                    f"next probe in {max(left, 0.0):.1f} s",
                    retry_after=max(left, PROBE_SECONDS),
                )
            self._probing = True
        permit = Permit(self, self._period)
        try:
            yield permit
        except EngineUnavailableError as error:
            self._failed(permit, error)
            raise
        except NodeTimeoutError:
            self._went_well(permit)  # a refusal is an answer
            raise
        except BaseException as error:  # a time limit too: it cancels
            if not permit.has_answered:
                self._failed(permit, error)
            raise
        else:
            self._went_well(permit)
        finally:
            if probing and permit.period == self._period:
                self._probing = False

    def answered(self, permit: Permit) -> None:
        if self._resting_until is not None and permit.period == self._period:
            logger.warning("the engine answers again")
            self._turn(None)

    def _went_well(self, permit: Permit) -> None:
        permit.answered()
        self._failures = self._rests = 0
        self._succeeded_at = self._clock()

    def _failed(self, permit: Permit, error: BaseException) -> None:
        if permit.period != self._period:
            return
        self._failures += 1
        lately = self._clock() - self._succeeded_at < LATELY_SECONDS
        if self._resting_until is None and (self._failures < self._limit or lately):
            return
        self._rests += 1
        if self._resting_until is None:
            logger.error(
                "the engine failed %d times in a row (%s); its nodes wait until it answers",
                self._failures,
                str(error) or "no answer in time",
            )
        self._turn(self._clock() + self._rest.seconds(self._rests))

    def _turn(self, resting_until: float | None) -> None:
        self._resting_until = resting_until
        self._failures = 0
        self._probing = False
        self._period += 1
        metrics.ENGINE_RESTING.set(resting_until is not None)
