"""The HTTP API: each handler calls one operation of the library; request and answer are JSON.

``docs/reference/api.openapi.yaml`` is the contract.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from node_timeout.app import NodeTimeout
from node_timeout.domain.history import HistoryEntry
from node_timeout.domain.lateness import MAX_ENDINGS
from node_timeout.domain.run import LedgerRow, NodeRun, RunState
from node_timeout.operations.forms import (
    config_as_dict,
    history_as_dict,
    json_text,
    names_as_dict,
    page_as_dict,
    process_as_dict,
    report_as_dict,
    row_as_dict,
    sifted_as_dict,
    status_as_dict,
)
from node_timeout.ports.directory import Cursor
from node_timeout.web import changing
from node_timeout.web.access import Caller
from node_timeout.web.problems import Problem
from node_timeout.web.reading import (
    JSON,
    body_of,
    json_of,
    number_of,
    query_of,
    require_known,
    span_of,
)

LETTERS = 100
COUNTED = 10_000
"""Each count of ledger rows stops at this number, so that the cost of an answer is bounded."""
HISTORY_LINES = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A request whose caller may make it."""

    request: Request
    app: NodeTimeout
    caller: Caller


class Json(JSONResponse):
    """Valid JSON whatever the stores hold: NaN and infinity become null."""

    def render(self, content: Any) -> bytes:
        return json_text(content, readable=True).encode()


async def post_events(call: Call) -> Response:
    body = await body_of(call.request, JSON)
    received = await call.app.receive(body)
    return Json(dataclasses.asdict(received))


async def get_runs(call: Call) -> Response:
    asked: dict[str, Any] = dict(query_of(call.request, RUNS_QUERY))
    if "limit" in asked:
        asked["limit"] = number_of(asked["limit"], "limit", int)
    if "due_within" in asked:
        asked["due_within"] = span_of(asked["due_within"], "due_within")
    if "after" in asked:
        asked["after"] = Cursor.parse(asked["after"])
    page = await call.app.find(**asked)
    return Json(page_as_dict(page, await call.app.pool.now()))


RUNS_QUERY = (
    *("state", "root_pipeline_id", "node_id", "version", "action"),
    *("due_within", "limit", "after"),
)
RUN_QUERY = ("run_id", "node_id", "version", "root_pipeline_id")


async def get_run(call: Call) -> Response:
    row, entries, more = await find_run(call.app, query_of(call.request, RUN_QUERY))
    now = await call.app.pool.now()
    found = row_as_dict(row, now) | {
        "plan": plan_of(row),
        "history": [history_as_dict(entry) for entry in entries],
        "history_more": more,
    }
    return Json(found, headers={"ETag": f'"{row.revision}"'})


async def find_run(
    app: NodeTimeout, asked: Mapping[str, str]
) -> tuple[LedgerRow, list[HistoryEntry], bool]:
    """One run, the newest `HISTORY_LINES` of its history, oldest first, and whether it has more.

    Raises `Problem` if there is no such run.
    """
    if "run_id" in asked:
        if len(asked) > 1:
            raise Problem(400, "run_id leaves nothing to be said beside it")
        run_id = asked["run_id"]
    elif missing := [name for name in RUN_QUERY[1:] if name not in asked]:
        raise Problem(400, f"say run_id, or all of {', '.join(RUN_QUERY[1:])}: {missing[0]} lacks")
    else:
        run_id = NodeRun(**asked).run_id
    row = await app.run(run_id)
    if row is None:
        raise Problem(404, "the ledger has no such run")
    entries = await app.ledger.recent_history(run_id, HISTORY_LINES + 1)
    return row, entries[-HISTORY_LINES:], len(entries) > HISTORY_LINES


def plan_of(row: LedgerRow) -> list[dict[str, Any]]:
    """What will happen to the run, and when, if nobody changes it."""
    if row.state is not RunState.ARMED or row.next_at is None:
        return []
    return [{"at": row.next_at, "action": row.action}]


async def post_change(call: Call) -> Response:
    name = call.request.url.path.rpartition("/")[2]
    said = await json_of(call.request)
    report = await changing.carry_out(call.app, name, said, call.request, call.caller)
    if len(said.get("run_ids") or ()) == 1 and (problem := changing.refusal(report)):
        raise problem
    return Json(report_as_dict(report, await call.app.pool.now()))


