"""What the command line prints: JSON for programs, lines of text for people."""

import dataclasses
import json
import math
import sys
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from node_timeout.domain.instants import lateness, utc

if TYPE_CHECKING:
    from node_timeout.domain.run import HistoryEntry, LedgerRow
    from node_timeout.ports.directory import RunPage
    from node_timeout.ports.presence import Process
    from node_timeout.status import Status


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
    if status.processes is not None:
        alive = Counter(each.role for process in status.processes for each in process.services)
        lines.append(
            f"alive      {', '.join(f'{n} {role}' for role, n in alive.items()) or 'none'}"
        )
    lines += [f"recent     {row_text(row, math.inf)}" for row in status.recent]
    lines += [f"ALARM      {alarm}" for alarm in status.alarms]
    lines += [f"NO ANSWER  {problem}" for problem in status.unreachable]
    return "\n".join(lines)


def row_text(row: "LedgerRow", now: float) -> str:
    """One line; ``now`` by the clock of Redis counts for a run that is open."""
    parts = [
        f"{row.node_id} version {row.version}: {row.state}",
        f"root {row.root_pipeline_id}",
        f"action {row.action or 'none'}"
        + ("" if row.timeout is None else f" after {row.timeout:.15g} s"),
        f"deadline {instant_text(row.deadline)}",
        f"attempts {row.attempts}",
    ]
    if (late := lateness(row, now)) is not None and math.isfinite(late):
        parts.append(f"late by {late:.3f} s")
    if row.next_at is not None and row.next_at != row.deadline:
        parts.append(f"next try {instant_text(row.next_at)}")
    return printable(", ".join([*parts, *filter(None, [row.message])]))


INSTANTS = ("deadline", "next_at", "lease_until", "started_at", "finished_at", "at", "seen_at")


def for_programs(found: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of something, its instants as ISO 8601 in UTC with milliseconds."""
    return {
        name: _iso(value, "milliseconds") if name in INSTANTS and value is not None else value
        for name, value in found.items()
    }


def row_as_dict(row: "LedgerRow", now: float) -> dict[str, Any]:
    """What is known of a run, for programs; ``now`` counts for one that is open."""
    found = {"run_id": row.run_id, **for_programs(dataclasses.asdict(row))}
    del found["payload_json"]
    return {**found, "payload": _payload(row), "late_seconds": lateness(row, now)}


def _payload(row: "LedgerRow") -> Any:
    """What the strategy is given; its text if somebody has spoilt it."""
    try:
        return None if row.payload_json is None else json.loads(row.payload_json)
    except ValueError:
        return row.payload_json


def page_as_dict(page: "RunPage", now: float) -> dict[str, Any]:
    """``{"runs": [object, …], "after": text or null}``; what a run has is in the reference."""
    runs = [row_as_dict(row, now) for row in page.rows]
    return {"runs": runs, "after": str(page.after) if page.after else None}


def status_as_dict(status: "Status") -> dict[str, Any]:
    found = status.as_dict()
    found["recent"] = [row_as_dict(row, math.inf) for row in status.recent]
    if status.processes is not None:
        found["processes"] = [process_as_dict(each) for each in status.processes]
    return found


def process_as_dict(process: "Process") -> dict[str, Any]:
    return for_programs(dataclasses.asdict(process))


def entry_text(entry: "HistoryEntry") -> str:
    """One line of a run's history, to stand below its row."""
    parts = [f"  {instant_text(entry.at)} {entry.kind}"]
    parts += [f"attempt {entry.attempt}"] if entry.attempt else []
    parts += [f"by {entry.actor}"] if entry.actor else []
    return printable(", ".join([*parts, *filter(None, [entry.detail])]))


def instant_text(seconds: float | None) -> str:
    """None is "none"."""
    if seconds is None:
        return "none"
    return _iso(seconds, "seconds") or f"{seconds:g} (Unix seconds)"


def _iso(seconds: float, precision: str) -> str | None:
    """None for what the calendar does not have."""
    instant = utc(seconds)
    return instant.isoformat(timespec=precision).replace("+00:00", "Z") if instant else None


def printable(text: str) -> str:
    """What an engine said must not move the terminal's cursor, nor begin a line."""
    return "".join(each if each.isprintable() else " " for each in text)
