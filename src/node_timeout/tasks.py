"""How tasks are ended, and awaited together."""

import asyncio
from collections.abc import Awaitable, Iterable
from typing import Any

CANCEL_AGAIN_SECONDS = 1.0


async def ended(*tasks: asyncio.Future[Any]) -> None:
    """Cancel tasks, and wait until they have ended; what they raise is dropped.

    They are cancelled again if need be: in Python 3.11 ``wait_for`` may lose a cancellation, and
    redis-py and aio-pika call it. A loop whose cancellation was lost would go on for ever.
    """
    waiting = {task for task in tasks if not task.done()}
    while waiting:
        for task in waiting:
            task.cancel()
        _, waiting = await asyncio.wait(waiting, timeout=CANCEL_AGAIN_SECONDS)
    await asyncio.gather(*tasks, return_exceptions=True)


async def together(work: Iterable[Awaitable[None]]) -> None:
    """Await all of them, also if one fails; then raise the first failure."""
    for result in await asyncio.gather(*work, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result
