"""Lines of text that the command line prints for people. JSON is in `operations.forms`."""

import math
from collections import Counter
from typing import TYPE_CHECKING

from node_timeout.domain.durations import duration_text
from node_timeout.domain.history import plain_end
from node_timeout.domain.instants import instant_text, lateness

if TYPE_CHECKING:
    from node_timeout.domain.history import HistoryEntry
    from node_timeout.domain.run import LedgerRow
    from node_timeout.status import Status


def status_text(status: "Status") -> str:
    def number(value: float | None) -> str:
        return "unknown" if value is None else f"{value:g}"

    oldest = number(status.oldest_overdue_seconds)
    pool = f"armed {number(status.armed)}, overdue {number(status.overdue)}, oldest {oldest} s"
    ledger = f"armed {number(status.ledger_armed)}, executing {number(status.executing)}"
    ledger += f", paused {number(status.paused)}, dead {number(status.dead)}"
    lines = [f"pool       {pool}", f"ledger     {ledger}"]
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
    """A run as one line. The lateness of an open run is up to ``now``, by the clock of Redis."""
    parts = [
        f"{row.node_id} version {row.version}: {row.state}",
        f"root {row.root_pipeline_id}",
        f"action {row.action or 'none'}"
        + ("" if row.timeout is None else f" after {row.timeout:.15g} s"),
        f"deadline {instant_text(row.deadline)}",
        f"attempts {row.attempts}",
    ]
    if row.extended:
        parts.append(f"extended by {duration_text(row.extended)}")
    if row.paused_at is not None:
        left = max(0.0, (row.deadline or row.paused_at) - row.paused_at)
        parts.append(
            f"paused by the {row.stopped_by} since {instant_text(row.paused_at)}, "
            f"{duration_text(left)} left"
        )
    if (late := lateness(row, now)) is not None and math.isfinite(late):
        parts.append(f"late by {late:.3f} s")
    if row.next_at is not None and row.next_at != row.deadline:
        parts.append(f"next try {instant_text(row.next_at)}")
    return printable(", ".join([*parts, *filter(None, [row.message])]))


def entry_text(entry: "HistoryEntry") -> str:
    """One line of a run's history, to be printed below its row."""
    parts = [f"  {instant_text(entry.at)} {entry.kind}"]
    parts += [f"attempt {entry.attempt}"] if entry.attempt else []
    parts += [f"by {entry.actor}"] if entry.actor else []
    return printable(", ".join([*parts, *filter(None, [entry.detail])]))


def end_text(row: "LedgerRow") -> str | None:
    """The line for a run's end, if the history has no line for that end; else None."""
    ended_at = plain_end(row)
    return None if ended_at is None else f"  {instant_text(ended_at)} {row.state}"


def printable(text: str) -> str:
    """Replace unprintable characters: text from an engine must not move the terminal's cursor or
    start a new line.
    """
    return "".join(each if each.isprintable() else " " for each in text)
