"""The HTTP API over real servers: what it answers, whom it lets in, what it refuses."""

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import yaml
from sqlalchemy import text as sql

from node_timeout import NodeTimeout
from node_timeout.domain.errors import SettingsError
from node_timeout.domain.history import HistoryKind
from node_timeout.domain.run import Outcome, RunState
from node_timeout.domain.timeout_config import TimeoutConfig
from node_timeout.domain.tokens import Role, hash_of
from node_timeout.settings import Settings
from node_timeout.stores import ledger_rows
from node_timeout.web import routes, server
from node_timeout.web.routes import OPERATIONS
from node_timeout.web.server import WebServer
from tests.servers import free_port
from tests.support import config, configure, id_of, run, started, tree_of, wait_until

API = "/api/v1"
Web = tuple[NodeTimeout, httpx.AsyncClient]


def settings_with(settings: Settings, **changes: Any) -> Settings:
    known = {name: getattr(settings, name) for name in settings.model_fields_set}
    return Settings(**{**known, "web_port": free_port(), **changes})


@asynccontextmanager
async def serving(settings: Settings, **changes: Any) -> AsyncIterator[Web]:
    """The API on a port of its own, and a client that shows no token."""
    async with NodeTimeout(settings_with(settings, **changes)) as app:
        web = WebServer(app)
        stop = asyncio.Event()
        serve = asyncio.create_task(web.run(stop, name="test"))
        await wait_until(lambda: web.health.ready or serve.done(), 20)
        try:
            if not serve.done():
                async with httpx.AsyncClient(base_url=web.address) as client:
                    yield app, client
        finally:
            stop.set()
            await serve


@pytest.fixture
async def web(settings: Settings) -> AsyncIterator[Web]:
    async with serving(settings) as found:
        yield found


async def armed(app: NodeTimeout, *node_ids: str, seconds: float = 1000) -> None:
    await configure(app.ledger, *(config(each, seconds) for each in node_ids))
    await app.nodes_started([(each, "v1", "root") for each in node_ids])


async def dead(app: NodeTimeout, *node_ids: str) -> None:
    await configure(app.ledger, *(config(each, 1) for each in node_ids))
    now = await app.pool.now()
    due = await app.ledger.arm(started([run(each) for each in node_ids]), now - 9)
    taking = await app.ledger.take(due, now=now, lease_seconds=9, max_attempts=1)
    outcomes = [Outcome(node=node, state=RunState.DEAD, message="no") for node in taking.taken]
    await app.ledger.record(outcomes, owner=taking.owner, now=now)


def event(kind: str, node_id: str = "a", **more: Any) -> dict[str, Any]:
    return {
        "event": kind,
        "node_id": node_id,
        "version": "v1",
        "root_pipeline_id": "root",
        "happened_at": 1_700_000_000,
        **more,
    }


async def test_an_engine_tells_by_events_and_bad_ones_cost_no_other(web: Web) -> None:
    app, client = web
    await configure(app.ledger, config("stored", 1e7))
    now = await app.pool.now()
    carried = {"enable": True, "action": "forced_fail", "after": "PT1H"}
    sent = [
        event("node_running", "stored", happened_at=now),
        event("node_running", "carried", happened_at=now, timeout_config=carried),
        event("node_exploded"),
        event("node_running", "nobody", happened_at=now),
        event("node_running", "", happened_at=now),
    ]
    answer = await client.post(f"{API}/events", json={"schema": 1, "events": sent})
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert (found["received"], found["armed"]) == (5, 2)
    assert [each["index"] for each in found["refused"]] == [2, 4]
    assert "node_exploded" in found["refused"][0]["reason"]
    assert (await app.pool.counts()).armed == 2
    later = [
        event("node_paused", "stored", happened_at=now + 1),
        event("node_left", "carried", happened_at=now + 1),
    ]
    found = (await client.post(f"{API}/events", json={"schema": 1, "events": later})).json()
    assert (found["disarmed"], found["refused"]) == (2, [])
    resumed = [event("node_resumed", "stored", happened_at=now + 2)]
    found = (await client.post(f"{API}/events", json={"schema": 1, "events": resumed})).json()
    assert found["armed"] == 1
    states = {
        row.node_id: row.state for row in [*await app.rows("stored"), *await app.rows("carried")]
    }
    assert states == {"stored": RunState.ARMED, "carried": RunState.CANCELLED}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"[]", 400),
        (b'{"schema": 2, "events": []}', 400),
        (b'{"schema": 1}', 400),
        (json.dumps({"schema": 1, "events": [{}] * 501}).encode(), 400),
        (b"x" * (1024 * 1024 + 1), 413),
    ],
)
async def test_events_that_cannot_be_read_are_refused(web: Web, body: bytes, status: int) -> None:
    _, client = web
    headers = {"content-type": "application/json"}
    answer = await client.post(f"{API}/events", content=body, headers=headers)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == status


