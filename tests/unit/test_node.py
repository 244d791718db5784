"""Node runs: their ids, and the members that engines put into the pool themselves."""

import hashlib
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_timeout.domain import run_id
from node_timeout.domain.errors import InvalidNodeRunError
from node_timeout.domain.ids import check_ids
from node_timeout.domain.run import ForeignRun, NodeRun

text = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=20).filter(
    lambda value: value == value.strip()
)

VECTORS = {
    ("root", "deploy", "1"): "76RQVGB3TM1K2NP7PJWX3VX34Z",
    ("c1", "deploy", "1"): "2T9RE74EEWF2AMXWN4T7BQ0R9P",
    ("流程", "节点_1", "v1"): "73EXDFH4FYDVE85TE5F10HP1W4",
    ("a", "bc", "d"): "7HBMH9SECRGJT3PFNR4QC8DHPS",
    ("ab", "c", "d"): "7YQCQWBRNQY27YNZ2XFCM6H6S7",
}


@pytest.mark.parametrize(("parts", "expected"), VECTORS.items())
def test_other_languages_can_compute_the_id_of_a_run(
    parts: tuple[str, str, str], expected: str
) -> None:
    """As the module says, in other words than the module's."""
    assert run_id.run_id(*parts) == expected
    data = b""
    for part in parts:
        data += len(part.encode("utf-8")).to_bytes(4, "big") + part.encode("utf-8")
    number = uuid.UUID(bytes=hashlib.sha256(data).digest()[:16]).int
    digits = ""
    for _ in range(26):
        number, digit = divmod(number, 32)
        digits = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"[digit] + digits
    assert digits == expected


@given(st.binary(min_size=16, max_size=16), st.binary(min_size=16, max_size=16))
def test_the_text_of_an_id_says_all_of_it_and_sorts_alike(one: bytes, other: bytes) -> None:
    texts = run_id.to_text(one), run_id.to_text(other)
    assert run_id.to_bytes(texts[0]) == one
    assert run_id.is_run_id(texts[0])
    assert (texts[0] < texts[1]) is (one < other)


@given(st.tuples(text, text, text), st.tuples(text, text, text))
def test_different_runs_have_different_ids(one: tuple[str, ...], other: tuple[str, ...]) -> None:
    assert (run_id.run_id(*one) == run_id.run_id(*other)) is (one == other)


@given(text, text.filter(lambda value: "_" not in value))
def test_a_foreign_member_is_split_at_its_last_underscore(node_id: str, version: str) -> None:
    foreign = ForeignRun.of(node_id, version, 1.5)
    assert ForeignRun.parse(foreign.member, 1.5) == foreign
    assert not run_id.is_run_id(foreign.member)


@pytest.mark.parametrize("member", ["", "nothing", "_v", "node_", " node_v", "a\nb_v"])
def test_a_member_that_is_no_node_run_is_refused(member: str) -> None:
    with pytest.raises(InvalidNodeRunError):
        ForeignRun.parse(member, 0.0)


@pytest.mark.parametrize(
    ("node_id", "version", "root", "says"),
    [
        ("a", "", None, "version of node 'a' is empty"),
        ("a", "v" * 65, None, "at most 64"),
        ("a", 3, None, "is int, not text"),
        (None, "v", None, "is NoneType, not text"),
        ("a ", "v", None, "white space"),
        ("\udcff" * 200, "v", None, "'\\udcff"),
        ("a", "v", "", "root pipeline id of node 'a' is empty"),
        ("a", "v", 5, "root pipeline id of node 'a' 5 is int, not text"),
    ],
)
def test_a_bad_id_is_named(node_id: Any, version: Any, root: Any, says: str) -> None:
    with pytest.raises(InvalidNodeRunError) as error:
        check_ids(node_id, version, root)
    assert says in str(error.value)


def test_a_run_knows_its_node_and_its_id() -> None:
    run = NodeRun(root_pipeline_id="r", node_id="n", version="1_a")
    assert run.node == ("r", "n")
    assert run.run_id == run_id.run_id("r", "n", "1_a")
