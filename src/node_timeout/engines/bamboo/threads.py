"""Daemon threads for blocking calls: one that hangs holds up neither the exit nor the others."""

import asyncio
import queue
import threading
import time
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
        self._count = count
        self._name = name
        self._at_end = at_end
        self._lock = threading.Lock()
        self._threads: set[threading.Thread] = set()
        self._lost = 0
        """Threads whose caller has given up waiting, and that are still at it."""
        for _ in range(count):
            self._start()

    async def run(self, function: Callable[[], T]) -> T:
        """Call in the next free thread. Cancelled before it began, it is not called.

        Cancelled later, its thread ends with the call, and another takes its place at once; of
        such lost threads there are never more than of the others.
        """
        future: Future[T] = Future()
        self._calls.put((future, function))
        try:
            # Shielded: else its cancellation would reach the future before we can ask it.
            return await asyncio.shield(asyncio.wrap_future(future))
        except asyncio.CancelledError:
            if not future.cancel() and not future.done():
                self._replace(future)
            raise

    def _replace(self, future: Future[Any]) -> None:
        with self._lock:
            self._lost += 1
            replace = self._lost <= self._count
        if replace:
            self._start()
        future.add_done_callback(lambda _: self._found())

    def _found(self) -> None:
        with self._lock:
            self._lost -= 1
            surplus = self._lost < self._count
        if surplus:
            self._calls.put(None)  # one thread too many: whichever is free ends

    def _start(self) -> None:
        thread = threading.Thread(target=self._serve, name=self._name, daemon=True)
        with self._lock:
            self._threads.add(thread)
        thread.start()

    async def close(self) -> None:
        """Let the calls under way end, for a while."""
        with self._lock:
            threads = list(self._threads)
        for _ in threads:
            self._calls.put(None)
        await asyncio.to_thread(_join, threads)

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
        with self._lock:
            self._threads.discard(threading.current_thread())
        self._at_end()


def _join(threads: list[threading.Thread]) -> None:
    until = time.monotonic() + CLOSE_SECONDS
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
