"""The circuit breaker: a dead engine is left in peace."""

import asyncio
from typing import Any

import pytest

from node_timeout.breaker import GuardedEngine
from node_timeout.errors import (
    EngineRestingError,
    EngineUnavailableError,
    NodeRunSupersededError,
)
from node_timeout.node import TimedOutNode
from node_timeout.service import Backoff
from tests.support import RecordingEngine, run

NODE = TimedOutNode(
    node_id="a", version="v1", root_pipeline_id="r", action="x", deadline=0.0, attempt=1
)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class SickEngine(RecordingEngine):
    """Fails as often as it is told to."""

    extra = "its own"
    failures: int = 0
    error: BaseException = EngineUnavailableError("gone")

    async def is_running(self, node: TimedOutNode) -> bool:
        self.asked.append(node)
        if self.failures:
            self.failures -= 1
            raise self.error
        return True


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def engine() -> SickEngine:
    return SickEngine([run("a")])


@pytest.fixture
def guarded(engine: SickEngine, clock: Clock) -> GuardedEngine:
    rest = Backoff(first=1.0, longest=4.0, random=lambda: 1.0)
    return GuardedEngine(engine, failures=2, rest=rest, clock=clock)


async def fail(guarded: GuardedEngine, error: type[BaseException] = EngineUnavailableError) -> Any:
    with pytest.raises(error) as caught:
        await guarded.is_running(NODE)
    return caught.value


async def test_after_failures_in_a_row_it_is_not_called(
    guarded: GuardedEngine, engine: SickEngine, clock: Clock
) -> None:
    engine.failures = 3
    await fail(guarded)
    await fail(guarded)
    error = await fail(guarded, EngineRestingError)
    assert error.retry_after == 1.0
    assert len(engine.asked) == 2, "the third call was not made"
    clock.now += 1.1
    await fail(guarded)
    assert len(engine.asked) == 3, "one probe"
    assert (await fail(guarded, EngineRestingError)).retry_after == pytest.approx(2.0), "longer"
    clock.now += 2.1
    assert await guarded.is_running(NODE)
    assert await guarded.is_running(NODE)


async def test_only_one_call_probes(
    guarded: GuardedEngine,
    engine: SickEngine,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine.failures = 2
    await fail(guarded)
    await fail(guarded)
    clock.now += 9
    reached, go_on = asyncio.Event(), asyncio.Event()

    async def slowly(_node: TimedOutNode) -> bool:
        reached.set()
        await go_on.wait()
        return True

    monkeypatch.setattr(engine, "is_running", slowly)
    probe = asyncio.create_task(guarded.is_running(NODE))
    await reached.wait()
    await fail(guarded, EngineRestingError)
    go_on.set()
    assert await probe


async def test_an_engine_that_hangs_counts_as_failing(
    guarded: GuardedEngine, engine: SickEngine
) -> None:
    engine.failures, engine.error = 2, asyncio.CancelledError()
    await fail(guarded, asyncio.CancelledError)
    await fail(guarded, asyncio.CancelledError)
    await fail(guarded, EngineRestingError)


async def test_a_refusal_is_an_answer(guarded: GuardedEngine, engine: SickEngine) -> None:
    engine.failures = 1
    await fail(guarded)
    engine.errors = [NodeRunSupersededError("moved on")]
    with pytest.raises(NodeRunSupersededError):
        await guarded.forced_fail(NODE, "node a")
    engine.failures = 1
    await fail(guarded)
    assert await guarded.forced_fail_and_skip(NODE, "node a") == "failed and skipped"
    assert guarded.extra == "its own"
    await guarded.close()