async def test_runs_are_found_page_by_page(web: Web) -> None:
    app, client = web
    await configure(app.ledger, *(config(f"n{i}", 100 + i) for i in range(5)))
    await app.nodes_started([(f"n{i}", "v1", "root") for i in range(5)])
    names: list[str] = []
    after = None
    while True:
        query: dict[str, Any] = {"limit": 2} | ({"after": after} if after else {})
        page = (await client.get(f"{API}/runs", params=query)).json()
        names += [each["node_id"] for each in page["runs"]]
        if (after := page["after"]) is None:
            break
    assert names == [f"n{i}" for i in range(5)]
    of_root = (await client.get(f"{API}/runs?root_pipeline_id=root&state=armed")).json()
    assert len(of_root["runs"]) == 5
    for within in ("3600", "PT1H"):
        due = (await client.get(f"{API}/runs?due_within={within}")).json()
        assert len(due["runs"]) == 5
    for query_text, says in (
        ("due_within=P1M", "write days"),
        ("due_within=soon", "neither seconds nor a duration"),
        ("state=gone", "is none of"),
        ("sate=armed", "did you mean 'state'"),
        ("limit=many", "not a number"),
        ("limit=9999", "is not from 1 to"),
        ("state=armed&state=dead", "given twice"),
        ("after=x", "where a page has ended"),
        ("version=v1", "name the node as well"),
    ):
        answer = await client.get(f"{API}/runs?{query_text}")
        assert answer.status_code == 400
        assert says in answer.json()["detail"]


async def test_one_run_is_shown_with_its_plan_its_history_and_its_revision(web: Web) -> None:
    app, client = web
    hostile = "<script>/%2F?&#\u202e🙂"
    await armed(app, hostile)
    await app.extend(hostile, by=5, actor="ann", reason="a test")
    query = {"node_id": hostile, "version": "v1", "root_pipeline_id": "root"}
    answer = await client.get(f"{API}/run", params=query)
    found = answer.json()
    assert answer.headers["etag"] == '"1"'
    assert found["node_id"] == hostile
    assert [each["action"] for each in found["plan"]] == ["forced_fail"]
    assert [each["kind"] for each in found["history"]] == ["extended"]
    by_id = await client.get(f"{API}/run", params={"run_id": found["run_id"]})
    assert by_id.json()["deadline"] == found["deadline"]
    assert (await client.get(f"{API}/run", params={"run_id": id_of("x")})).status_code == 404
    assert (await client.get(f"{API}/run", params={"run_id": "x"})).status_code == 400
    assert (await client.get(f"{API}/run?node_id=a")).status_code == 400


async def test_a_running_deadline_is_changed(web: Web) -> None:
    app, client = web
    await armed(app, "a", "b")

    async def order(
        name: str, headers: dict[str, str] | None = None, **said: Any
    ) -> httpx.Response:
        body = {"reason": "a test", **said}
        return await client.post(f"{API}/runs/{name}", json=body, headers=headers)

    one: dict[str, Any] = {"run_ids": [id_of("a")]}
    (before,) = await app.rows("a")
    answer = await order("extend", **one, by="PT10M")
    assert answer.status_code == 200, answer.text
    assert answer.json()["runs"][0]["verdict"] == "done"
    for _ in range(2):
        again = await order("extend", {"Idempotency-Key": "k1"}, **one, by=60)
        assert again.status_code == 200
    (row,) = await app.rows("a")
    assert row.deadline == pytest.approx((before.deadline or 0.0) + 660)
    await configure(app.ledger, config("a", 500))
    assert (await order("reconfigure", **one)).json()["done"] == 1
    (row,) = await app.rows("a")
    assert (row.timeout, row.extended) == (500, 660)
    again = await order("reconfigure", **one)
    assert (again.status_code, again.json()["runs"][0]["verdict"]) == (200, "unchanged")
    await app.forget("root", ["a"])
    assert (await order("reconfigure", **one)).json()["verdict"] == "no_config"
    stale = await order("pause", {"If-Match": '"0"'}, **one)
    assert (stale.status_code, stale.json()["revision"]) == (412, 3)
    assert (await order("pause", {"If-Match": '"3"'}, **one)).status_code == 200
    assert (await order("resume", **one)).json()["done"] == 1
    assert (await order("resume", **one)).status_code == 409
    assert (await order("extend", **one, by=1e12)).status_code == 422
    assert (await order("fire", run_ids=[id_of("never")])).status_code == 404
    assert (await order("replay", **one)).json()["verdict"] == "not_dead"
    would = (await order("cancel", due_within="PT1H", dry_run=True)).json()
    assert (would["done"], would["after"]) == (2, None)
    would = (await order("cancel", root_pipeline_id="root", dry_run=True)).json()
    assert (would["done"], would["after"]) == (2, None)
    assert (await app.pool.counts()).armed == 2
    assert (await order("cancel", root_pipeline_id="root")).json()["done"] == 2
    assert (await order("extend", **one, by=1)).json()[
        "detail"
    ] == "the run was not changed: closed"
    entries = await app.history([id_of("a")])
    assert {entry.actor for entry in entries} == {"local user"}
    assert entries[-1].kind is HistoryKind.CANCELLED
    assert all((entry.detail or "").endswith("a test") for entry in entries)


