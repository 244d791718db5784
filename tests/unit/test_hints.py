"""Hints and shown values cost little, whatever the input is, and never raise."""

import time
from typing import Any

import pytest

from node_timeout.domain.errors import SHOWN_PROBLEMS, InvalidInputError, joined
from node_timeout.domain.hints import SHOWN_CHARACTERS, did_you_mean, nearest, shown


class Unwilling:
    def __repr__(self) -> str:
        raise OSError("no")


def nested(depth: int, breadth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value] * breadth
    return value


@pytest.mark.parametrize(
    ("value", "is_shown"),
    [
        ("a", "'a'"),
        (None, "None"),
        pytest.param(10**5000, "<int>", id="an integer of 5001 digits"),
        ({"n": 10**5000}, "<dict>"),
        ({"enabled": True}, "{'enabled': True}"),
    ],
)
def test_a_value_is_shown_as_python_writes_it(value: Any, is_shown: str) -> None:
    assert shown(value) == is_shown


@pytest.mark.parametrize(
    "value",
    [nested(900, 1), nested(200, 2), Unwilling(), [Unwilling()] * 1000, "x" * 10_000_000],
    ids=["deep", "shared", "unwilling", "unwilling parts", "long"],
)
def test_a_value_is_shown_in_short_whatever_it_holds(value: Any) -> None:
    began = time.process_time()
    assert 0 < len(shown(value)) <= SHOWN_CHARACTERS
    assert time.process_time() - began < 1


def test_the_near_miss_is_found_among_few_and_among_many() -> None:
    many = [f"node_{number:05}" for number in range(10_000)]
    for typo in ("node_0700", "node_077000", "nod_07700", "Node_07700", "onde_07700", "node-07700"):
        assert nearest(typo, many) in many
    assert nearest("fetch_order", [*many, "fetch_orders"]) == "fetch_orders"
    assert nearest("fetch_orders", [*many, "ftech_order", 7, None]) == "ftech_order"
    assert did_you_mean("second", ["seconds"]) == ", did you mean 'seconds'?"
    assert did_you_mean("zzz", many) == ""
    assert did_you_mean("zzz", []) == ""


def test_many_sentences_are_joined_to_a_short_text() -> None:
    assert joined(["a", "b"]) == "a; b"
    assert joined([]) == ""
    assert joined(["a"] * SHOWN_PROBLEMS) == "; ".join(["a"] * SHOWN_PROBLEMS)
    error = InvalidInputError(*["a"] * (SHOWN_PROBLEMS + 2))
    assert str(error).endswith("a; and 2 more")
    assert len(error.problems) == SHOWN_PROBLEMS + 2
