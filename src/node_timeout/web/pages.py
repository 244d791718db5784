"""The console's pages: each reads the ledger at a bounded cost."""

import dataclasses
import secrets
from collections import Counter
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from starlette.responses import RedirectResponse, Response

from node_timeout.app import NodeTimeout
from node_timeout.domain.changes import OPEN, Verdict, follows
from node_timeout.domain.errors import InvalidInputError, TemporaryError
from node_timeout.domain.history import plain_end
from node_timeout.domain.ids import id_problem
from node_timeout.domain.instants import lateness
from node_timeout.domain.lateness import percentiles
from node_timeout.domain.run import LedgerRow, RunState
from node_timeout.domain.run_id import is_run_id
from node_timeout.domain.timeout_config import TimeoutConfig
from node_timeout.ports.directory import Cursor
from node_timeout.status import Status
from node_timeout.web import api
from node_timeout.web.api import COUNTED, Call
from node_timeout.web.changing import CHANGES
from node_timeout.web.problems import Problem
from node_timeout.web.reading import query_of
from node_timeout.web.rendering import page
from node_timeout.web.shared import Shared
from node_timeout.web.views import percent

PER_PAGE = 50
RECENT = 8
OVERVIEW_ENDINGS = 500
DRAWN = 200
HOUR = 3600.0
MINUTES = 60
TABS = ("armed", "overdue", "due", "paused", "executing", "handled", "stale", "cancelled", "dead")
"""Each is a state, except two: armed runs that are overdue, and those due within an hour."""
DUE_WITHIN = {"overdue": 0.0, "due": HOUR}
ABLE = {
    RunState.ARMED: ("extend", "pause", "reconfigure", "fire", "cancel"),
    RunState.PAUSED: ("extend", "resume", "reconfigure", "fire", "cancel"),
    RunState.DEAD: ("replay", "discard"),
}
"""The changes that a run in this state allows."""
FILTERS = ("node_id", "root_pipeline_id", "action")
VERDICTS = tuple(each.value for each in Verdict)


Overview = tuple[Status, list[float]]
"""The status, and how late the last runs were handled, in seconds."""


async def look_over(app: NodeTimeout) -> Overview:
    """What the overview shows."""
    status = await app.status(RECENT, most=COUNTED)
    if status.unreachable:
        return status, []
    rows = await app.ledger.recent(OVERVIEW_ENDINGS, [RunState.HANDLED])
    return status, [max(0.0, (row.finished_at or 0.0) - (row.deadline or 0.0)) for row in rows]


async def overview(call: Call) -> Response:
    shared: Shared[Overview] = call.request.app.state.overview
    status, late = await shared.get()
    alive = Counter(each.role for process in status.processes or () for each in process.services)
    return page(
        call,
        "overview.html",
        status=status,
        alive=sorted(alive.items()),
        late=percentiles(late) if late else None,
        late_count=len(late),
        tiles=_tiles(dataclasses.asdict(status)),
    )


