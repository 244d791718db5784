"""Limits how many messages wait in the dispatch queue: a backlog stays in the ordered pool."""

import asyncio

from node_timeout.ports.exchange import Exchange

MESSAGES_AHEAD = 20
"""Messages that may wait in the queue; this many keep any number of workers busy."""


class QueueRoom:
    """A lower bound of how many more messages may be published to the queue.

    The broker is asked before the limit is reached, and answers while the rest is used.
    """

    def __init__(self, exchange: Exchange, queue: str) -> None:
        self._exchange = exchange
        self._queue = queue
        self._left = 0
        self.asking: asyncio.Task[int] | None = None
        self._taken = 0
        """Messages published since the broker was asked; its answer may or may not include them."""

    async def left(self) -> int:
        """Raises `ExchangeUnavailableError` if the broker has to be asked and does not answer."""
        if self.asking is None and self._left <= MESSAGES_AHEAD // 4:
            self._taken = 0
            self.asking = asyncio.create_task(self._exchange.waiting(self._queue))
        if self.asking and (self._left <= 0 or self.asking.done()):
            asking, self.asking = self.asking, None
            self._left = MESSAGES_AHEAD - await asking - self._taken
        return self._left

    def take(self) -> None:
        """Count one message as published."""
        self._left -= 1
        self._taken += 1
