"""Daemon threads for calls whose result nobody awaits, in order for each key."""

import logging
import queue
import threading
import time
from collections.abc import Callable

logger = logging.getLogger(__name__)

Call = Callable[[], None]

MAX_WAITING = 1000


class Lanes:
    """One of ``count`` threads makes all calls of a key, so that they keep their order.

    At most `MAX_WAITING` calls wait; beyond that ``put`` blocks. If the process dies, waiting calls
    are lost.
    """

    def __init__(self, count: int, *, name: str, at_end: Call) -> None:
        """A thread starts with its first call; ``at_end`` is called in it before it ends."""
        self._queues: list[queue.SimpleQueue[Call | None]] = [
            queue.SimpleQueue() for _ in range(count)
        ]
        self._threads: dict[int, threading.Thread] = {}
        self._name = name
        self._at_end = at_end
        self._lock = threading.Lock()
        self._room = threading.Semaphore(MAX_WAITING)
        self._waiting = 0
        self._closed = False

    def put(self, key: str, call: Call) -> None:
        """Queue a call. After ``close``, make it at once in the caller's thread."""
        self._room.acquire()
        with self._lock:
            closed = self._closed
            if not closed:
                self._waiting += 1
                lane = hash(key) % len(self._queues)
                self._queues[lane].put(call)
                if lane not in self._threads:
                    self._start(lane)
        if closed:
            self._room.release()
            _make(call)

    def close(self, seconds: float) -> int:
        """Make the waiting calls, within ``seconds``; return how many have not ended by then."""
        with self._lock:
            self._closed = True
            for waiting in self._queues:
                waiting.put(None)
        until = time.monotonic() + seconds
        for thread in self._threads.values():
            thread.join(max(0.0, until - time.monotonic()))
        return self._waiting

    def _start(self, lane: int) -> None:
        thread = threading.Thread(target=self._serve, args=[lane], name=self._name, daemon=True)
        self._threads[lane] = thread
        thread.start()

    def _serve(self, lane: int) -> None:
        while (call := self._queues[lane].get()) is not None:
            _make(call)
            with self._lock:
                self._waiting -= 1
            self._room.release()
        self._at_end()


def _make(call: Call) -> None:
    try:
        call()
    except Exception:
        logger.exception("a call that nobody waits for failed")
