"""Counts strategy calls in memory that processes share, so that counting costs next to nothing.

Each process has a file of its own in the directory that BENCH_TALLY names:
two little-endian values, the number of calls (uint64) and the instant of the last (double, Unix
seconds). Needs nothing but the standard library: the other sides use it as well.
"""

import mmap
import os
import struct
import time
from dataclasses import dataclass
from pathlib import Path

_FORM = struct.Struct("<Qd")


class Tally:
    """The count of one process."""

    def __init__(self) -> None:
        self._pid = 0
        self._calls = 0
        self._memory: mmap.mmap | None = None

    def add(self) -> float:
        """Count a call; return the instant."""
        if self._pid != os.getpid():  # also after a fork
            self._open()
        now = time.time()
        self._calls += 1
        assert self._memory is not None
        _FORM.pack_into(self._memory, 0, self._calls, now)
        return now

    def _open(self) -> None:
        path = Path(os.environ["BENCH_TALLY"], str(os.getpid()))
        with path.open("w+b", buffering=0) as file:
            file.write(bytes(_FORM.size))
            self._memory = mmap.mmap(file.fileno(), _FORM.size)
        self._pid, self._calls = os.getpid(), 0


@dataclass(frozen=True, slots=True)
class Count:
    """What all processes have counted."""

    calls: int
    last_at: float


def count(directory: Path) -> Count:
    read = [path.read_bytes() for path in directory.iterdir()]
    found = [_FORM.unpack(each) for each in read if each]
    return Count(sum(calls for calls, _ in found), max((last for _, last in found), default=0.0))


def reset(directory: Path) -> None:
    """Between two rounds, with the processes gone."""
    for path in directory.iterdir():
        path.unlink()