@pytest.mark.parametrize(
    ("name", "said", "says"),
    [
        ("extend", {"by": 5}, "reason is missing"),
        ("extend", {"by": "P1M", "reason": "x"}, "write days"),
        ("extend", {"by": True, "reason": "x"}, "neither seconds nor a duration"),
        ("extend", {"until": "2026-12-01T18:00:00", "reason": "x"}, "no instant with its zone"),
        ("extend", {"reason": "x"}, "say either by how much"),
        ("pause", {"by": 5, "reason": "x"}, "the key 'by' is unknown"),
        ("pause", {"due_within": True, "reason": "x"}, "neither seconds nor a duration"),
        ("pause", {"raeson": "x"}, "did you mean 'reason'"),
        ("pause", {"reason": 5}, "reason is 5, not text"),
        ("pause", {"reason": "x", "dry_run": "yes"}, "not true or false"),
        ("pause", {"reason": "x" * 1001}, "at most 1000 are allowed"),
        ("pause", {"reason": "x", "run_ids": ["0" * 26] * 501}, "from 1 to 500 are allowed"),
    ],
)
async def test_an_order_that_means_nothing_is_refused(
    web: Web, name: str, said: dict[str, Any], says: str
) -> None:
    app, client = web
    await armed(app, "a")
    which = {} if "run_ids" in said else {"run_ids": [id_of("a")]}
    answer = await client.post(f"{API}/runs/{name}", json={**which, **said})
    assert answer.status_code == 400
    assert says in answer.json()["detail"]
    assert await app.history([id_of("a")]) == []


async def test_the_dead_are_replayed_and_discarded(web: Web) -> None:
    app, client = web
    await dead(app, "a", "b")
    answer = await client.post(
        f"{API}/runs/replay", json={"run_ids": [id_of("a")], "reason": "fixed"}
    )
    assert answer.json()["done"] == 1
    answer = await client.post(f"{API}/runs/discard", json={"everything": True, "reason": "old"})
    assert answer.json()["done"] == 1
    assert await app.rows("b") == []


async def test_configs_are_stored_listed_and_ended(web: Web) -> None:
    app, client = web
    tree = tree_of("a", "b", seconds=60)
    body = {"root_pipeline_id": "root", "pipeline_tree": tree}
    stored = await client.put(f"{API}/configs", json=body)
    assert len(stored.json()["configs"]) == 2, stored.text
    first = (await client.get(f"{API}/configs?limit=1")).json()
    assert [each["node_id"] for each in first["configs"]] == ["a"]
    rest = await client.get(
        f"{API}/configs",
        params={"after_root": first["after_root"], "after_node": first["after_node"]},
    )
    assert [each["node_id"] for each in rest.json()["configs"]] == ["b"]
    bad = await client.put(
        f"{API}/configs", json={**body, "pipeline_tree": tree_of("a", "b", seconds=-1)}
    )
    assert bad.status_code == 400
    assert len(bad.json()["problems"]) == 2
    ended = await client.post(f"{API}/roots/finished", json={"root_pipeline_id": "root"})
    assert ended.json() == {"configs": 2}
    gone = await client.post(f"{API}/roots/forget", json={"root_pipeline_id": "root"})
    assert gone.json() == {"configs": 2}
    assert (await app.ledger.configs([("root", "a")])) == {}


