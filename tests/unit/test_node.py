"""Node runs and their member form."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_timeout.domain.errors import InvalidNodeRunError
from node_timeout.domain.run import NodeRun

text = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=20).filter(
    lambda value: value == value.strip()
)


@given(text, text.filter(lambda value: "_" not in value))
def test_a_member_is_split_at_its_last_underscore(node_id: str, version: str) -> None:
    run = NodeRun.of(node_id, version)
    assert NodeRun.parse(run.member) == run


@pytest.mark.parametrize("member", ["", "nothing", "_v", "node_", " node_v", "a\nb_v"])
def test_a_member_that_is_no_node_run_is_refused(member: str) -> None:
    with pytest.raises(InvalidNodeRunError):
        NodeRun.parse(member)


@pytest.mark.parametrize(
    ("node_id", "version", "says"),
    [
        ("a", "1_2", "has an underscore"),
        ("a", "", "version of node 'a' is empty"),
        ("a", "v" * 65, "at most 64"),
        ("a", 3, "is int, not text"),
        (None, "v", "is NoneType, not text"),
        ("a ", "v", "white space"),
        ("\udcff" * 200, "v", "'\\udcff"),
    ],
)
def test_a_bad_id_or_version_is_named(node_id: Any, version: Any, says: str) -> None:
    with pytest.raises(InvalidNodeRunError) as error:
        NodeRun.of(node_id, version)
    assert says in str(error.value)
