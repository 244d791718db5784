"""Daemon threads for blocking calls: a call that hangs blocks neither the exit nor other calls."""

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
    """Runs functions in threads that live as long as this object; they start when needed."""

    def __init__(self, count: int, *, name: str, at_end: Callable[[], None] = lambda: None) -> None:
        """``count``: the most threads at once; ``at_end`` is called in each before it ends."""
        self._calls: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = (
            queue.SimpleQueue()
        )
        self._count = count
        self._name = name
        self._at_end = at_end
        self._lock = threading.Lock()
        self._threads: set[threading.Thread] = set()
        self._unfinished = 0
        """How many calls wait or run."""
        self._lost = 0
        """How many threads still run a call whose caller has stopped waiting."""

    async def run(self, function: Callable[[], T]) -> T:
        """Call the function in the next free thread. If cancelled before it began, do not call it.

        If cancelled later, the call goes on in its thread, which is lost; another thread may take
        its place at once. At most ``count`` lost threads are replaced. When a lost call ends, a
        surplus thread ends.
        """
        future: Future[T] = Future()
        with self._lock:
            self._unfinished += 1
        self._calls.put((future, function))
        self._grow()
        try:
            # Shielded: else the cancellation would reach the future before it can be checked.
            return await asyncio.shield(asyncio.wrap_future(future))
        except asyncio.CancelledError:
            if not future.cancel() and not future.done():
                self._lose(future)
            raise

    def _lose(self, future: Future[Any]) -> None:
        with self._lock:
            self._lost += 1
        self._grow()
        future.add_done_callback(lambda _: self._find())

    def _find(self) -> None:
        with self._lock:
            self._lost -= 1
            surplus = len(self._threads) > self._most()
        if surplus:
            self._calls.put(None)  # one thread too many: the next free one ends

    def _most(self) -> int:
        return self._count + min(self._lost, self._count)

    def _grow(self) -> None:
        """Start a thread if a call has none and the limit allows one more."""
        with self._lock:
            if len(self._threads) >= min(self._unfinished, self._most()):
                return
            thread = threading.Thread(target=self._serve, name=self._name, daemon=True)
            self._threads.add(thread)
        thread.start()

    async def close(self, wait_seconds: float = CLOSE_SECONDS) -> None:
        """End the threads; wait at most ``wait_seconds`` for running calls."""
        with self._lock:
            threads = list(self._threads)
        for _ in threads:
            self._calls.put(None)
        if threads and wait_seconds:
            await asyncio.to_thread(_join, threads, wait_seconds)

    def _serve(self) -> None:
        while (job := self._calls.get()) is not None:
            future, function = job
            if future.set_running_or_notify_cancel():
                try:
                    value = function()
                except BaseException as error:  # noqa: BLE001 - handed to the caller, whatever it is
                    self._finished()
                    future.set_exception(error)
                else:
                    self._finished()
                    future.set_result(value)
            else:
                self._finished()
        with self._lock:
            self._threads.discard(threading.current_thread())
        self._at_end()

    def _finished(self) -> None:
        with self._lock:
            self._unfinished -= 1


def _join(threads: list[threading.Thread], seconds: float) -> None:
    until = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