async def test_status_processes_and_lateness_are_told(web: Web) -> None:
    app, client = web
    await armed(app, "a")
    await configure(app.ledger, config("late", 1))
    now = await app.pool.now()
    due = await app.ledger.arm(started([run("late")]), now - 9)
    taking = await app.ledger.take(due, now=now, lease_seconds=9, max_attempts=1)
    outcomes = [Outcome(node=node, state=RunState.HANDLED) for node in taking.taken]
    await app.ledger.record(outcomes, owner=taking.owner, now=now)
    status = (await client.get(f"{API}/status")).json()
    assert (status["ledger_armed"], status["paused"], status["unreachable"]) == (1, 0, [])
    roles = [
        service["name"]
        for process in (await client.get(f"{API}/processes")).json()["processes"]
        for service in process["services"]
    ]
    assert roles == ["web"]
    lateness = (await client.get(f"{API}/lateness")).json()
    ((_, late),) = lateness["endings"]
    assert late == pytest.approx(8, abs=0.1)
    assert lateness["minutes"][0]["p99"] == pytest.approx(8, abs=0.1)
    assert (await client.get(f"{API}/lateness?limit=0")).status_code == 400
    names = {"nodes": ["late"], "root_pipelines": []}
    assert (await client.get(f"{API}/names?prefix=la")).json() == names
    refused = [await client.get(f"{API}/names{query}") for query in ("", "?prefix=la&limit=101")]
    assert [each.status_code for each in refused] == [400, 400]
    for path in ("/healthz", "/readyz"):
        assert (await client.get(path)).text == "ok\n"
    assert "node_timeout_changes_total" in (await client.get("/metrics")).text


async def test_dead_letters_are_looked_at_sent_again_and_dropped(web: Web) -> None:
    app, client = web
    for body in (b"one", b"two"):
        await app.exchange.dead_letter(body, "not JSON")
    await wait_until(lambda: waiting(app, 2))
    found = (await client.post(f"{API}/letters/look", json={})).json()
    one, _ = found["kept"]
    assert (one["body"], one["reason"], one["size"]) == ("one", "not JSON", 3)
    assert (found["taken"], found["more"]) == ([], False)
    await wait_until(lambda: waiting(app, 2))
    bads: list[dict[str, Any]] = [
        *({}, {"all": False}, {"letter_ids": []}, {"letter_ids": "a"}, {"letter_ids": [1]}),
        *({"all": True, "letter_ids": ["a"]}, {"all": "yes"}, {"letters": ["a"]}),
    ]
    for bad in bads:
        answer = await client.post(f"{API}/letters/discard", json=bad)
        assert (answer.status_code, bad) == (400, bad)
    said = {"letter_ids": [one["letter_id"]]}
    done = (await client.post(f"{API}/letters/discard", json=said)).json()
    assert [each["body"] for each in done["taken"]] == ["one"]
    await wait_until(lambda: waiting(app, 1))
    done = (await client.post(f"{API}/letters/resend", json={"all": True})).json()
    assert [each["body"] for each in done["taken"]] == ["two"]
    assert (await app.exchange.depths())[app.settings.dispatch_queue] == 1
    for limit in (0, 1001, "9", True, None):
        answer = await client.post(f"{API}/letters/look", json={"limit": limit})
        assert (answer.status_code, limit) == (400, limit)


async def waiting(app: NodeTimeout, count: int) -> bool:
    return await app.exchange.waiting(app.exchange.dead_queue) == count


# Who may do what


async def token(app: NodeTimeout, role: Role, **more: Any) -> dict[str, str]:
    text, _ = await app.create_token(role, f"a {role} of the tests", **more)
    return {"Authorization": f"Bearer {text}"}


async def test_each_role_may_do_what_is_its_own(web: Web) -> None:
    app, client = web
    by_role = {role: await token(app, role) for role in Role}
    await asyncio.sleep(0)
    for operation in OPERATIONS:
        for role, headers in by_role.items():
            more: dict[str, Any] = {"json": {}} if operation.method != "GET" else {}
            answer = await client.request(operation.method, operation.path, headers=headers, **more)
            allowed = role.may(operation.role)
            assert (answer.status_code != 403) == allowed, (operation.path, role, answer.text)
            assert answer.status_code < 500
    wrong = {"Authorization": "Bearer nt_admin_" + "x" * 43}
    assert (await client.get(f"{API}/runs", headers=wrong)).status_code == 401
    for nonsense in ("Basic abc", "Bearer", "Bearer " + "x" * 9999):
        answer = await client.get(f"{API}/runs", headers={"Authorization": nonsense})
        assert answer.status_code == 401


