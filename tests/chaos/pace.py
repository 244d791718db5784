"""Pace: how much slower the machine is just now than the one that the time limits were set on.

A machine that is shared with others gives half of what it gave an hour ago. What the tests take of
it themselves does not count: the yardstick is CPU time, and what the hypervisor gave to others.
"""

import statistics
import threading
import time
from pathlib import Path
from typing import Self

ADDITIONS = 10_000
REFERENCE_SECONDS = 0.0004
"""CPU time of so many additions, on a machine on which every limit leaves room."""
EVERY_SECONDS = 0.1
MOST = 4.0
"""A machine that is slower still is not fit for these tests: they are to fail there."""


class Pace:
    """Looks ten times a second between enter and exit."""

    def __init__(self) -> None:
        self._looks: list[float] = []
        self._began = _cpu_ticks()
        self._stop = threading.Event()
        self._watching = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._watching.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._watching.join()

    @property
    def slowness(self) -> float:
        """1.0 on the reference machine and on any that is faster, 2.0 on one half as fast."""
        busy, stolen = (now - then for now, then in zip(_cpu_ticks(), self._began, strict=True))
        speed = REFERENCE_SECONDS / statistics.fmean(self._looks) if self._looks else 1.0
        share = busy / (busy + stolen) if busy else 1.0
        return min(MOST, max(1.0, 1 / (speed * share)))

    def _watch(self) -> None:
        while not self._stop.is_set():
            self._looks.append(_cpu_seconds())
            self._stop.wait(EVERY_SECONDS)


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
