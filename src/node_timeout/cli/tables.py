"""The tables that the command line prints for people."""

import math
import sys
from collections.abc import Iterable, Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from node_timeout.cli.output import printable
from node_timeout.domain.instants import instant_text, lateness
from node_timeout.domain.lateness import PERCENTILES
from node_timeout.domain.run import LedgerRow
from node_timeout.domain.tokens import Token
from node_timeout.operations.letters import Letter
from node_timeout.ports.directory import Names
from node_timeout.ports.presence import Process, ServiceState

WIDTH = 200
"""Characters in a line, if the output is not a terminal."""
BAR = 6
BODY = 80
"""How many characters of a dead letter's body are shown."""
RUN_COLUMNS = (
    *("state", "deadline", "late by", "next try", "root", "node", "version", "action", "tries"),
    "message",
)
PROCESS_COLUMNS = ("process", "service", "state", "doing", "since", "last seen", "version")
STATE_STYLES = {"dead": "red", "executing": "cyan", "handled": "green", "failing": "red"}


def print_runs(rows: Sequence[LedgerRow], now: float) -> None:
    """A line for each run; nothing if there is none."""
    if rows:
        _print(_table(RUN_COLUMNS, (_cells(row, now) for row in rows), right=("late by", "tries")))


def print_names(names: Names) -> None:
    """A line for each id; nothing if there is none."""
    lines = [
        *(("node", each) for each in names.nodes),
        *(("root", each) for each in names.root_pipelines),
    ]
    if lines:
        _print(_table(("is", "id"), lines))


def print_processes(processes: Sequence[Process]) -> None:
    """A line for each service of each process; nothing if there is none."""
    lines = [
        (
            f"{process.host}:{process.pid}",
            service.name,
            _state(service),
            service.doing,
            instant_text(process.started_at),
            instant_text(process.seen_at),
            process.version,
        )
        for process in processes
        for service in process.services
    ]
    if lines:
        _print(_table(PROCESS_COLUMNS, lines))


def print_lateness(minutes: Sequence[Mapping[str, float]]) -> None:
    """A line for each minute, with a bar that shows its p99 on a logarithmic scale."""
    lines = [
        (
            instant_text(each["minute"]),
            f"{each['count']:.0f}",
            *(f"{each[name]:.3f} s" for name in PERCENTILES),
            "█" * _length(each["p99"]),
        )
        for each in minutes
    ]
    if lines:
        names = ("minute", "runs", *PERCENTILES, "p99, from 1 ms")
        _print(_table(names, lines, right=("runs", *PERCENTILES)))


def _length(seconds: float) -> int:
    """Blocks of a bar: one up to 1 ms, and `BAR` more for each factor of ten."""
    return 1 + round(BAR * math.log10(max(seconds, 0.001) / 0.001))


def print_letters(found: Sequence[Letter]) -> None:
    """A line for each dead letter; nothing if there is none."""
    if found:
        lines = [(each.letter_id, f"{each.size}", each.reason, each.body[:BODY]) for each in found]
        _print(_table(("letter", "bytes", "reason", "body"), lines, right=("bytes",)))


def print_tokens(found: Sequence[Token]) -> None:
    """A line for each token; nothing if there is none."""
    lines = [
        (
            each.token_id,
            each.name,
            str(each.role),
            instant_text(each.created_at),
            "never" if each.expires_at is None else instant_text(each.expires_at),
            "" if each.revoked_at is None else instant_text(each.revoked_at),
        )
        for each in found
    ]
    if lines:
        _print(_table(("token", "name", "role", "made", "expires", "revoked"), lines))


def _state(service: ServiceState) -> str:
    if service.ready:
        return "ready"
    return f"failing ({service.failures})" if service.failures else "starting"


def _cells(row: LedgerRow, now: float) -> tuple[str, ...]:
    late = lateness(row, now)
    retry = row.next_at if row.next_at != row.deadline else None
    return (
        str(row.state),
        instant_text(row.deadline),
        "" if late is None else f"{late:.3f} s",
        "" if retry is None else instant_text(retry),
        row.root_pipeline_id,
        row.node_id,
        row.version,
        row.action or "",
        str(row.attempts),
        row.message or "",
    )


def _table(
    names: Sequence[str], lines: Iterable[Sequence[str]], right: Sequence[str] = ()
) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in names:
        table.add_column(name, justify="right" if name in right else "left")
    for line in lines:
        cells = zip(names, line, strict=True)
        table.add_row(*(Text(printable(cell), style=_style(name, cell)) for name, cell in cells))
    return table


def _style(name: str, cell: str) -> str:
    return STATE_STYLES.get(cell.partition(" ")[0], "") if name == "state" else ""


def _print(table: Table) -> None:
    Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False).print(table)