async def get_configs(call: Call) -> Response:
    asked: dict[str, Any] = dict(query_of(call.request, CONFIGS_QUERY))
    limit = number_of(asked.pop("limit", "50"), "limit", int)
    behind = asked.pop("after_root", None), asked.pop("after_node", None)
    after = (behind[0] or "", behind[1] or "") if any(behind) else None
    found = await call.app.find_configs(**asked, limit=limit, after=after)
    last = found[-1].node if len(found) == limit else (None, None)
    return Json(
        {
            "configs": [config_as_dict(each) for each in found],
            "after_root": last[0],
            "after_node": last[1],
        }
    )


CONFIGS_QUERY = ("root_pipeline_id", "node_id", "limit", "after_root", "after_node")


async def put_configs(call: Call) -> Response:
    said = await json_of(call.request)
    require_known(said, ("root_pipeline_id", "pipeline_tree", "lenient", "payload"), "key")
    lenient = said.get("lenient", False)
    if not isinstance(lenient, bool):
        raise Problem(400, "lenient is not true or false")
    result = await call.app.batch_create_node_timeout_config(
        said.get("root_pipeline_id"),
        said.get("pipeline_tree"),
        lenient=lenient,
        payload=said.get("payload"),
    )
    if not result["result"]:
        raise Problem(400, result["message"], problems=result["message"].split("; "))
    stored = [config_as_dict(each) for each in result["data"]]
    return Json({"configs": stored, "message": result["message"]})


async def post_root(call: Call) -> Response:
    """``finished``: the configs expire later; ``forget``: they are deleted now."""
    name = call.request.url.path.rpartition("/")[2]
    said = await json_of(call.request)
    keys = ("root_pipeline_id", "node_ids") if name == "forget" else ("root_pipeline_id",)
    require_known(said, keys, "key")
    root = said.get("root_pipeline_id")
    if not isinstance(root, str):
        raise Problem(400, "root_pipeline_id is missing, or no text")
    if name == "finished":
        return Json({"configs": await call.app.root_finished(root)})
    node_ids = said.get("node_ids")
    if node_ids is not None and not isinstance(node_ids, list):
        raise Problem(400, "node_ids is not a list")
    return Json({"configs": await call.app.forget(root, node_ids)})


async def get_status(call: Call) -> Response:
    return Json(status_as_dict(await call.app.status(most=COUNTED)))


async def get_processes(call: Call) -> Response:
    return Json({"processes": [process_as_dict(each) for each in await call.app.processes()]})


async def get_lateness(call: Call) -> Response:
    asked = query_of(call.request, ("limit",))
    limit = number_of(asked.get("limit", f"{MAX_ENDINGS}"), "limit", int)
    return Json(await call.app.lateness(limit))


async def get_names(call: Call) -> Response:
    asked = query_of(call.request, ("prefix", "limit"))
    limit = number_of(asked.get("limit", "20"), "limit", int)
    return Json(names_as_dict(await call.app.names(asked.get("prefix", ""), limit)))


async def look_at_letters(call: Call) -> Response:
    said = await json_of(call.request)
    require_known(said, ("limit",), "key")
    limit = said.get("limit", LETTERS)
    if not isinstance(limit, int) or isinstance(limit, bool):
        raise Problem(400, "limit is not a whole number")
    return Json(sifted_as_dict(await call.app.letters(limit)))


async def post_letters(call: Call) -> Response:
    """``resend`` or ``discard`` letters, by their ids or all."""
    name = call.request.url.path.rpartition("/")[2]
    said = await json_of(call.request)
    require_known(said, ("letter_ids", "all"), "key")
    letter_ids, everything = said.get("letter_ids"), said.get("all", False)
    are_texts = isinstance(letter_ids, list) and all(isinstance(each, str) for each in letter_ids)
    if everything not in (True, False) or bool(letter_ids) == bool(everything):
        raise Problem(400, "say either letter_ids or all, true")
    if not everything and not are_texts:
        raise Problem(400, "letter_ids is not a list of texts")
    act = call.app.resend_letters if name == "resend" else call.app.discard_letters
    return Json(sifted_as_dict(await act(letter_ids or None)))
