"""How long the reconciler leaves a run alone that may be in a queue."""

import itertools

import pytest

from node_timeout.dispatch import backoff as room
from node_timeout.dispatch.backoff import LONGEST_WAIT_SECONDS, Backoff
from node_timeout.domain.run import DueRun

DUE = DueRun(run_id="a", due_at=1.0)


def dispatched(backoff: Backoff, until: int, *, at_first: bool) -> list[int]:
    """The instants, looking each second, at which it may be dispatched again."""
    return [now for now in range(until) if backoff.is_over(DUE, now, at_first=at_first)]


def test_each_wait_is_twice_the_last() -> None:
    assert dispatched(Backoff(10), 300, at_first=False) == [10, 30, 70, 150]
    assert dispatched(Backoff(10), 300, at_first=True) == [0, 10, 30, 70, 150]


def test_no_wait_is_longer_than_an_hour_but_the_first() -> None:
    times = dispatched(Backoff(1000), 20_000, at_first=False)
    assert [b - a for a, b in itertools.pairwise(times)][-2:] == [LONGEST_WAIT_SECONDS] * 2
    assert dispatched(Backoff(5000), 20_000, at_first=False) == [5000, 10_000, 15_000]


def test_a_run_that_is_due_at_another_time_waits_anew() -> None:
    backoff = Backoff(10)
    assert backoff.is_over(DUE, 0, at_first=True)
    assert not backoff.is_over(DUE, 5, at_first=True)
    assert backoff.is_over(DueRun(run_id="a", due_at=2.0), 5, at_first=True)


def test_what_is_not_missed_any_more_is_forgotten() -> None:
    backoff = Backoff(10)
    assert dispatched(backoff, 31, at_first=False) == [10, 30]
    backoff.forget_found(111, pause_seconds=1)
    assert backoff.is_over(DUE, 111, at_first=False), "it waited 40 s at least"
    backoff.forget_found(274, pause_seconds=1)
    assert not backoff.is_over(DUE, 274, at_first=False), "it is seen for the first time"


def test_its_memory_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "MAX_REMEMBERED", 2)
    backoff = Backoff(10)
    for i in range(100):
        backoff.is_over(DueRun(run_id=str(i), due_at=0.0), 0, at_first=False)
        assert len(backoff._waits) <= 2
