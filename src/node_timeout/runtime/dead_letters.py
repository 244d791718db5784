"""Dead letters: unreadable content is dead-lettered in the background and never blocks the work.

    unreadable ──▶ dead-letter queue ──confirmed──▶ its delivery is acknowledged
                        └──refused──▶ retried, with a growing back-off

A dead-letter queue that refuses (full, or without a quorum) holds up these deliveries and nothing
else. A crash between the confirm and the acknowledgement dead-letters the same content twice.
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
"""A consumer checks `DeadLetters.beside` again after this time, even if no message comes."""


class DeadLetters:
    """Dead-letters unreadable content of one consumer's deliveries."""

    def __init__(self, exchange: Exchange, *, source: str, backoff: Backoff | None = None) -> None:
        """``source`` is the label of the metrics: ``queue`` or ``events``."""
        self._exchange = exchange
        self._source = source
        self._backoff = backoff or Backoff(first=0.2, longest=10.0)
        self._tasks: dict[asyncio.Task[None], Delivery] = {}
        self.refused = 0
        """How many deliveries wait because the dead-letter queue has refused them."""

    async def settle(
        self,
        deliveries: Iterable[Delivery],
        unreadable: Mapping[Delivery, Sequence[Unreadable]],
    ) -> int:
        """Acknowledge handled deliveries; dead-letter their unreadable content, return how much.

        Deliveries with unreadable content are acknowledged once it is in the dead-letter queue.
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
        """Dead-letter all of these in the background; then acknowledge the delivery."""
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
        """How long to wait for a message before `beside` is checked again; None: without a limit.

        Without this check, a consumer would not notice that it holds only dead letters by now.
        """
        return LOOK_AGAIN_SECONDS if self._tasks else None

    def beside(self) -> int:
        """How many more messages a consumer should hold, so that other messages still come.

        Rounded up to a power of two, because each change costs the broker a new consumer.
        """
        return min(MAX_BESIDE, 1 << self.refused.bit_length()) if self.refused else 0

    async def settled(self) -> None:
        """Wait until all dead letters are in the queue."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def give_back(self) -> None:
        """Requeue the deliveries that still wait: they come again."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=FINISH_SECONDS)
        waiting = dict(self._tasks)
        await ended(*waiting)
        for task, delivery in waiting.items():
            if task.cancelled():
                await delivery.requeue()