def _tiles(status: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The numbers at the top, each with its link."""
    return [
        {"tab": tab, "count": status[name], "loud": tab in ("overdue", "dead") and status[name]}
        for tab, name in (
            ("armed", "ledger_armed"),
            ("overdue", "overdue"),
            ("executing", "executing"),
            ("paused", "paused"),
            ("dead", "dead"),
        )
    ]


RUNS_QUERY = ("tab", "after", *FILTERS)


async def runs(call: Call) -> Response:
    return await runs_page(call, query_of(call.request, RUNS_QUERY))


async def dead(call: Call) -> Response:
    asked = query_of(call.request, RUNS_QUERY)
    letters = await _dead_letters(call)
    return await runs_page(call, {**asked, "tab": "dead"}, letters=letters, heading="dead")


async def letters(call: Call) -> Response:
    """How many dead letters there are. Reading them moves them, so it takes a button."""
    return await letters_page(call, found=None, said=query_of(call.request, ("done",)))


async def letters_page(call: Call, **more: Any) -> Response:
    return page(call, "letters.html", count=await _dead_letters(call), **more)


async def _dead_letters(call: Call) -> int | None:
    exchange = call.app.exchange
    try:
        return (await exchange.depths()).get(exchange.dead_queue, 0)
    except TemporaryError:
        return None


async def runs_page(
    call: Call, asked: Mapping[str, str], *, heading: str = "runs", **more: Any
) -> Response:
    """A page of runs, with the changes that they allow."""
    tab = asked.get("tab", "armed")
    if tab not in TABS:
        raise Problem(404, "there is no such list")
    filters = {name: asked[name] for name in FILTERS if asked.get(name)}
    which = filters_of(tab, filters)
    after = Cursor.parse(asked["after"]) if asked.get("after") else None
    found = await call.app.find(**which, limit=PER_PAGE, after=after)
    state = RunState.ARMED if tab in DUE_WITHIN else RunState(tab)
    now = await call.app.pool.now()
    here = {"tab": tab, **filters}
    return page(
        call,
        "runs.html",
        heading=heading,
        tab=tab,
        tabs=TABS,
        filters=filters,
        rows=[(row, lateness(row, now)) for row in found.rows],
        changes=ABLE.get(state, ()),
        now=now,
        next=_link("/runs", {**here, "after": str(found.after)}) if found.after else None,
        first=_link("/runs", here) if after else None,
        here=here,
        key=secrets.token_hex(8),  # so that a form sent twice is one order
        **{"letters": None, "report": None} | more,
    )


def filters_of(tab: str, filters: Mapping[str, str]) -> dict[str, Any]:
    """The arguments of `NodeTimeout.find` for a list."""
    if tab in DUE_WITHIN:
        return {**filters, "due_within": DUE_WITHIN[tab]}
    return {**filters, "state": tab}


def _link(path: str, query: Mapping[str, str]) -> str:
    return f"{path}?{urlencode(query)}"


async def search(call: Call) -> Response:
    """Find a run id, a node, or a root pipeline: an exact match, else those with this prefix."""
    text = query_of(call.request, ("q",)).get("q", "").strip()
    if not text:
        return page(call, "search.html", text="", rows=[], root=False, names=None)
    if is_run_id(text) and await call.app.run(text) is not None:
        return RedirectResponse(_link("/run", {"run_id": text}), 303)
    rows: list[LedgerRow] = []
    is_root, names = False, None
    if id_problem("id", text) is None:
        rows = list((await call.app.find(node_id=text, limit=PER_PAGE)).rows)
        is_root = bool((await call.app.find(root_pipeline_id=text, limit=1)).rows)
    if is_root and not rows:
        return RedirectResponse(_link("/pipeline", {"root_pipeline_id": text}), 303)
    if len(rows) == 1 and not is_root:
        return RedirectResponse(_link("/run", {"run_id": rows[0].run_id}), 303)
    if not rows and id_problem("prefix", text) is None:
        names = await call.app.names(text)
    return page(call, "search.html", text=text, rows=rows, root=is_root, names=names)


RUN_QUERY = (*api.RUN_QUERY, "said", "change")


async def run(call: Call) -> Response:
    asked = query_of(call.request, RUN_QUERY)
    said, change = asked.pop("said", None), asked.pop("change", None)
    try:
        row, entries, more = await api.find_run(call.app, asked)
    except Problem as problem:
        if problem.status != 404:  # noqa: PLR2004 - the status
            raise
        return page(call, "run_missing.html", code=404)
    others = await call.app.find(
        node_id=row.node_id, root_pipeline_id=row.root_pipeline_id, limit=PER_PAGE
    )
    newer = await _newer(call.app, row)
    now = await call.app.pool.now()
    return page(
        call,
        "run.html",
        row=row,
        newer=newer,
        late=lateness(row, now),
        left=None if row.paused_at is None else (row.deadline or row.paused_at) - row.paused_at,
        entries=entries,
        history_more=more,
        ended_at=plain_end(row),
        others=[each for each in others.rows if each.run_id != row.run_id],
        changes=[each for each in ABLE.get(row.state, ()) if newer or each != "reconfigure"],
        said=said if change in CHANGES and said in VERDICTS else None,
        change=change,
        now=now,
    )


async def _newer(app: NodeTimeout, row: LedgerRow) -> TimeoutConfig | None:
    """The node's stored config, if an open run does not follow it already; else None."""
    if row.state not in OPEN:
        return None
    config = (await app.ledger.configs([row.node])).get(row.node)
    return None if config is None or follows(row, config) else config


async def pipeline(call: Call) -> Response:
    """The runs of a root pipeline on a time axis."""
    root = query_of(call.request, ("root_pipeline_id",)).get("root_pipeline_id", "")
    if problem := id_problem("root pipeline id", root):
        raise InvalidInputError(problem)
    found = await call.app.find(root_pipeline_id=root, limit=DRAWN + 1)
    now = await call.app.pool.now()
    rows = found.rows[:DRAWN]
    bars = [bar for row in rows if (bar := _bar(row, now))]
    least = min((start for _, start, _ in bars), default=now)
    most = max((end for _, _, end in bars), default=now)
    return page(
        call,
        "pipeline.html",
        root=root,
        cut=DRAWN if len(found.rows) > DRAWN else None,
        least=least,
        most=most,
        now_at=percent(now, least, most) if least <= now <= most else None,
        bars=[
            {
                "row": row,
                "left": percent(start, least, most),
                "width": max(0.6, percent(end, least, most) - percent(start, least, most)),
            }
            for row, start, end in bars
        ],
    )


def _bar(row: LedgerRow, now: float) -> tuple[LedgerRow, float, float] | None:
    """A run with its start and its end, or deadline; None if an instant is missing."""
    end = row.finished_at or row.next_at or row.deadline or row.paused_at
    start = row.started_at or ((row.deadline or 0.0) - (row.timeout or 0.0)) or end
    if start is None or end is None:
        return None
    if row.state is RunState.EXECUTING:
        end = max(end, now)
    return row, min(start, end), max(start, end)


async def lateness_page(call: Call) -> Response:
    found = await call.app.lateness()
    return page(
        call,
        "lateness.html",
        count=len(found["endings"]),
        minutes=list(reversed(found["minutes"]))[:MINUTES],
    )


CONFIGS_QUERY = ("root_pipeline_id", "node_id", "after_root", "after_node")


async def configs(call: Call) -> Response:
    asked = query_of(call.request, CONFIGS_QUERY)
    filters = {name: asked[name] for name in CONFIGS_QUERY[:2] if name in asked}
    behind = asked.get("after_root"), asked.get("after_node")
    after = (behind[0] or "", behind[1] or "") if any(behind) else None
    found = await call.app.find_configs(**filters, limit=PER_PAGE, after=after)
    following = None
    if len(found) == PER_PAGE:
        root, node = found[-1].node
        following = _link("/configs", {**filters, "after_root": root, "after_node": node})
    return page(call, "configs.html", configs=found, filters=filters, next=following)


async def processes(call: Call) -> Response:
    return page(call, "processes.html", processes=await call.app.processes())
