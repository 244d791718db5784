"""Orders to change runs: reading them from a request, and answering with their verdicts."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from starlette.requests import Request

from node_timeout.app import NodeTimeout
from node_timeout.domain.changes import Verdict
from node_timeout.domain.durations import parse_move
from node_timeout.domain.errors import InvalidInputError
from node_timeout.domain.hints import shown
from node_timeout.operations.changing import ChangedRun, ChangeReport
from node_timeout.web.access import Caller
from node_timeout.web.problems import Problem
from node_timeout.web.reading import require_known

CHANGES = ("extend", "reconfigure", "pause", "resume", "fire", "cancel", "replay", "discard")
WHICH = (
    *("run_ids", "node_id", "version", "root_pipeline_id"),
    *("state", "action", "due_within", "everything"),
)
STATUS = {
    Verdict.MISSING: 404,
    Verdict.EXECUTING: 409,
    Verdict.CLOSED: 409,
    Verdict.NOT_PAUSED: 409,
    Verdict.NOT_DEAD: 409,
    Verdict.NO_CONFIG: 409,
    Verdict.REVISION: 412,
    Verdict.OVER_CAP: 422,
    Verdict.KEY_USED: 422,
}
"""The HTTP status of a refused order for one run."""
TEXTS = ("node_id", "version", "root_pipeline_id", "state", "action", "reason", "after")


async def carry_out(
    app: NodeTimeout,
    name: str,
    said: Mapping[str, Any],
    request: Request,
    caller: Caller,
    *,
    if_revision: str | None = None,
    key: str | None = None,
) -> ChangeReport:
    """Carry out the order ``name``. Raises `Problem`, `InvalidInputError`, `TemporaryError`.

    ``if_revision`` replaces the header If-Match, and ``key`` the header Idempotency-Key, which
    forms cannot send.
    """
    moves = ("by", "until") if name == "extend" else ()
    require_known(said, (*WHICH, *moves, "reason", "dry_run", "after"), "key")
    asked = {key: value for key, value in said.items() if value is not None}
    problems = _type_problems(asked)
    if problems:
        raise Problem(400, problems[0], problems=problems)
    if not asked.get("reason"):
        raise Problem(400, "say why: reason is missing")
    for span in ("by", "due_within"):
        if span in asked:
            asked[span] = seconds_of(asked[span], span)
    if "until" in asked:
        asked["until"] = instant_of(asked["until"], "until")
    if named := key or request.headers.get("idempotency-key"):
        asked["idempotency_key"] = named
    if revision := if_revision or request.headers.get("if-match"):
        asked["if_revision"] = _revision(revision, asked)
    asked["actor"] = caller.name
    report: ChangeReport = await getattr(app, name)(**asked)
    return report


def _type_problems(asked: Mapping[str, Any]) -> list[str]:
    problems = [
        f"{name} is {shown(asked[name])}, not text"
        for name in TEXTS
        if name in asked and not isinstance(asked[name], str)
    ]
    run_ids = asked.get("run_ids", [])
    if not (isinstance(run_ids, list) and all(isinstance(each, str) for each in run_ids)):
        problems.append("run_ids is not a list of texts")
    problems += [
        f"{name} is {shown(asked[name])}, not true or false"
        for name in ("dry_run", "everything")
        if name in asked and not isinstance(asked[name], bool)
    ]
    return problems


def seconds_of(value: Any, name: str) -> float:
    """A number of seconds, or an ISO 8601 duration; a leading minus means less time."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    try:
        if isinstance(value, str):
            return parse_move(value)
    except InvalidInputError as error:
        raise Problem(400, f"{name}: {error}") from None
    raise Problem(400, f"{name} is {shown(value)}, neither seconds nor a duration such as PT10M")


def instant_of(value: Any, name: str) -> float:
    """Unix seconds, or ISO 8601 with its zone."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    try:
        if isinstance(value, str) and (found := datetime.fromisoformat(value)).tzinfo is not None:
            return found.timestamp()
    except (ValueError, OverflowError):
        pass
    raise Problem(
        400, f"{name} is {shown(value)}, no instant with its zone such as 2026-12-01T18:00:00+08:00"
    )


def _revision(text: str, asked: Mapping[str, Any]) -> int:
    """The revision in ``If-Match``, which is allowed for one run only."""
    if len(asked.get("run_ids", ())) != 1:
        raise Problem(400, "If-Match goes with an order for one run, by its id in run_ids")
    try:
        return int(text.strip().strip('"'))
    except ValueError:
        raise Problem(400, f"If-Match is {shown(text)}, not the ETag of a run") from None


def refusal(report: ChangeReport) -> Problem | None:
    """Why an order for one run was refused; None if it was not, or was for several runs."""
    if len(report.runs) != 1 or report.runs[0].verdict in (Verdict.DONE, Verdict.UNCHANGED):
        return None
    run: ChangedRun = report.runs[0]
    revision = None if run.row is None else run.row.revision
    return Problem(
        STATUS[run.verdict],
        f"the run was not changed: {run.verdict}",
        verdict=str(run.verdict),
        run_id=run.run_id,
        revision=revision,
    )
