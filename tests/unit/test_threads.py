"""Threads of an engine that is not asyncio."""

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from node_timeout.runtime.threads import Threads


class Bench:
    def __init__(self) -> None:
        self.ended = 0
        self.threads = Threads(2, name="test", at_end=self._end)
        self.go_on = threading.Event()

    def _end(self) -> None:
        self.ended += 1

    def hang(self) -> str:
        self.go_on.wait(20)
        return "at last"


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    yield bench
    bench.go_on.set()
    await bench.threads.close()
    assert bench.ended >= 1


async def test_values_and_errors_come_back(bench: Bench) -> None:
    assert await bench.threads.run(lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        await bench.threads.run(lambda: 1 // 0)


async def test_a_call_that_outlives_its_caller_holds_up_no_other(bench: Bench) -> None:
    for _ in range(2):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(bench.threads.run(bench.hang), 0.05)
    assert await asyncio.wait_for(bench.threads.run(lambda: 7), 5) == 7


async def test_lost_threads_are_bounded_and_their_places_given_up(bench: Bench) -> None:
    before = threading.active_count()
    for _ in range(6):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(bench.threads.run(bench.hang), 0.05)
    assert threading.active_count() == before + 4, "two, and as many that are lost"
    bench.go_on.set()
    assert await asyncio.wait_for(bench.threads.run(lambda: 7), 5) == 7
    while len(bench.threads._threads) > 2:
        await asyncio.sleep(0.01)


async def test_as_many_threads_as_there_were_come_back(bench: Bench) -> None:
    for _ in range(5):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(bench.threads.run(bench.hang), 0.05)
    bench.go_on.set()
    while bench.threads._lost:
        await asyncio.sleep(0.01)
    for _ in range(20):
        assert await asyncio.wait_for(bench.threads.run(lambda: 7), 5) == 7
    while len(bench.threads._threads) > 2:
        await asyncio.sleep(0.01)


async def test_threads_start_when_they_are_needed_and_never_more_than_that(bench: Bench) -> None:
    assert not bench.threads._threads
    for _ in range(5):
        await bench.threads.run(lambda: None)
    assert len(bench.threads._threads) == 1
    busy = [asyncio.create_task(bench.threads.run(bench.hang)) for _ in range(9)]
    await asyncio.sleep(0)
    assert len(bench.threads._threads) == 2
    bench.go_on.set()
    assert await asyncio.gather(*busy) == ["at last"] * 9


async def test_a_call_cancelled_before_it_began_is_not_made(bench: Bench) -> None:
    busy = [asyncio.create_task(bench.threads.run(bench.hang)) for _ in range(2)]
    called: list[int] = []
    waiting = asyncio.create_task(bench.threads.run(lambda: called.append(1)))
    await asyncio.sleep(0.05)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    bench.go_on.set()
    assert await asyncio.gather(*busy) == ["at last"] * 2
    await bench.threads.run(lambda: None)
    assert called == []
