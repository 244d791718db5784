"""Pace: how much slower the machine is just now than the one that the time limits were set on.

A machine that is shared with others gives half of what it gave an hour ago. What the tests take of
it themselves does not count: the yardstick is CPU time, and what the hypervisor gave to others.
"""

import contextlib
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path

ADDITIONS = 10_000
REFERENCE_SECONDS = 0.0004
"""CPU time of so many additions, on a machine on which every limit leaves room."""
EVERY_SECONDS = 0.1


class Pace:
    """Looks ten times a second while it is `watched`."""

    def __init__(self) -> None:
        self._looks: list[float] = []
        self._began = _cpu_ticks()

    @property
    def slowness(self) -> float:
        """1.0 on the reference machine and on any that is faster, 2.0 on one half as fast."""
        busy, stolen = (now - then for now, then in zip(_cpu_ticks(), self._began, strict=True))
        speed = REFERENCE_SECONDS / statistics.fmean(self._looks) if self._looks else 1.0
        return 1 / min(1.0, speed * (busy / (busy + stolen) if busy else 1.0))

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        stop = threading.Event()
        watching = threading.Thread(target=self._watch, args=(stop,), daemon=True)
        watching.start()
        try:
            yield
        finally:
            stop.set()
            watching.join()

    def _watch(self, stop: threading.Event) -> None:
        while not stop.is_set():
            self._looks.append(_cpu_seconds())
            stop.wait(EVERY_SECONDS)


def _cpu_seconds() -> float:
    began = time.thread_time()
    total = 0
    for i in range(ADDITIONS):
        total += i
    return time.thread_time() - began


def _cpu_ticks() -> tuple[int, int]:
    """Of all cores, since the machine started: busy, and given to other machines (proc_stat(5))."""
    first = Path("/proc/stat").read_text("ascii").splitlines()[0]
    user, nice, system, _, _, irq, softirq, steal = map(int, first.split()[1:9])
    return user + nice + system + irq + softirq, steal
