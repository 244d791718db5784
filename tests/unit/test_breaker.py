"""The circuit breaker: a dead engine is not called."""

import asyncio

import pytest

from node_timeout.domain.errors import (
    EngineRestingError,
    EngineUnavailableError,
    NodeRunSupersededError,
)
from node_timeout.handling.breaker import Breaker
from node_timeout.runtime.loop import Backoff


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    rest = Backoff(first=1.5, longest=6.0, random=lambda: 1.0)
    return Breaker(failures=2, rest=rest, clock=clock)


def fail(breaker: Breaker, error: BaseException | None = None, *, answered: bool = False) -> None:
    error = error or EngineUnavailableError("gone")
    with pytest.raises(type(error)) as caught, breaker.permit() as permit:  # noqa: PT012
        if answered:
            permit.answered()
        raise error
    assert caught.value is error


def refused(breaker: Breaker) -> float:
    """It lets nobody through; return for how long."""
    with pytest.raises(EngineRestingError) as caught, breaker.permit():
        pytest.fail("it was let through")
    return caught.value.retry_after


def test_after_failures_in_a_row_nobody_is_let_through_for_ever_longer(
    breaker: Breaker, clock: Clock
) -> None:
    fail(breaker)
    fail(breaker)
    assert refused(breaker) == 1.5
    for rest in (3.0, 6.0, 6.0):
        clock.now += 10
        fail(breaker)  # the probe
        assert refused(breaker) == rest
    clock.now += 10
    with breaker.permit():
        pass
    clock.now += 10
    fail(breaker)
    with breaker.permit():
        pass  # it counts anew


def test_an_engine_that_fails_now_and_then_is_not_left_alone(
    breaker: Breaker, clock: Clock
) -> None:
    """Of many calls at once, some in a row fail by chance."""
    for _ in range(10):
        with breaker.permit():
            pass
        for _ in range(5):
            clock.now += 0.1
            fail(breaker)
    clock.now += 1.0
    fail(breaker)
    assert refused(breaker)


def test_only_one_probes(breaker: Breaker, clock: Clock) -> None:
    fail(breaker)
    fail(breaker)
    clock.now += 10
    with breaker.permit():
        assert refused(breaker) == 1.0
    with breaker.permit():
        pass


def test_an_engine_that_does_not_answer_counts_as_failing(breaker: Breaker) -> None:
    fail(breaker, asyncio.CancelledError())
    fail(breaker, ConnectionError("an adapter forgot to translate it"))
    assert refused(breaker)


def test_a_slow_or_broken_strategy_is_not_the_engines_fault(breaker: Breaker) -> None:
    for error in (asyncio.CancelledError(), KeyError("bug")) * 3:
        fail(breaker, error, answered=True)
    with breaker.permit():
        pass


def test_an_engine_that_answers_and_does_not_act_counts_as_failing(breaker: Breaker) -> None:
    for _ in range(2):
        fail(breaker, EngineUnavailableError("500"), answered=True)
    assert refused(breaker)


def test_a_probe_that_is_answered_lets_the_others_through_at_once(
    breaker: Breaker, clock: Clock
) -> None:
    fail(breaker)
    fail(breaker)
    clock.now += 10
    with breaker.permit() as probe:
        refused(breaker)
        probe.answered()
        with breaker.permit():
            pass  # its strategy may take its time


def test_those_in_flight_when_it_opens_neither_lengthen_nor_end_the_rest(
    breaker: Breaker, clock: Clock
) -> None:
    from contextlib import ExitStack, suppress

    with suppress(EngineUnavailableError), ExitStack() as flight:
        for _ in range(5):
            flight.enter_context(suppress(EngineUnavailableError))
            flight.enter_context(breaker.permit())
        late = flight.enter_context(breaker.permit())
        fail(breaker)
        fail(breaker)
        late.answered()
        raise EngineUnavailableError("the same blip")
    assert refused(breaker) == 1.5


def test_a_refusal_is_an_answer(breaker: Breaker) -> None:
    fail(breaker)
    fail(breaker, NodeRunSupersededError("moved on"))
    fail(breaker)
    with breaker.permit():
        pass
