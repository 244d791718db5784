"""ISO 8601 durations: what is read, what is refused, and why."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_timeout.domain.durations import duration_text, parse_duration
from node_timeout.domain.errors import InvalidInputError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("PT10M", 600),
        ("PT1H30M", 5400),
        ("P1D", 86_400),
        ("P1DT12H", 129_600),
        ("P2W", 1_209_600),
        ("PT0.5S", 0.5),
        ("PT90M", 5400),
        ("P0D", 0),
        ("PT0S", 0),
        ("P1DT1H1M1.25S", 90_061.25),
    ],
)
def test_a_duration_is_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        *("P", "PT", "P1DT", "1D", "PT5", "P5", "T5M", "90", "1:30:00", "", " PT5M", "PT5M "),
        *("-PT5M", "+PT5M", "pt5m", "PT5m", "PT1,5S", "PT.5S", "PT5.S", "PT1.5M", "P1.5D"),
        *("P0Y1W", "P1WT1H", "P1W1D", "PT1M1H", "PT1S1M", "P1DT1D", "PT٥M", "PT5M\n", "PT1e3S"),
        *("PT9999999999999S", "P1D1D"),
    ],
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError):
        parse_duration(text)


@pytest.mark.parametrize("text", ["P1M", "P1Y", "P1Y2M3D", "P1MT5M", "-P1M", "p1m"])
def test_years_and_months_have_no_length(text: str) -> None:
    with pytest.raises(InvalidInputError, match="write days"):
        parse_duration(text)


@pytest.mark.parametrize("value", [None, 5, 5.0, True, b"PT5M", ["PT5M"]])
def test_other_types_are_refused(value: object) -> None:
    with pytest.raises(InvalidInputError, match="no duration such as PT10M"):
        parse_duration(value)


@given(st.integers(min_value=0, max_value=10**12))
def test_what_is_written_is_read_again(milliseconds: int) -> None:
    seconds = milliseconds / 1000
    assert parse_duration(duration_text(seconds)) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "PT0S"), (5400, "PT1H30M"), (86_400, "P1D"), (90_061.25, "P1DT1H1M1.25S"), (-60, "-PT1M")],
)
def test_durations_are_written_shortly(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text
