"""The hands of a user of bamboo-pipeline, inside the project on Python 3.9.

Each line of the standard input is a call: {"call": name, "with": {…}}; each is answered by a line:
{"answer": …}, or {"error": text}.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import django

django.setup()

from bamboo_engine import api  # noqa: E402 - Django must be set up
from bamboo_engine.builder import (  # noqa: E402
    EmptyEndEvent,
    EmptyStartEvent,
    ServiceActivity,
    Var,
    build_tree,
)
from django.db import connection  # noqa: E402
from pipeline.eri.models import State  # noqa: E402
from pipeline.eri.runtime import BambooDjangoRuntime  # noqa: E402
from pipeline.eri.signals import post_set_state  # noqa: E402

from node_timeout import metrics  # noqa: E402
from node_timeout.contrib import bamboo  # noqa: E402
from node_timeout.domain.run import NodeRun  # noqa: E402


def run(action: str, seconds: float, lasts: float = 3600) -> dict[str, Any]:
    """Run a pipeline of one node that polls, and has a timeout."""
    node = ServiceActivity(component_code="test_poll")
    node.component.inputs.seconds = Var(type=Var.PLAIN, value=lasts)
    start = EmptyStartEvent()
    start.extend(node).extend(EmptyEndEvent())
    tree = build_tree(start)
    config = {"enable": True, "action": action, "seconds": seconds}
    tree = bamboo.apply_node_timeout_configs(tree, {node.id: config})
    stored = bamboo.batch_create_node_timeout_config(tree["id"], tree, payload={"task": 7})
    assert stored["result"], stored
    act("run_pipeline", pipeline=tree)
    return {"node_id": node.id, "root": tree["id"]}


def act(name: str, **call: Any) -> None:
    """Call ``bamboo_engine.api``."""
    result = getattr(api, name)(runtime=BambooDjangoRuntime(), **call)
    assert result.result, result.exc_trace


def retry(node_id: str) -> None:
    act("retry_node", node_id=node_id)


def state(node_id: str) -> dict[str, str]:
    found = State.objects.filter(node_id=node_id).first()
    return {"name": found.name, "version": found.version} if found else {"name": "", "version": ""}


def why(node_id: str) -> str:
    """What bamboo shows beside a failed node."""
    return str(BambooDjangoRuntime().get_execution_data_outputs(node_id).get("ex_data", ""))


def runs(node_id: str) -> list[dict[str, Any]]:
    """What the ledger knows of a node."""
    return [
        {
            "version": row.version,
            "state": row.state.value,
            "message": row.message,
            "late": late(row),
        }
        for row in bamboo.client().rows(node_id)
    ]


def run_id(root: str, node_id: str, version: str) -> str:
    return NodeRun(root_pipeline_id=root, node_id=node_id, version=version).run_id


def forget_runs(node_id: str) -> int:
    """As if nobody had ever told of them."""
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM node_timeout_run WHERE node_id = %s", [node_id])
        return int(cursor.rowcount)


def late(row: Any) -> float | None:
    ended = row.finished_at is not None and row.deadline is not None
    return row.finished_at - row.deadline if ended else None


def tell(to_state: str, node_id: str, root: str, version: str = "v1") -> float:
    """Send what the engine sends; return how many state changes were missed so far."""
    post_set_state.send(
        sender=State,
        node_id=node_id,
        to_state=to_state,
        version=version,
        root_id=root,
        parent_id=root,
        loop=1,
    )
    return float(metrics.EVENTS_MISSED._value.get())


def look(path: str, **form: Any) -> list[Any]:
    """A page of the admin site as a superuser sees it: status and text. With a form it is sent."""
    from django.contrib.auth.models import User
    from django.test import Client

    admin, _ = User.objects.get_or_create(username="admin", is_superuser=True, is_staff=True)
    client = Client(SERVER_NAME="localhost")
    client.force_login(admin)
    answer = client.post(path, form, follow=True) if form else client.get(path)
    return [answer.status_code, answer.content.decode()]


def try_call(name: str, *arguments: Any) -> str:
    """The error of a call of the client."""
    try:
        getattr(bamboo.client(), name)(*arguments)
    except Exception as error:  # noqa: BLE001 - it is what is asked for
        return f"{type(error).__name__}: {error}"
    return ""


CALLS = {
    call.__name__: call
    for call in (run, retry, state, why, runs, run_id, forget_runs, tell, look, try_call)
}


def main() -> None:
    print(json.dumps({"answer": sys.version}), flush=True)
    for line in sys.stdin:
        call = json.loads(line)
        try:
            said = {"answer": CALLS[call["call"]](*call["of"], **call["with"])}
        except Exception as error:  # noqa: BLE001 - the test shows it
            said = {"error": repr(error)}
        print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()
