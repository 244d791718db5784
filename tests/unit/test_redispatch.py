"""How long the reconciler leaves a run alone that may be in a queue."""

import itertools

import pytest

from node_timeout.dispatch import redispatch as room
from node_timeout.dispatch.redispatch import LONGEST_WAIT_SECONDS, Redispatch
from node_timeout.domain.run import DueRun

DUE = DueRun(run_id="a", due_at=1.0)


class Waits:
    """With a clock that is moved."""

    def __init__(self, first_seconds: float) -> None:
        self.now = 0.0
        self.redispatch = Redispatch(first_seconds, lambda: self.now)

    def is_over(self, due: DueRun = DUE, *, at_first: bool = False) -> bool:
        over = self.redispatch.over([due], at_first=at_first)
        assert over in ([], [due])
        return bool(over)

    def dispatched(self, until: int, *, at_first: bool = False) -> list[int]:
        """The instants, looking each second, at which the run may be dispatched again."""
        times = []
        for now in range(until):
            self.now = now
            times += [now] if self.is_over(at_first=at_first) else []
        return times


def test_each_wait_is_twice_the_last() -> None:
    assert Waits(10).dispatched(300) == [10, 30, 70, 150]
    assert Waits(10).dispatched(300, at_first=True) == [0, 10, 30, 70, 150]


def test_no_wait_is_longer_than_an_hour_but_the_first() -> None:
    times = Waits(1000).dispatched(20_000)
    assert [b - a for a, b in itertools.pairwise(times)][-2:] == [LONGEST_WAIT_SECONDS] * 2
    assert Waits(5000).dispatched(20_000) == [5000, 10_000, 15_000]


def test_a_run_that_is_due_at_another_time_waits_anew() -> None:
    waits = Waits(10)
    assert waits.is_over(at_first=True)
    waits.now = 5
    assert not waits.is_over(at_first=True)
    assert waits.is_over(DueRun(run_id="a", due_at=2.0), at_first=True)


def test_what_is_not_missed_any_more_is_forgotten() -> None:
    waits = Waits(10)
    assert waits.dispatched(31) == [10, 30]
    waits.now = 111
    waits.redispatch.forget_found(pause_seconds=1)
    assert waits.is_over(), "it waited 40 s at least"
    waits.now = 274
    waits.redispatch.forget_found(pause_seconds=1)
    assert not waits.is_over(), "it is seen for the first time"


def test_its_memory_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "MAX_REMEMBERED", 2)
    waits = Waits(10)
    for i in range(100):
        waits.is_over(DueRun(run_id=str(i), due_at=0.0))
        assert len(waits.redispatch._seen) <= 2
