"""Django's own form of the ledger: models to look at, and admin pages to steer by."""

import contextlib
import re
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from node_timeout.domain.run import NodeRun, RunState
from tests.bamboo.house import House, fail

NUMBERS = count()
RUNS = "/admin/node_timeout_bamboo/timeoutnoderun/"
POOL = "executing_node_pool"
CONFIGS = "/admin/node_timeout_bamboo/timeoutnodeconfig/"


@pytest.fixture(scope="session")
def root_user(house: House) -> Any:
    from django.contrib.auth.models import User

    return User.objects.create_superuser("root", "root@example.com", "secret")


@pytest.fixture
def browser(house: House, root_user: Any) -> Iterator[Any]:
    from django.test import Client, override_settings

    with override_settings(ALLOWED_HOSTS=["*"], DEBUG=True):
        browser = Client()
        browser.force_login(root_user)
        yield browser


@pytest.fixture
def started(house: House) -> Any:
    """Start a node with a far deadline; return its run."""

    def start(node_id: str = "", seconds: float = 9e6) -> NodeRun:
        number = next(NUMBERS)
        root, node_id = f"admin-root{number}", node_id or f"admin-n{number}"
        node = {
            "type": "ServiceActivity",
            "timeout_config": {**fail(seconds), "payload": {"task": number}},
        }
        stored = house.client().batch_create_node_timeout_config(
            root, {"activities": {node_id: node}}
        )
        assert stored["result"], stored
        assert house.client().node_started(node_id, "v1", root)
        return NodeRun(root_pipeline_id=root, node_id=node_id, version="v1")

    return start


def kill(house: House, run: NodeRun) -> None:
    """Let a run be dead, as if its strategy had failed too often."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE node_timeout_run SET state = 'dead', next_at = NULL, finished_at = %s,"
            " deadline = %s, attempts = 20, message = 'no luck' WHERE root_pipeline_id = %s",
            [time.time(), time.time() - 60, run.root_pipeline_id],
        )
    house.client().pool.disarm(run.run_id)


def act(browser: Any, action: str, *runs: NodeRun, reason: str = "", by: str = "") -> str:
    """Choose runs and an action in the list; return the page that follows."""
    chosen = [run.run_id for run in runs]
    data = {"action": action, "_selected_action": chosen, "reason": reason, "by": by}
    answer = browser.post(f"{RUNS}?state=all", {**data, "index": 0}, follow=True)
    assert answer.status_code == 200
    return str(answer.content.decode())


def row(house: House, run: NodeRun) -> Any:
    (found,) = house.client().rows(run.node_id, run.root_pipeline_id)
    return found


def test_models_are_there_to_look_at(house: House, started: Any) -> None:
    from node_timeout.contrib.bamboo.models import TimeoutNodeConfig, TimeoutNodeRun

    run = started()
    config = TimeoutNodeConfig.objects.get(root_pipeline_id=run.root_pipeline_id)
    assert (config.node_id, config.action, config.timeout) == (run.node_id, "forced_fail", 9e6)
    assert config.payload["task"] >= 0
    found = TimeoutNodeRun.objects.get(pk=run.run_id)
    assert (found.node_id, found.state, found.run_id) == (run.node_id, "armed", run.run_id)
    assert found.deadline == row(house, run).deadline
    assert not TimeoutNodeRun.objects.filter(pk="what somebody typed").exists()
    for write in (
        found.save,
        found.delete,
        config.delete,
        TimeoutNodeRun.objects.all().delete,
        lambda: TimeoutNodeConfig.objects.filter(node_id="x").update(timeout=1),
        lambda: TimeoutNodeConfig.objects.create(node_id="x"),
    ):
        with pytest.raises(TypeError, match="written by node-timeout alone"):
            write()
    stored = TimeoutNodeConfig.objects.batch_create_node_timeout_config(
        run.root_pipeline_id, {"activities": {}}
    )
    assert stored["result"], "the call of the original's manager"


def test_django_finds_nothing_to_migrate_or_to_criticise(
    house: House, capsys: pytest.CaptureFixture[str]
) -> None:
    from django.core.management import call_command

    with contextlib.suppress(SystemExit):  # apps of others may have something
        call_command("makemigrations", "--check", "--dry-run", "--no-input")
    assert "node_timeout" not in capsys.readouterr().out
    call_command("check", "node_timeout_bamboo", fail_level="WARNING")


def test_lists_show_what_is_armed_first_and_find_ids(
    house: House, browser: Any, started: Any
) -> None:
    late, hostile = started(), started(node_id="<script>alert(1)</script>")
    kill(house, late)
    armed = browser.get(RUNS).content.decode()
    assert late.node_id not in armed
    assert "&lt;script&gt;alert(1)" in armed
    assert "<script>alert(1)" not in armed
    assert late.node_id in browser.get(f"{RUNS}?state=dead").content.decode()
    assert late.node_id in browser.get(f"{RUNS}?q={late.node_id}").content.decode()
    assert late.node_id in browser.get(f"{RUNS}?q={late.root_pipeline_id}").content.decode()
    part = late.node_id[:-1]
    assert f">{late.node_id}<" not in browser.get(f"{RUNS}?q={part}").content.decode()
    assert hostile.run_id not in browser.get(f"{RUNS}?due_within=3600").content.decode()
    for filters in ("state=all", "state=executing", "due_within=0"):
        assert browser.get(f"{RUNS}?{filters}").status_code == 200
    assert browser.get(f"{RUNS}?message__contains=luck").status_code == 400, "no index has it"
    for typed in ("Z" * 26, "-1", "x"):
        assert browser.get(f"{RUNS}{typed}/change/").status_code == 302, "there is none"
    assert browser.get(f"{CONFIGS}{late.node_id}/change/").status_code == 302
    configs = browser.get(f"{CONFIGS}?q={late.root_pipeline_id}").content.decode()
    assert late.node_id in configs
    assert "task" in configs
    assert "/change/" not in configs.partition("result_list")[2], "nothing leads to one by its node"


def test_lists_neither_count_nor_sort_the_table(
    house: House, browser: Any, started: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the pages ask of the ledger ends after a page, or after a bounded number of keys."""
    from django.db import connection, reset_queries

    from node_timeout.contrib.bamboo.admin import TimeoutNodeRunAdmin

    monkeypatch.setattr(TimeoutNodeRunAdmin, "list_per_page", 1)
    runs = [started() for _ in range(2)]
    for run in runs:
        kill(house, run)
    for filters in (
        *("?state=dead", "?state=all", "?state=handled", "?q=x", "?due_within=0"),
        "?state=dead&o=2",
    ):
        reset_queries()
        assert browser.get(f"{RUNS}{filters}").status_code == 200
        asked = [each["sql"] for each in connection.queries if "node_timeout_run" in each["sql"]]
        ordered = [sql for sql in asked if "ORDER BY" in sql]
        counts = [sql for sql in asked if "COUNT(" in sql]
        assert counts
        assert all("LIMIT 10000" in sql for sql in counts), counts
        if filters.startswith(("?state=dead", "?state=all")):  # more than a page
            assert all("LIMIT 1" in sql for sql in ordered), ordered
        indexed = r"ORDER BY .node_timeout_run.\..(next_at. ASC, |finished_at. DESC|run_id. )"
        assert all(re.search(indexed, sql) for sql in ordered), ordered


