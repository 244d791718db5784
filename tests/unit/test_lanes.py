"""Threads for calls that nobody waits for."""

import logging
import threading
from collections.abc import Iterator

import pytest

from node_timeout.engines.bamboo import lanes as module
from node_timeout.engines.bamboo.lanes import Lanes


class Bench:
    def __init__(self) -> None:
        self.ended = 0
        self.lanes = Lanes(2, name="test", at_end=self._end)
        self.go_on = threading.Event()
        self.is_hanging = threading.Event()
        self.called: list[str] = []

    def _end(self) -> None:
        self.ended += 1

    def hang(self) -> None:
        self.is_hanging.set()
        self.go_on.wait(20)

    def note(self, text: str) -> None:
        self.called.append(text)


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.go_on.set()
    assert bench.lanes.close(20) == 0


def test_calls_of_one_key_keep_their_order_and_nobody_waits(bench: Bench) -> None:
    bench.lanes.put("a", bench.hang)
    for number in range(50):
        bench.lanes.put("a", lambda number=number: bench.note(str(number)))  # type: ignore[misc]
    assert bench.is_hanging.wait(20)
    assert bench.called == []
    bench.go_on.set()
    assert bench.lanes.close(20) == 0
    assert bench.called == [str(number) for number in range(50)]
    assert bench.ended == 1, "only the thread that was needed was started"


def test_a_lane_that_hangs_leaves_the_others(bench: Bench) -> None:
    lanes_of = {hash(key) % 2: key for key in map(str, range(100))}
    bench.lanes.put(lanes_of[0], bench.hang)
    done = threading.Event()
    bench.lanes.put(lanes_of[1], done.set)
    assert done.wait(20)


def test_a_call_that_fails_is_logged_and_the_next_is_made(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    done = threading.Event()
    bench.lanes.put("a", lambda: bench.note(1 // 0))  # type: ignore[arg-type]
    bench.lanes.put("a", done.set)
    assert done.wait(20)
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "ZeroDivisionError" in caplog.text


def test_at_its_end_what_still_waits_is_counted(bench: Bench) -> None:
    bench.lanes.put("a", bench.hang)
    bench.lanes.put("a", lambda: bench.note("late"))
    assert bench.is_hanging.wait(20)
    assert bench.lanes.close(0.05) == 2
    bench.lanes.put("a", lambda: bench.note("at once"))
    assert bench.called == ["at once"], "put behind the end, it is called by who puts it"


def test_no_more_than_a_bound_wait(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 2)
    bench.lanes = Lanes(1, name="test", at_end=bench._end)
    bench.lanes.put("a", bench.hang)
    bench.lanes.put("a", lambda: bench.note("second"))
    third = threading.Thread(target=bench.lanes.put, args=["a", lambda: bench.note("third")])
    third.start()
    third.join(0.1)
    assert third.is_alive(), "there is no room yet"
    bench.go_on.set()
    third.join(20)
    assert bench.lanes.close(20) == 0
    assert bench.called == ["second", "third"]
