"""JSON forms of runs, pages, reports and status, the same for the command line and HTTP."""

import dataclasses
import json
import math
import sys
from collections.abc import Mapping
from typing import Any

from node_timeout.domain.config_check import is_nested_too_deep
from node_timeout.domain.history import HistoryEntry
from node_timeout.domain.instants import iso, lateness
from node_timeout.domain.run import LedgerRow
from node_timeout.domain.timeout_config import TimeoutConfig
from node_timeout.domain.tokens import Token
from node_timeout.operations.changing import ChangeReport
from node_timeout.operations.letters import Sifted
from node_timeout.ports.directory import Names, RunPage
from node_timeout.ports.presence import Process
from node_timeout.status import Status


def json_text(value: Any, *, readable: bool = False) -> str:
    """One line of valid JSON, whatever the stores hold: NaN and infinity become null.

    ``readable`` keeps text that standard output can encode; other text is escaped.
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


INSTANTS = (
    *("deadline", "next_at", "paused_at", "lease_until", "started_at", "finished_at"),
    *("at", "seen_at", "created_at", "expires_at", "revoked_at"),
)


def for_programs(found: Mapping[str, Any]) -> dict[str, Any]:
    """The same fields, with instants as ISO 8601 in UTC with milliseconds."""
    return {
        name: iso(value) if name in INSTANTS and value is not None else value
        for name, value in found.items()
    }


def row_as_dict(row: LedgerRow, now: float) -> dict[str, Any]:
    """All about a run, for programs; the lateness of an open run is measured at ``now``."""
    found = {"run_id": row.run_id, **for_programs(dataclasses.asdict(row))}
    del found["payload_json"]
    return {**found, "payload": _payload(row.payload_json), "late_seconds": lateness(row, now)}


def config_as_dict(config: TimeoutConfig) -> dict[str, Any]:
    """Like `TimeoutConfig.as_dict`, but also for a payload that cannot be read."""
    found = dataclasses.asdict(config)
    payload = _payload(found.pop("payload_json"))
    return {**found, "payload": payload}


def _payload(text: str | None) -> Any:
    """The strategy's payload; its text if it is not JSON, or nested too deep to be read."""
    try:
        found = None if text is None else json.loads(text)
    except (ValueError, RecursionError):
        return text
    return text if is_nested_too_deep(found) else found


def page_as_dict(page: RunPage, now: float) -> dict[str, Any]:
    """``{"runs": [object, …], "after": text or null}``; the reference lists a run's fields."""
    runs = [row_as_dict(row, now) for row in page.rows]
    return {"runs": runs, "after": str(page.after) if page.after else None}


def names_as_dict(names: Names) -> dict[str, Any]:
    """Ids with the prefix that was asked for."""
    return dataclasses.asdict(names)


def report_as_dict(report: ChangeReport, now: float) -> dict[str, Any]:
    """``done`` (a number), ``after`` (text or null), ``runs``: ``run_id``, ``verdict``, ``run``."""
    runs = [
        {
            "run_id": each.run_id,
            "verdict": str(each.verdict),
            "run": row_as_dict(each.row, now) if each.row else None,
        }
        for each in report.runs
    ]
    return {"done": report.done, "after": report.after, "runs": runs}


def status_as_dict(status: Status) -> dict[str, Any]:
    found = status.as_dict()
    found["recent"] = [row_as_dict(row, math.inf) for row in status.recent]
    if status.processes is not None:
        found["processes"] = [process_as_dict(each) for each in status.processes]
    return found


def process_as_dict(process: Process) -> dict[str, Any]:
    return for_programs(dataclasses.asdict(process))


def token_as_dict(token: Token) -> dict[str, Any]:
    """All about a token except its hash, which nobody needs."""
    found = for_programs(dataclasses.asdict(token))
    del found["token_hash"]
    return found


def sifted_as_dict(found: Sifted) -> dict[str, Any]:
    """What became of dead letters."""
    return dataclasses.asdict(found)


def history_as_dict(entry: HistoryEntry) -> dict[str, Any]:
    """One entry of a run's history."""
    return for_programs(dataclasses.asdict(entry))
