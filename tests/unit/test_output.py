"""What the command line reads and prints: JSON is valid JSON, and no value stops a page."""

import io
import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest

from node_timeout.cli.output import end_text, row_text
from node_timeout.cli.reading import STANDARD_INPUT, read_json
from node_timeout.domain.errors import InvalidInputError
from node_timeout.domain.instants import utc
from node_timeout.domain.run import LedgerRow, RunState, StoppedBy, TimedOutNode
from node_timeout.operations.forms import json_text, row_as_dict
from node_timeout.strategies.webhook import cloud_event

INSTANTS = [math.nan, math.inf, -math.inf, 1e300, -1e300, 253402300800.0, -1e12]


def strict(text: str) -> Any:
    """Read JSON as other languages do."""

    def refuse(constant: str) -> Any:
        raise AssertionError(constant)

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_no_fault(tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "tree.json"
    file.write_bytes('{"名": 1.5}'.encode(encoding))
    assert read_json(file) == {"名": 1.5}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"a": 1, "b": {"c": 1, "c": 1}}', "the key 'c' occurs twice"),
        ('{"a": NaN}', "NaN is not a JSON number"),
        ("[-Infinity]", "-Infinity is not a JSON number"),
        ("[1e999]", "the number 1e999 is too large"),
        ("", "Expecting value"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_what_json_does_not_have_is_refused_by_name(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "tree.json"
    file.write_text(text)
    with pytest.raises(InvalidInputError, match=says) as caught:
        read_json(file)
    assert str(caught.value).startswith(f"{file}: ")


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="Is a directory"):
        read_json(tmp_path)
    with pytest.raises(InvalidInputError, match="No such file"):
        read_json(tmp_path / "missing")
    (tmp_path / "binary").write_bytes(b'{"a": "\xff"}')
    with pytest.raises(InvalidInputError, match="is not UTF-8 text"):
        read_json(tmp_path / "binary")


def test_standard_input_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'\xef\xbb\xbf{"a": []}')))
    assert read_json(STANDARD_INPUT) == {"a": []}


def test_what_is_printed_is_json_whatever_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    value = {"a": math.inf, "b": (-math.inf, {"c": math.nan}), "d": "节点", "e": 1.5}
    assert strict(json_text(value)) == {"a": None, "b": [None, {"c": None}], "d": "节点", "e": 1.5}
    assert "节点" in json_text(value, readable=True)
    assert len(json_text({"a": "\n\x85\u2028"}).splitlines()) == 1
    surrogate = {"a": "\ud800"}
    assert strict(json_text(surrogate, readable=True)) == surrogate
    json_text(surrogate, readable=True).encode()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert strict(json_text(value, readable=True))["d"] == "节点"
    json_text(value, readable=True).encode("ascii")


@pytest.mark.parametrize("deadline", INSTANTS)
def test_no_instant_stops_a_line_or_an_event(deadline: float) -> None:
    row = LedgerRow(
        node_id="n",
        version="v",
        root_pipeline_id="r",
        action="webhook",
        state=RunState.ARMED,
        started_at=None,
        deadline=deadline,
        next_at=deadline,
        attempts=0,
        finished_at=None,
        message="",
    )
    assert "deadline" in row_text(row, 0.0)
    assert strict(json_text(row_as_dict(row, 0.0)))["deadline"] is None
    node = TimedOutNode(
        node_id="n",
        version="v",
        root_pipeline_id="r",
        action="webhook",
        deadline=deadline,
        attempt=1,
    )
    assert ("time" in cloud_event(node)) == (utc(deadline) is not None)


def test_an_instant_in_the_calendar_is_written_out() -> None:
    instant = utc(0.5)
    assert instant is not None
    assert instant.isoformat() == "1970-01-01T00:00:00.500000+00:00"
    assert [utc(each) for each in INSTANTS] == [None] * len(INSTANTS)


@pytest.mark.parametrize(
    ("state", "stopped_by", "line"),
    [
        (RunState.HANDLED, None, "  1970-01-01T00:00:09Z handled"),
        (RunState.STALE, None, "  1970-01-01T00:00:09Z stale"),
        (RunState.CANCELLED, StoppedBy.ENGINE, "  1970-01-01T00:00:09Z cancelled"),
        (RunState.CANCELLED, StoppedBy.OPERATOR, None),
        (RunState.DEAD, None, None),
    ],
)
def test_a_plain_end_is_the_last_line(
    state: RunState, stopped_by: StoppedBy | None, line: str | None
) -> None:
    row = LedgerRow(
        node_id="n",
        version="v",
        root_pipeline_id="r",
        action="webhook",
        state=state,
        stopped_by=stopped_by,
        started_at=None,
        deadline=1.0,
        next_at=None,
        attempts=0,
        finished_at=9.0,
        message="",
    )
    assert end_text(row) == line
