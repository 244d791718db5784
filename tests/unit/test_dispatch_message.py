"""The wire form of a dispatch message."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_timeout.domain.errors import UnreadableMessageError
from node_timeout.domain.run import DueRun, ForeignRun
from node_timeout.wire import dispatch
from tests.support import id_of


def test_what_is_encoded_is_what_is_decoded() -> None:
    due: list[DueRun | ForeignRun] = [
        DueRun(run_id=id_of("节点_1"), due_at=1795448948.4194453),
        ForeignRun(node_id="节点_1", version="v1", due_at=1.5),
    ]
    assert dispatch.decode(dispatch.encode(due)) == (due, [])


def test_a_message_may_say_which_trace_it_is_a_part_of() -> None:
    context = f"00-{'a' * 32}-{'b' * 16}-01"
    (due,), _ = dispatch.decode(
        dispatch.encode([DueRun(run_id=id_of("a"), due_at=1.5)], 20.0, context)
    )
    assert due == DueRun(run_id=id_of("a"), due_at=1.5, lease=20.0, trace=context)
    (due,), _ = dispatch.decode(dispatch.encode([due], 20.0, "no context"))
    assert isinstance(due, DueRun)
    assert due.trace is None


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "a JSON list, not an object"),
        (b"{}", "schema None is unknown"),
        (b'{"schema": 2, "runs": []}', "schema 2 is unknown, this version reads 1"),
        (b'{"schema": 1}', "'runs' is not a list"),
        (b'{"schema": 1, "runs": [' + b"0," * 10_000 + b"0]}", "10001 runs, at most 10000"),
        (b" " * (dispatch.MAX_BODY_BYTES + 1), "bytes, at most"),
    ],
)
def test_an_unreadable_message_is_refused_with_its_reason(body: bytes, says: str) -> None:
    with pytest.raises(UnreadableMessageError) as error:
        dispatch.decode(body)
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        (7, "not an object"),
        ({"node_id": "a", "version": "v"}, "deadline None is not a number"),
        ({"node_id": "a", "version": "v", "deadline": True}, "not a number"),
        ({"node_id": "a", "version": "v", "deadline": 10**400}, "out of range"),
        ({"node_id": "a", "version": "v", "deadline": float("nan")}, "out of range"),
        ({"version": "v", "deadline": 1}, "node id None"),
        ({"run_id": "a_v", "deadline": 1}, "run_id 'a_v' is no run id"),
        ({"run_id": 7, "deadline": 1}, "run_id 7 is no run id"),
    ],
)
def test_a_bad_entry_does_not_spoil_the_others(entry: Any, says: str) -> None:
    good = {"run_id": id_of("good"), "deadline": 5}
    body = json.dumps({"schema": 1, "runs": [entry, good]}).encode()
    due, unreadable = dispatch.decode(body)
    assert due == [DueRun(run_id=id_of("good"), due_at=5.0)]
    assert [says in bad.reason for bad in unreadable] == [True]
    assert json.loads(unreadable[0].body)["schema"] == 1


@pytest.mark.parametrize("depth", [100, 400, 600, 800, 900, 950, 980, 990, 995])
def test_what_is_nested_deep_is_refused_and_spoils_no_more_than_its_message(depth: int) -> None:
    nested = b"[" * depth + b"]" * depth
    body = b'{"schema": 1, "runs": [' + nested + b', {"node_id": ' + nested + b"}]}"
    try:
        due, unreadable = dispatch.decode(body)
    except (UnreadableMessageError, RecursionError) as error:
        assert "recursion" in str(error)  # noqa: PT017 - it depends on the Python
    else:
        assert (due, len(unreadable)) == ([], 2)
        assert all(len(bad.reason) < 1000 for bad in unreadable)


@given(st.binary(max_size=200))
def test_no_body_raises_anything_else(body: bytes) -> None:
    with pytest.raises(UnreadableMessageError):
        dispatch.decode(body)
