"""Dead letters: what cannot be read is put aside beside the work, never before it.

    unreadable ──▶ dead-letter queue ──confirmed──▶ its delivery is acknowledged
                        └──refused──▶ tried again, longer and longer apart

A queue that refuses (full, or without a quorum) holds up these deliveries and nothing else. A crash
between the confirm and the acknowledgement puts the same thing aside twice.
"""

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence

from node_timeout import metrics
from node_timeout.domain.errors import TemporaryError
from node_timeout.ports.exchange import Delivery, Exchange
from node_timeout.runtime.loop import Backoff
from node_timeout.tasks import ended
from node_timeout.wire.dispatch import Unreadable

logger = logging.getLogger(__name__)

FINISH_SECONDS = 2.0
MAX_BESIDE = 1024
LOOK_AGAIN_SECONDS = 1.0
"""A consumer looks at `DeadLetters.beside` again after so long, also if nothing comes."""


class DeadLetters:
    """Puts aside what the deliveries of one consumer brought."""

    def __init__(self, exchange: Exchange, *, source: str, backoff: Backoff | None = None) -> None:
        """``source`` is the label of the metrics: ``queue`` or ``events``."""
        self._exchange = exchange
        self._source = source
        self._backoff = backoff or Backoff(first=0.2, longest=10.0)
        self._tasks: dict[asyncio.Task[None], Delivery] = {}
        self.refused = 0
        """Deliveries that wait because the dead-letter queue has refused them."""

    async def settle(
        self,
        deliveries: Iterable[Delivery],
        unreadable: Mapping[Delivery, Sequence[Unreadable]],
    ) -> int:
        """Acknowledge deliveries that were dealt with; what of them cannot be read is put aside.

        Return how much that was. Its deliveries are acknowledged when it is safe.
        """
        count = 0
        for delivery in deliveries:
            if letters := unreadable.get(delivery):
                count += len(letters)
                self.put(delivery, letters)
            else:
                await delivery.ack()
        return count

    def put(self, delivery: Delivery, letters: Sequence[Unreadable]) -> None:
        """Put all of them aside, in the background; then acknowledge the delivery."""
        for letter in letters:
            metrics.UNREADABLE.labels(self._source).inc()
            logger.error("a message of queue %s: %s", delivery.queue, letter.reason)
        task = asyncio.create_task(self._put(delivery, letters))
        self._tasks[task] = delivery
        task.add_done_callback(lambda task: self._tasks.pop(task, None))

    async def _put(self, delivery: Delivery, letters: Sequence[Unreadable]) -> None:
        failures = 0
        try:
            for letter in letters:
                while not await self._is_safe(letter, failures):
                    self.refused += failures == 0
                    failures += 1
                    await asyncio.sleep(self._backoff.seconds(failures))
            await delivery.ack()
        finally:
            self.refused -= failures > 0

    async def _is_safe(self, letter: Unreadable, failures: int) -> bool:
        try:
            await self._exchange.dead_letter(letter.body, letter.reason)
        except TemporaryError as error:
            metrics.DEAD_LETTER_FAILURES.labels(self._source).inc()
            if failures == 0:
                logger.warning("a dead letter waits, other messages go on: %s", error)
            return False
        return True

    def look_again_seconds(self) -> float | None:
        """How long to wait for a message before the next look at `beside`; None: as long as may be.

        Nothing else tells a consumer that all it has in hand are dead letters by now.
        """
        return LOOK_AGAIN_SECONDS if self._tasks else None

    def beside(self) -> int:
        """How many messages more a consumer should have in hand, so that others go on coming.

        Rounded up, as each change costs the broker a consumer.
        """
        return min(MAX_BESIDE, 1 << self.refused.bit_length()) if self.refused else 0

    async def settled(self) -> None:
        """Wait until everything is safe."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def give_back(self) -> None:
        """Return the deliveries that still wait to their queues: they will come again."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=FINISH_SECONDS)
        waiting = dict(self._tasks)
        await ended(*waiting)
        for task, delivery in waiting.items():
            if task.cancelled():
                await delivery.requeue()
