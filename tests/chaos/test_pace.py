"""The yardstick of the other tests here."""

import time

import pytest

from tests.chaos import pace
from tests.chaos.pace import Pace


@pytest.mark.parametrize(
    ("times_the_reference", "ticks_stolen", "slowness"),
    [
        pytest.param(1.0, 0, 1.0, id="as fast"),
        pytest.param(0.5, 0, 1.0, id="faster"),
        pytest.param(3.0, 0, 3.0, id="slower"),
        pytest.param(1.0, 100, 2.0, id="half of it stolen"),
        pytest.param(1.5, 100, 3.0, id="both"),
        pytest.param(50.0, 0, pace.MOST, id="not fit for these tests"),
    ],
)
def test_slowness(
    monkeypatch: pytest.MonkeyPatch,
    times_the_reference: float,
    ticks_stolen: int,
    slowness: float,
) -> None:
    look = times_the_reference * pace.REFERENCE_SECONDS
    monkeypatch.setattr(pace, "_cpu_seconds", lambda: look)
    ticks = [(1000, 50), (1100, 50 + ticks_stolen)]
    monkeypatch.setattr(pace, "_cpu_ticks", lambda: ticks.pop(0))
    with Pace() as measured:
        time.sleep(0.01)
    assert measured.slowness == pytest.approx(slowness)


def test_it_looks_at_this_machine() -> None:
    with Pace() as measured:
        time.sleep(0.3)
    assert 1.0 <= measured.slowness <= pace.MOST
    assert pace._cpu_ticks() >= (1, 0)