def test_runs_are_cancelled_replayed_and_deleted(house: House, browser: Any, started: Any) -> None:
    first, second, other = started(), started(), started()
    page = act(browser, "cancel_runs", first, second, reason="wrong window")
    assert "Deadlines cancelled: 2" in page
    assert {row(house, run).state for run in (first, second)} == {RunState.CANCELLED}
    assert row(house, other).state is RunState.ARMED
    (entry,) = house.client().history([first.run_id])
    assert (entry.kind, entry.actor, entry.detail) == ("cancelled", "admin root", "wrong window")
    page = act(browser, "cancel_runs", first, other)
    assert "Deadlines cancelled: 1" in page
    assert "Not in a state for that, or too long then: 1" in page
    detail = browser.get(f"{RUNS}{first.run_id}/change/").content.decode()
    assert "wrong window" in detail
    assert "admin root" in detail
    assert "_save" not in detail, "to look at"
    dead, gone = started(), started()
    for run in (dead, gone):
        kill(house, run)
    assert "Runs deleted: 1" in act(browser, "discard_runs", gone)
    assert house.client().rows(gone.node_id, gone.root_pipeline_id) == []
    house.ensure_workers()
    assert "Runs armed again: 1" in act(browser, "replay_runs", dead, reason="the host is back")
    house.wait(lambda: row(house, dead).state is RunState.STALE)  # the engine has no such node
    assert [each.kind for each in house.client().history([dead.run_id])] == ["replayed"]
    assert "Runs armed again: 0" in act(browser, "replay_runs", other)


def test_deadlines_are_moved_and_fired(
    house: House, browser: Any, started: Any, redis_server: Any
) -> None:
    moved, paused, fired = started(), started(), started()
    act(browser, "pause_runs", paused)
    before = row(house, moved).deadline
    page = act(browser, "extend_runs", moved, paused, by="PT10M", reason="slow today")
    assert "Deadlines moved: 2" in page
    assert row(house, moved).deadline == pytest.approx(before + 600)
    assert row(house, paused).state is RunState.PAUSED
    with Redis.from_url(redis_server.url) as pool:
        assert pool.zscore(POOL, moved.run_id) == pytest.approx(before + 600)
        assert pool.zscore(POOL, paused.run_id) is None
    (entry,) = house.client().history([moved.run_id])
    assert (entry.kind, "slow today" in entry.detail) == ("extended", True)
    assert "no duration such as PT10M" in act(browser, "extend_runs", moved, by="ten")
    too_long = act(browser, "extend_runs", moved, by="P400000D")
    assert "Deadlines moved: 0" in too_long
    assert "too long then: 1" in too_long
    house.ensure_workers()
    assert "Runs due now: 1" in act(browser, "fire_runs", fired)
    house.wait(lambda: row(house, fired).state is RunState.STALE)  # the engine has no such node


