"""How much room the dispatch queue has: a backlog stays in the pool, which is ordered."""

import asyncio

from node_timeout.ports.exchange import Exchange

MESSAGES_AHEAD = 20
"""Messages that may wait in the queue; so many keep any number of workers busy."""


class QueueRoom:
    """How many messages surely still fit into the queue.

    The broker is asked before there is none left, and answers while the rest is used.
    """

    def __init__(self, exchange: Exchange, queue: str) -> None:
        self._exchange = exchange
        self._queue = queue
        self._left = 0
        self.asking: asyncio.Task[int] | None = None
        self._taken = 0
        """Since the broker was asked: it may have counted them, or not."""

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
        """One message is on its way."""
        self._left -= 1
        self._taken += 1