async def test_a_token_that_is_over_lets_nobody_in(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, client = web
    monkeypatch.setattr("node_timeout.web.access.KEPT_SECONDS", 0.0)
    good, short = await token(app, Role.READ), await token(app, Role.READ, expires_in=0.001)
    assert (await client.get(f"{API}/runs", headers=good)).status_code == 200
    assert (await client.get(f"{API}/runs", headers=short)).status_code == 401
    (first, *_) = await app.tokens()
    assert await app.revoke_token(first.token_id)
    assert not await app.revoke_token(first.token_id)
    assert (await client.get(f"{API}/runs", headers=good)).status_code == 401


async def test_this_host_may_do_everything_until_there_is_a_token(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, client = web
    assert (await client.get(f"{API}/runs")).status_code == 200
    # A page of another site, whose name leads to this host.
    elsewhere = {"host": "evil.example:80"}
    assert (await client.get(f"{API}/runs", headers=elsewhere)).status_code == 401
    # A proxy of this host, which passes on whatever comes.
    forwarded = {"x-forwarded-for": "203.0.113.9"}
    assert (await client.get(f"{API}/runs", headers=forwarded)).status_code == 401
    monkeypatch.setattr("node_timeout.web.access.KEPT_SECONDS", 0.0)
    await token(app, Role.READ)
    await wait_until(lambda: _is_closed(client), 10)


async def _is_closed(client: httpx.AsyncClient) -> bool:
    return (await client.get(f"{API}/runs")).status_code == 401


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"sec-fetch-site": "same-origin"}, 200),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"sec-fetch-site": "none"}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
    ],
)
async def test_no_page_of_another_site_changes_anything(
    web: Web, headers: dict[str, str], status: int
) -> None:
    app, client = web
    await armed(app, "a")
    body = {"run_ids": [id_of("a")], "reason": "x"}
    answer = await client.post(f"{API}/runs/fire", json=body, headers=headers)
    assert answer.status_code == status
    own = {"origin": str(client.base_url).rstrip("/")}
    answer = await client.post(f"{API}/runs/fire", json=body, headers=own)
    assert answer.status_code == 200


async def test_a_form_is_no_json(web: Web) -> None:
    """What a page of another site can send without being asked first."""
    _, client = web
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        answer = await client.post(
            f"{API}/runs/fire", content=b'{"everything": true}', headers={"content-type": kind}
        )
        assert answer.status_code == 415


async def test_only_a_trusted_proxy_names_who_calls(settings: Settings) -> None:
    for proxies, status in ((("127.0.0.0/8",), 200), (("203.0.113.0/24",), 401)):
        async with serving(settings, web_trusted_proxies=proxies) as (app, client):
            named = {"X-Forwarded-User": "zoé", "x-forwarded-for": "203.0.113.9"}
            encoded = {key: value.encode() for key, value in named.items()}
            answer = await client.get(f"{API}/runs", headers=encoded)  # type: ignore[arg-type]
            assert answer.status_code == status
            assert (await client.get(f"{API}/runs")).status_code == 401, "it names nobody"
            await armed(app, "a")
            body = {"run_ids": [id_of("a")], "reason": "x"}
            ours = {"X-Forwarded-User": "ann", "sec-fetch-site": "same-origin"}
            answer = await client.post(f"{API}/runs/extend", json={**body, "by": 1}, headers=ours)
            assert (answer.status_code == 200) == (status == 200)
            if status == 200:
                (entry,) = await app.history([id_of("a")])
                assert entry.actor == "ann"
                answer = await client.put(f"{API}/configs", json={}, headers=ours)
                assert answer.status_code == 403, "an operator is no admin"


async def test_where_nothing_may_be_changed_nothing_is(settings: Settings) -> None:
    async with serving(settings, web_read_only=True) as (app, client):
        admin = await token(app, Role.ADMIN)
        for operation in OPERATIONS:
            more: dict[str, Any] = {"json": {}} if operation.method != "GET" else {}
            answer = await client.request(operation.method, operation.path, headers=admin, **more)
            assert (answer.status_code == 403) == (operation.method != "GET"), operation.path


async def test_it_does_not_listen_to_the_world_without_a_token(settings: Settings) -> None:
    with pytest.raises(SettingsError, match="no token is there: make one"):
        async with serving(settings, web_host="0.0.0.0"):
            pass
    async with NodeTimeout(settings) as app:
        headers = await token(app, Role.READ)
    async with serving(settings, web_host="0.0.0.0") as (_, client):
        here = f"http://127.0.0.1:{client.base_url.port}{API}/runs"
        assert (await client.get(here)).status_code == 401
        assert (await client.get(here, headers=headers)).status_code == 200


async def test_one_caller_who_asks_too_often_is_held_back_alone(settings: Settings) -> None:
    async with serving(settings, web_rate=2) as (app, client):
        one, other = await token(app, Role.READ), await token(app, Role.EVENTS)
        answers = [await client.get(f"{API}/runs", headers=one) for _ in range(6)]
        assert [each.status_code for each in answers].count(429) >= 1
        assert int(answers[-1].headers["retry-after"]) >= 1
        answer = await client.post(f"{API}/events", headers=other, json={"schema": 1, "events": []})
        assert answer.status_code == 200


