"""Cancelling tasks, and awaiting several of them."""

import asyncio
from collections.abc import Awaitable, Iterable
from typing import Any

CANCEL_AGAIN_SECONDS = 1.0


async def ended(*tasks: asyncio.Future[Any]) -> None:
    """Cancel tasks and wait until they have ended; ignore what they raise.

    A task that does not end is cancelled again: in Python 3.11 ``wait_for`` may lose a
    cancellation, and redis-py and aio-pika call it. A loop that lost it would run for ever.
    """
    waiting = {task for task in tasks if not task.done()}
    while waiting:
        for task in waiting:
            task.cancel()
        _, waiting = await asyncio.wait(waiting, timeout=CANCEL_AGAIN_SECONDS)
    await asyncio.gather(*tasks, return_exceptions=True)


async def together(work: Iterable[Awaitable[None]]) -> None:
    """Await all, even if some fail; then raise the first failure."""
    for result in await asyncio.gather(*work, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result
