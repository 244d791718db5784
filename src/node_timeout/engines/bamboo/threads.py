"""A fixed set of daemon threads for blocking calls: one that hangs does not hold up the exit."""

import asyncio
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")

CLOSE_SECONDS = 5.0


class Threads:
    """Runs functions in threads that live as long as it does."""

    def __init__(self, count: int, *, name: str, at_end: Callable[[], None]) -> None:
        """``at_end`` is called in each thread before it ends."""
        self._calls: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = (
            queue.SimpleQueue()
        )
        self._at_end = at_end
        self._threads = [
            threading.Thread(target=self._serve, name=f"{name}-{number}", daemon=True)
            for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    async def run(self, function: Callable[[], T]) -> T:
        """Call in the next free thread. Cancelled before it began, it is not called."""
        future: Future[T] = Future()
        self._calls.put((future, function))
        return await asyncio.wrap_future(future)

    async def close(self) -> None:
        """Let the calls under way end, for a while."""
        for _ in self._threads:
            self._calls.put(None)
        await asyncio.to_thread(self._join)

    def _join(self) -> None:
        for thread in self._threads:
            thread.join(CLOSE_SECONDS / len(self._threads))

    def _serve(self) -> None:
        while (job := self._calls.get()) is not None:
            future, function = job
            if not future.set_running_or_notify_cancel():
                continue
            try:
                value = function()
            except BaseException as error:  # noqa: BLE001 - handed to the caller, whatever it is
                future.set_exception(error)
            else:
                future.set_result(value)
        self._at_end()