async def test_a_client_that_says_nothing_is_sent_away(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.3)
    monkeypatch.setattr("node_timeout.web.reading.BODY_SECONDS", 0.3)
    async with serving(settings) as (_, client):
        port = client.base_url.port or 0
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /api/v1/runs HTTP/1.1\r\nHost: localhost\r\n")
        assert await asyncio.wait_for(reader.read(), 10) == b"", "its head never ends"
        writer.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            b"POST /api/v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 100\r\nConnection: close\r\n\r\n{"
        )
        answer = await asyncio.wait_for(reader.read(), 10)
        assert b"408 Request Timeout" in answer.splitlines()[0]
        writer.close()


async def test_every_answer_keeps_a_browser_in_bounds(web: Web) -> None:
    _, client = web
    for path in (f"{API}/status", "/healthz", "/nowhere", f"{API}/run"):
        answer = await client.get(path)
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["cache-control"] == "no-store"
        assert "server" not in answer.headers
    assert (await client.get("/nowhere")).json()["status"] == 404
    wrong = await client.delete(f"{API}/runs")
    assert (wrong.status_code, wrong.json()["status"]) == (405, 405)
    assert "GET" in wrong.headers["allow"]


async def test_stores_that_are_down_are_a_503_and_no_end(
    settings: Settings, postgres_url: str
) -> None:
    async with serving(settings) as (app, client):
        await app.ledger.engine.dispose()
        body = {"schema": 1, "events": [event("node_left")]}
        refused = free_port()
        broken = NodeTimeout(
            Settings(
                database_url=re.sub(r"@([^/]*)/", f"@127.0.0.1:{refused}/", postgres_url),
                redis_url=settings.redis_url,
                amqp_url=settings.amqp_url,
            )
        )
        async with broken:
            app.wiring.ledger.engine = broken.ledger.engine
            answer = await client.post(f"{API}/events", json=body)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert "password" not in answer.text


# Slow clients, proxies, guesses


async def test_small_answers_are_sent_at_once(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With Nagle's algorithm each answer on a kept connection takes 40 ms."""
    made: list[asyncio.Transport] = []
    before = server._Protocol.connection_made

    def connection_made(self: Any, transport: asyncio.Transport) -> None:
        made.append(transport)
        before(self, transport)

    monkeypatch.setattr(server._Protocol, "connection_made", connection_made)
    async with serving(settings) as (_, client):
        await client.get("/healthz")
        connection = made[-1].get_extra_info("socket")
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", b"G"),
        (b"POST /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n", b"x"),
    ],
)
async def test_a_client_that_stops_after_an_answer_is_sent_away(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, first: bytes, then: bytes
) -> None:
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.3)
    async with serving(settings) as (_, client):
        reader, writer = await asyncio.open_connection("127.0.0.1", client.base_url.port)
        writer.write(first)
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        assert head.startswith(b"HTTP/1.1 ")
        writer.write(then)
        await asyncio.wait_for(reader.read(), 10)
        writer.close()


async def test_a_client_that_does_not_read_is_sent_away(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "UNREAD_SECONDS", 0.3)
    lost = asyncio.Event()
    before = server._Protocol.connection_lost

    def connection_lost(self: Any, exc: Exception | None) -> None:
        lost.set()
        before(self, exc)

    async with serving(settings) as (_, client):
        monkeypatch.setattr(server._Protocol, "connection_lost", connection_lost)
        with socket.socket() as silent:
            silent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            silent.connect(("127.0.0.1", client.base_url.port))
            request = b"GET /static/vendor/htmx.min.js HTTP/1.1\r\nHost: localhost\r\n\r\n"
            silent.sendall(request * 200)
            await asyncio.wait_for(lost.wait(), 20)


async def test_a_proxy_on_this_host_is_not_this_host(web: Web) -> None:
    _, client = web
    for name in ("X-Forwarded-Proto", "X-Forwarded-Port", "Forwarded", "Via", "X-Real-IP"):
        answer = await client.get(f"{API}/runs", headers={name: "a"})
        assert answer.status_code == 401, name
    for version, status in ((b"1.1", b"200"), (b"1.0", b"401")):
        reader, writer = await asyncio.open_connection("127.0.0.1", client.base_url.port)
        writer.write(
            b"GET /api/v1/runs HTTP/%s\r\nHost: localhost\r\nConnection: close\r\n\r\n" % version
        )
        answered = await asyncio.wait_for(reader.read(), 10)
        assert answered.split()[1] == status
        writer.close()


