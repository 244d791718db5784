"""How services run, fail, back off and stop."""

import asyncio
import logging

import pytest

from node_timeout.domain.errors import PoolUnavailableError, SchemaError
from node_timeout.runtime.loop import (
    Backoff,
    Health,
    repeat,
    sleep,
    unless_stopped,
    until_available,
)

QUICK = Backoff(first=0.001, longest=0.002)


def test_a_back_off_doubles_up_to_its_longest_with_full_jitter() -> None:
    backoff = Backoff(first=1, longest=10, random=lambda: 0.5)
    assert [backoff.seconds(n) for n in (1, 2, 3, 4, 5, 5000)] == [0.5, 1, 2, 4, 5, 5]
    assert Backoff(random=lambda: 0.0).seconds(9) == 0


async def test_a_service_repeats_until_stopped() -> None:
    stop, calls = asyncio.Event(), []

    async def step() -> None:
        calls.append(1)
        if len(calls) == 3:
            stop.set()

    health = Health(name="test")
    await repeat(step, stop=stop, health=health)
    assert (len(calls), health.ready) == (3, True)


async def test_an_outage_is_logged_once_and_its_end_too(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    stop, calls = asyncio.Event(), []

    async def step() -> None:
        calls.append(1)
        if len(calls) < 4:
            raise PoolUnavailableError("Redis: gone")
        stop.set()

    await repeat(step, stop=stop, health=Health(name="test"), backoff=QUICK)
    assert [each.levelname for each in caplog.records] == ["WARNING", "INFO"]
    assert "recovered after 3 failed passes" in caplog.text


async def test_a_bug_is_logged_each_time_with_its_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stop, calls = asyncio.Event(), []

    async def step() -> None:
        calls.append(1)
        if len(calls) == 2:
            stop.set()
        raise ZeroDivisionError

    health = Health(name="test")
    await repeat(step, stop=stop, health=health, backoff=QUICK)
    assert [each.levelname for each in caplog.records] == ["ERROR", "ERROR"]
    assert "ZeroDivisionError" in caplog.text
    assert not health.ready


async def test_what_no_later_try_can_cure_ends_the_service() -> None:
    async def step() -> None:
        raise SchemaError("run: node-timeout migrate")

    with pytest.raises(SchemaError):
        await repeat(step, stop=asyncio.Event(), health=Health(name="test"))


async def test_sleep_ends_when_stopped() -> None:
    stop = asyncio.Event()
    sleeping = asyncio.create_task(sleep(60, stop))
    stop.set()
    await asyncio.wait_for(sleeping, 1)
    await sleep(0.001, asyncio.Event())


async def test_until_available_waits_for_an_outage_to_end() -> None:
    errors = [PoolUnavailableError("gone"), PoolUnavailableError("gone")]

    async def call() -> int:
        if errors:
            raise errors.pop()
        return 7

    health = Health(name="test")
    assert await until_available(call, stop=asyncio.Event(), health=health, backoff=QUICK) == 7


async def test_until_available_gives_up_when_stopped() -> None:
    stop = asyncio.Event()

    async def call() -> int:
        stop.set()
        raise PoolUnavailableError("gone")

    assert await until_available(call, stop=stop, health=Health(name="test")) is None


async def test_work_is_cut_short_when_stopped_and_its_end_awaited() -> None:
    stop, began = asyncio.Event(), asyncio.Event()
    ended: list[str] = []

    async def hang() -> str:
        try:
            began.set()
            await asyncio.Event().wait()
        finally:
            ended.append("cancelled")
        return "never"

    waiting = asyncio.create_task(unless_stopped(hang(), stop))
    await began.wait()
    stop.set()
    assert await waiting is None
    assert ended == ["cancelled"]


async def test_work_that_ends_is_returned_and_its_error_raised() -> None:
    async def fail() -> None:
        raise KeyError("bug")

    assert await unless_stopped(asyncio.sleep(0, "done"), asyncio.Event()) == "done"
    with pytest.raises(KeyError):
        await unless_stopped(fail(), asyncio.Event())
