"""A circuit breaker before the engine: while it is dead, no worker waits for it.

    closed ──failures in a row──▶ resting ──rest over──▶ one probe ──failed──▶ resting, longer
       ▲                                                     │
       └───────────────────────succeeded─────────────────────┘

A strike that is refused while the engine rests uses up no attempt of its node run.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from node_timeout import metrics
from node_timeout.errors import EngineRestingError, EngineUnavailableError, NodeTimeoutError
from node_timeout.service import Backoff

logger = logging.getLogger(__name__)

FAILURES_IN_A_ROW = 5
PROBE_SECONDS = 1.0
"""How long others wait while a probe is under way."""


@dataclass(slots=True)
class Strike:
    """One use of the engine."""

    answered: bool = False
    """The engine has answered: what goes wrong now, but for its own word, is not its fault."""


class Breaker:
    """Counts failures in a row; lets nobody through while the engine rests."""

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
        self._resting_until = 0.0
        self._probing = False

    @contextmanager
    def strike(self) -> Iterator[Strike]:
        """Use the engine inside. Raises `EngineRestingError` if it is to be left in peace."""
        probing = self._failures >= self._limit
        if probing:
            left = self._resting_until - self._clock()
            if left > 0 or self._probing:
                raise EngineRestingError(
                    f"the engine failed {self._failures} times in a row, it is left in peace",
                    retry_after=max(left, PROBE_SECONDS),
                )
            self._probing = True
        strike = Strike()
        try:
            yield strike
        except EngineUnavailableError as error:
            self._failed(error)
            raise
        except NodeTimeoutError:
            self._succeeded()  # a refusal is an answer
            raise
        except BaseException as error:  # a time limit too: it cancels
            if not strike.answered:
                self._failed(error)
            raise
        else:
            self._succeeded()
        finally:
            if probing:
                self._probing = False

    def _failed(self, error: BaseException) -> None:
        self._failures += 1
        if self._failures < self._limit:
            return
        seconds = self._rest.seconds(self._failures - self._limit + 1)
        self._resting_until = self._clock() + seconds
        metrics.ENGINE_RESTING.set(1)
        if self._failures == self._limit:
            logger.error(
                "the engine failed %d times in a row (%s); its nodes wait until it answers",
                self._failures,
                str(error) or "no answer in time",
            )

    def _succeeded(self) -> None:
        if self._failures >= self._limit:
            logger.warning("the engine answers again")
            metrics.ENGINE_RESTING.set(0)
        self._failures = 0