async def test_a_trusted_proxy_says_one_name(settings: Settings) -> None:
    async with serving(settings, web_trusted_proxies=("127.0.0.0/8",)) as (_, client):
        named = ("X-Forwarded-User", "ann")
        answer = await client.get(f"{API}/runs", headers=[named, ("X-Forwarded-User", "eve")])
        assert (answer.status_code, "given 2 times" in answer.text) == (400, True)
        # What the proxy has asked for is passed on.
        basic = ("Authorization", "Basic YW5uOmE=")
        assert (await client.get(f"{API}/runs", headers=[named, basic])).status_code == 200
        assert (await client.get(f"{API}/runs", headers=[basic])).status_code == 401
        bearer = ("Authorization", "Bearer nt_read_" + "x" * 43)
        assert (await client.get(f"{API}/runs", headers=[named, bearer])).status_code == 401


async def test_a_proxy_is_known_by_its_ipv4_address_on_a_socket_of_ipv6(settings: Settings) -> None:
    changes = {"web_host": "::", "web_trusted_proxies": ("127.0.0.0/8",)}
    async with serving(settings, **changes) as (_, client):
        here = f"http://127.0.0.1:{client.base_url.port}{API}/runs"
        assert (await client.get(here, headers={"X-Forwarded-User": "ann"})).status_code == 200


async def test_wrong_tokens_are_held_back_and_valid_ones_are_not(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, client = web
    monkeypatch.setattr("node_timeout.web.access.MAX_KEPT", 5)
    monkeypatch.setattr("node_timeout.web.access.KEPT_SECONDS", 60.0)
    asked: list[str] = []
    before = app.ledger.token_of

    async def token_of(token_hash: str) -> Any:
        asked.append(token_hash)
        return await before(token_hash)

    monkeypatch.setattr(app.ledger, "token_of", token_of)
    good = await token(app, Role.READ)
    answers = [await client.get(f"{API}/runs", headers=good)]
    for number in range(40):
        wrong = {"Authorization": f"Bearer nt_read_{number:043}"}
        answers.append(await client.get(f"{API}/runs", headers=wrong))
        answers.append(await client.get(f"{API}/runs", headers=good))
    codes = [each.status_code for each in answers]
    assert codes[::2] == [200] * 41
    assert codes.count(429) >= 10
    refused = next(each for each in answers if each.status_code == 429)
    assert int(refused.headers["retry-after"]) >= 1
    assert len(asked) <= 31, "what is held back is not looked up"
    assert asked.count(hash_of(good["Authorization"].removeprefix("Bearer "))) == 1
    other = {"Authorization": f"Bearer nt_read_{99:043}"}
    page = await client.get("/runs", headers=other)
    assert page.status_code == 429, "the same on a page"


async def test_many_valid_tokens_of_one_address_are_let_in(web: Web) -> None:
    app, client = web
    for _ in range(30):
        headers = await token(app, Role.READ)
        assert (await client.get(f"{API}/runs", headers=headers)).status_code == 200


async def test_a_token_of_an_unknown_role_lets_nobody_in(web: Web) -> None:
    app, client = web
    good, odd = await token(app, Role.READ), await token(app, Role.ADMIN)
    async with app.ledger.engine.begin() as connection:
        await connection.execute(
            sql("UPDATE node_timeout_token SET role = 'owner' WHERE role = 'admin'")
        )
    assert (await client.get(f"{API}/runs", headers=odd)).status_code == 401
    assert (await client.get(f"{API}/runs", headers=good)).status_code == 200
    assert [each.role for each in await app.tokens()] == [Role.READ]


# What is too large, too deep, or unknown


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("extend", {"by": 10**400}),
        ("extend", {"by": -(10**400)}),
        ("extend", {"until": 10**400}),
        ("extend", {"until": 10**300}),
        ("fire", {"due_within": 10**400, "run_ids": None}),
    ],
)
async def test_a_number_that_is_too_large_is_refused(
    web: Web, name: str, said: dict[str, Any]
) -> None:
    app, client = web
    await armed(app, "a")
    body = {"run_ids": [id_of("a")], "reason": "x", **said}
    answer = await client.post(f"{API}/runs/{name}", json=body)
    assert answer.status_code in (400, 422), answer.text


async def test_a_query_with_a_number_that_is_too_large_is_refused(web: Web) -> None:
    _, client = web
    for query in ("due_within", "limit"):
        for digits in (400, 5000):
            answer = await client.get(f"{API}/runs?{query}={'9' * digits}")
            assert answer.status_code == 400, query


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