def test_all_that_match_are_changed_a_bounded_number_at_a_time(
    house: House, browser: Any, started: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a search for all of a node, of which some are closed already."""
    from node_timeout.contrib.bamboo import admin as pages

    monkeypatch.setattr(pages, "MAX_CHANGED", 2)
    monkeypatch.setattr(pages, "PER_TRANSACTION", 1)
    node_id = f"admin-many{next(NUMBERS)}"
    runs = [started(node_id=node_id) for _ in range(5)]
    act(browser, "cancel_runs", runs[0])
    data = {"action": "cancel_runs", "_selected_action": [runs[0].run_id], "select_across": "1"}
    said = []
    for _ in range(3):
        answer = browser.post(f"{RUNS}?q={node_id}", data, follow=True)
        said.append(answer.content.decode())
    assert ["Deadlines cancelled: 2" in page for page in said] == [True, True, False]
    assert ["Only the first 2 were looked at" in page for page in said] == [True, False, False]
    assert {row(house, run).state for run in runs} == {RunState.CANCELLED}


def test_a_failure_is_told_with_what_was_not_tried(
    house: House, browser: Any, started: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from node_timeout.domain.errors import LedgerUnavailableError

    run = started()

    def fails(*_: Any, **__: Any) -> int:
        raise LedgerUnavailableError("the database is away")

    monkeypatch.setattr(house.client().changes, "cancel", fails)
    page = act(browser, "cancel_runs", run)
    assert "he database is away" in page, "with a capital"
    assert "Not tried: 1" in page
    assert "Not in a state for that" not in page


def test_fixtures_do_not_bring_rows(house: House, started: Any, tmp_path: Path) -> None:
    """What `dumpdata` writes of these tables, `loaddata` refuses."""
    from django.core.management import call_command
    from django.test import override_settings

    run = started()
    dump = tmp_path / "dump.json"
    call_command("dumpdata", "node_timeout_bamboo.timeoutnodeconfig", output=str(dump))
    assert run.node_id in dump.read_text(encoding="utf-8")
    with pytest.raises(TypeError, match="written by node-timeout alone"):
        call_command("loaddata", str(dump))
    with override_settings(NODE_TIMEOUT={"enabled": False}):
        call_command("dumpdata", "node_timeout_bamboo", output=str(dump))
    assert run.node_id not in dump.read_text(encoding="utf-8"), "no table is looked for"


def test_configs_of_one_node_id_in_two_pipelines_are_two(house: House, started: Any) -> None:
    from node_timeout.contrib.bamboo.models import TimeoutNodeConfig

    node_id = f"admin-shared{next(NUMBERS)}"
    for _ in range(2):
        started(node_id=node_id)
    assert len(set(TimeoutNodeConfig.objects.filter(node_id=node_id))) == 2


def test_who_may_look_may_not_steer(house: House, started: Any) -> None:
    from django.contrib.auth.models import Permission, User
    from django.test import Client, override_settings

    reader = User.objects.create_user("reader", is_staff=True)
    reader.user_permissions.add(Permission.objects.get(codename="view_timeoutnoderun"))
    run = started()
    with override_settings(ALLOWED_HOSTS=["*"]):
        browser = Client()
        assert browser.get(RUNS).status_code == 302, "to the login"
        browser.force_login(reader)
        page = browser.get(f"{RUNS}?q={run.node_id}").content.decode()
        assert run.node_id in page
        assert "cancel_runs" not in page
        act(browser, "cancel_runs", run)
        assert row(house, run).state is RunState.ARMED
        assert browser.get(CONFIGS).status_code == 403
        assert browser.get(f"{RUNS}add/").status_code == 403
        assert browser.post(f"{RUNS}{run.run_id}/delete/").status_code == 403


def test_the_pages_speak_chinese(house: House, browser: Any, started: Any) -> None:
    run = started()
    page = browser.get(f"{RUNS}?q={run.node_id}", HTTP_ACCEPT_LANGUAGE="zh-hans").content.decode()
    for text in ("节点运行", "等待到期", "取消所选运行的时限", "根流水线", "截止时间"):
        assert text in page, text
    assert browser.get(RUNS, HTTP_ACCEPT_LANGUAGE="en").content.decode().count("等待到期") == 0


def test_without_a_ledger_in_the_project_there_are_no_pages(house: House, browser: Any) -> None:
    from django.test import override_settings

    with override_settings(NODE_TIMEOUT={"enabled": False}):
        assert "timeoutnoderun" not in browser.get("/admin/").content.decode()
        for page in (RUNS, CONFIGS, f"{RUNS}x/change/"):
            assert browser.get(page).status_code == 403
    assert "timeoutnoderun" in browser.get("/admin/").content.decode()
