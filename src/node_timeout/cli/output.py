"""What the command line reads and prints: JSON for programs, text for people."""

import dataclasses
import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from node_timeout.domain.errors import InvalidInputError
from node_timeout.domain.instants import utc

if TYPE_CHECKING:
    from rich.table import Table

    from node_timeout.domain.run import HistoryEntry, LedgerRow
    from node_timeout.ports.directory import RunPage
    from node_timeout.status import Status

STANDARD_INPUT = Path("-")


def read_json(source: Path) -> Any:
    """The JSON value in a file, or in standard input for ``-``.

    A byte order mark is allowed. A key that occurs twice in one object and a number that JSON does
    not have (NaN, infinity) are refused. Raises `InvalidInputError` that names the file.
    """
    name = "standard input" if source == STANDARD_INPUT else str(source)
    try:
        raw = sys.stdin.buffer.read() if source == STANDARD_INPUT else source.read_bytes()
        return json.loads(
            raw, object_pairs_hook=_object, parse_constant=_refuse, parse_float=_number
        )
    except OSError as error:
        raise InvalidInputError(f"{name}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{name}: is not UTF-8 text") from error
    except RecursionError as error:
        raise InvalidInputError(f"{name}: is nested too deeply") from error
    except ValueError as error:
        raise InvalidInputError(f"{name}: {error}") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r:.200} occurs twice in one object")
        found[key] = value
    return found


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not a JSON number")


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text:.40} is too large")
    return value


def json_text(value: Any, *, readable: bool = False) -> str:
    """One line of valid JSON, whatever the stores held: NaN and infinity become null.

    ``readable`` leaves text that standard output can carry as it is; else it is escaped.
    """
    text = json.dumps(_finite(value), ensure_ascii=not readable, allow_nan=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return json_text(value)
    return text


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return value


def status_text(status: "Status") -> str:
    def number(value: float | None) -> str:
        return "unknown" if value is None else f"{value:g}"

    oldest = number(status.oldest_overdue_seconds)
    pool = f"armed {number(status.armed)}, overdue {number(status.overdue)}, oldest {oldest} s"
    ledger = f"armed {number(status.ledger_armed)}, executing {number(status.executing)}"
    lines = [f"pool       {pool}", f"ledger     {ledger}, dead {number(status.dead)}"]
    hour = ", ".join(f"{state} {count}" for state, count in (status.last_hour or {}).items())
    lines.append(f"last hour  {hour or 'nothing'}")
    lines += [f"queue      {name}: {depth} ready" for name, depth in (status.queues or {}).items()]
    lines += [f"recent     {row_text(row)}" for row in status.recent]
    lines += [f"ALARM      {alarm}" for alarm in status.alarms]
    lines += [f"NO ANSWER  {problem}" for problem in status.unreachable]
    return "\n".join(lines)


def row_text(row: "LedgerRow") -> str:
    parts = [
        f"{row.node_id} version {row.version}: {row.state}",
        f"root {row.root_pipeline_id}",
        f"action {row.action or 'none'}",
        f"deadline {_instant(row.deadline)}",
        f"attempts {row.attempts}",
    ]
    if row.next_at is not None and row.next_at != row.deadline:
        parts.append(f"next try {_instant(row.next_at)}")
    return _printable(", ".join([*parts, *filter(None, [row.message])]))


def lateness(row: "LedgerRow", now: float) -> float | None:
    """Seconds from the deadline to the end of the run, or until now; None before it, and of a run
    that has left in time.
    """
    if row.deadline is None or row.state == "cancelled":
        return None
    late = (now if row.finished_at is None else row.finished_at) - row.deadline
    return late if late > 0 else None


def page_as_dict(page: "RunPage", now: float) -> dict[str, Any]:
    """``{"runs": [object, …], "after": text or null}``; what a run has is in the reference."""
    runs = [
        {"run_id": row.run_id, **dataclasses.asdict(row), "late_seconds": lateness(row, now)}
        for row in page.rows
    ]
    return {"runs": runs, "after": str(page.after) if page.after else None}


def page_table(page: "RunPage", now: float) -> "Table":
    """A line for each run."""
    from rich.table import Table  # noqa: PLC0415 - other commands need none
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=None, pad_edge=False)
    names = (
        "state",
        "deadline",
        "late by",
        "next try",
        "root",
        "node",
        "version",
        "action",
        "tries",
    )
    for name in (*names, "message"):
        table.add_column(name, justify="right" if name in ("late by", "tries") else "left")
    for row in page.rows:
        late = lateness(row, now)
        retry = row.next_at if row.next_at != row.deadline else None
        cells = (
            *(str(row.state), _instant(row.deadline), "" if late is None else f"{late:.3f} s"),
            *("" if retry is None else _instant(retry), row.root_pipeline_id, row.node_id),
            *(row.version, row.action or "", str(row.attempts), row.message or ""),
        )
        table.add_row(*(Text(_printable(cell)) for cell in cells))
    return table


def entry_text(entry: "HistoryEntry") -> str:
    """One line of a run's history, to stand below its row."""
    parts = [f"  {_instant(entry.at)} {entry.kind}"]
    parts += [f"attempt {entry.attempt}"] if entry.attempt else []
    parts += [f"by {entry.actor}"] if entry.actor else []
    return _printable(", ".join([*parts, *filter(None, [entry.detail])]))


def _instant(seconds: float | None) -> str:
    if seconds is None:
        return "none"
    instant = utc(seconds)
    return f"{instant:%Y-%m-%dT%H:%M:%S}Z" if instant else f"{seconds:g} (Unix seconds)"


def _printable(text: str) -> str:
    """What an engine said must not move the terminal's cursor, nor begin a line."""
    return "".join(each if each.isprintable() else " " for each in text)