async def test_a_payload_is_not_nested_too_deep(web: Web) -> None:
    app, client = web
    for depth, status in ((64, 200), (65, 400), (900, 400)):
        payload = json.loads(nested(depth))
        tree = tree_of("a", seconds=60, payload=payload)
        for body in (
            {"root_pipeline_id": "root", "pipeline_tree": tree},
            {
                "root_pipeline_id": "root",
                "pipeline_tree": tree_of("a", seconds=60),
                "payload": payload,
            },
        ):
            answer = await client.put(f"{API}/configs", json=body)
            assert answer.status_code == status, answer.text
            assert ("is nested deeper than 64" in answer.text) == (status == 400)
    own = {"enable": True, "action": "forced_fail", "seconds": 9, "payload": json.loads(nested(65))}
    sent = [event("node_running", happened_at=await app.pool.now(), timeout_config=own)]
    answer = await client.post(f"{API}/events", json={"schema": 1, "events": sent})
    assert "is nested deeper than 64" in answer.json()["refused"][0]["reason"]


@pytest.mark.parametrize("depth", [65, 400, 900, 7000])
async def test_a_payload_that_was_stored_nested_too_deep_is_shown_as_text(
    web: Web, depth: int
) -> None:
    app, client = web
    deep = TimeoutConfig(
        node_id="a",
        root_pipeline_id="root",
        action="forced_fail",
        timeout=1000,
        payload_json=nested(depth),
    )
    await configure(app.ledger, deep)
    await app.nodes_started([("a", "v1", "root")])
    listed = (await client.get(f"{API}/configs")).json()
    assert listed["configs"][0]["payload"] == deep.payload_json
    listed = (await client.get(f"{API}/runs")).json()
    assert listed["runs"][0]["payload"] == deep.payload_json
    for path in (f"{API}/run", "/run", "/configs", "/runs", "/"):
        answer = await client.get(path + (f"?run_id={id_of('a')}" if path.endswith("/run") else ""))
        assert answer.status_code == 200, path


async def test_the_newest_of_a_long_history_is_told(web: Web) -> None:
    app, client = web
    await armed(app, "a")
    await app.extend("a", by=1, actor="ann", reason="first")
    query = {"run_id": id_of("a")}
    found = (await client.get(f"{API}/run", params=query)).json()
    assert (len(found["history"]), found["history_more"]) == (1, False)
    await _copy_history(app, 199)
    found = (await client.get(f"{API}/run", params=query)).json()
    assert (len(found["history"]), found["history_more"]) == (200, False)
    await app.extend("a", by=1, actor="ann", reason="last")
    found = (await client.get(f"{API}/run", params=query)).json()
    assert (len(found["history"]), found["history_more"]) == (200, True)
    assert found["history"][-1]["detail"].endswith("last")
    assert len(await app.history([id_of("a")])) == 201, "the library has them all"


async def _copy_history(app: NodeTimeout, times: int) -> None:
    columns = "run_id, at, kind, attempt, actor, detail"
    async with app.ledger.engine.begin() as connection:
        for _ in range(times):
            await connection.execute(
                sql(
                    f"INSERT INTO node_timeout_history ({columns}) SELECT {columns}"
                    " FROM node_timeout_history ORDER BY id LIMIT 1"
                )
            )


async def test_history_of_an_unknown_kind_is_left_out_and_logged_once(
    web: Web, caplog: pytest.LogCaptureFixture
) -> None:
    app, client = web
    ledger_rows._left_out.cache_clear()
    await armed(app, "a")
    for by in (1, 2, 3):
        await app.extend("a", by=by, actor="ann", reason="x")
    async with app.ledger.engine.begin() as connection:
        await connection.execute(
            sql("UPDATE node_timeout_history SET kind = 'teleported' WHERE detail LIKE 'by 2 s%'")
        )
    for path in (f"{API}/run", "/run", f"{API}/run"):
        answer = await client.get(path, params={"run_id": id_of("a")})
        assert answer.status_code == 200
    assert [each["kind"] for each in answer.json()["history"]] == ["extended"] * 2
    assert len(await app.history([id_of("a")])) == 2
    assert caplog.text.count("teleported") == 1


# The contract


def contract() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(routes.contract_text())
    return found


async def test_routes_and_contract_name_the_same_operations(web: Web) -> None:
    _, client = web
    served = yaml.safe_load((await client.get(f"{API}/openapi.yaml")).text)
    assert served == contract()
    documented = {
        (method.upper(), path)
        for path, item in contract()["paths"].items()
        for method in item
        if method in ("get", "post", "put", "delete")
    }
    assert documented == {(each.method, each.path.removeprefix(API)) for each in OPERATIONS}
    for path, item in contract()["paths"].items():
        for method, operation in item.items():
            role = next(
                each.role
                for each in OPERATIONS
                if (each.method, each.path) == (method.upper(), f"{API}{path}")
            )
            assert operation["x-role"] == str(role), path
