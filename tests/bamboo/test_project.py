"""One place of settings: the Django project's. Its commands, its tables, its old strategies."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis

from node_timeout.domain.errors import (
    NodeRunSupersededError,
    SettingsError,
    StrategyRefusedError,
)
from node_timeout.domain.run import RunState
from node_timeout.settings import Settings
from node_timeout.testing import FakeEngine
from node_timeout.testing.words import run, timed_out
from tests.bamboo.house import OWN_APP, ROOT, House

MANAGE = [sys.executable, "-m", "django", "node_timeout"]


def bare(house: House, **others: str) -> dict[str, str]:
    """The environment without a setting of ours: all is said by the project."""
    env = {name: value for name, value in house.env.items() if name[:13] != "NODE_TIMEOUT_"}
    return env | {"BAMBOO_TEST_APPS": json.dumps([OWN_APP])} | others


def manage(house: House, *arguments: str, **others: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*MANAGE, *arguments],
        env=bare(house, **others),
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture
def project(house: House) -> Any:
    from node_timeout.contrib.bamboo import project

    return project


def test_what_the_project_says_elsewhere_need_not_be_said_again(
    house: House, project: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from django.conf import settings
    from django.test import override_settings

    client = redis.Redis(host="redis.example", port=6380, db=2, password="p@ss/word")
    said = {
        "PIPELINE_NODE_TIMEOUT_DISPATCH_QUEUE": "dispatch",
        "PIPELINE_NODE_TIMEOUT_HANDLE_QUEUE": "handle",
        "PIPELINE_NODE_TIMEOUT_EXECUTING_POOL": "pool",
        "CELERY_BROKER_URL": "amqp://user:secret@rabbit.example:5673/vhost",
        "redis_inst": client,
    }
    with override_settings(NODE_TIMEOUT={}, **said):
        built = Settings(**project.settings_of_project())
        monkeypatch.setenv("node_timeout_handle_queue", "of-the-environment")
        (tmp_path / "node_timeout_executing_pool").write_text("of-a-secret-file")
        monkeypatch.setenv("NODE_TIMEOUT_SECRETS_DIR", str(tmp_path))
        assert not {"handle_queue", "executing_pool"} & {*project.settings_of_project()}
        assert Settings(**project.settings_of_project()).executing_pool == "of-a-secret-file"
        monkeypatch.undo()
    assert built.dispatch_queue == "dispatch"
    assert built.handle_queue == "handle"
    assert built.executing_pool == "pool"
    assert built.redis_url.get_secret_value() == "redis://:p%40ss%2Fword@redis.example:6380/2"
    assert built.amqp_url.get_secret_value() == said["CELERY_BROKER_URL"]
    assert built.database_url.get_secret_value() == os.environ["BAMBOO_TEST_DATABASE_URL"]
    with override_settings(NODE_TIMEOUT={"executing_pool": "ours"}, **said):
        assert Settings(**project.settings_of_project()).executing_pool == "ours"
    assert "redis.example" not in str(settings.NODE_TIMEOUT)


def test_what_cannot_be_understood_is_left_alone(project: Any) -> None:
    from django.test import override_settings

    sentinels: Any = redis.sentinel.Sentinel
    sentinel = sentinels([("127.0.0.1", 1)]).master_for("service")
    for client in (None, object(), sentinel, redis.Redis(unix_socket_path="/tmp/redis.sock")):
        assert project.redis_url(client) is None
    with override_settings(NODE_TIMEOUT={}, BROKER_URL="redis://127.0.0.1", CELERY_BROKER_URL=None):
        assert "amqp_url" not in project.settings_of_project()
    with (
        override_settings(PIPELINE_NODE_TIMEOUT_HANDLER=["forced_fail"]),
        pytest.raises(SettingsError, match=r"PIPELINE_NODE_TIMEOUT_HANDLER is .*, not a dict"),
    ):
        project.settings_of_project()


class Connection:
    """What is read of one of Django's."""

    def __init__(self, vendor: str, **known: Any) -> None:
        self.vendor, self.alias = vendor, "default"
        nothing = {"NAME": "", "HOST": "", "PORT": "", "USER": "", "PASSWORD": ""}
        self.settings_dict = nothing | known


@pytest.mark.parametrize(
    ("connection", "url"),
    [
        (
            Connection("postgresql", NAME="a/b", USER="u", PASSWORD="p@:/", HOST="db", PORT=1),
            "postgresql://u:p%40%3A%2F@db:1/a%2Fb",
        ),
        (Connection("mysql", NAME="a", USER="u"), "mysql://u@localhost/a"),
        (Connection("sqlite", NAME="/data/a b?.db"), "sqlite:////data/a%20b%3F.db"),
        (Connection("sqlite", NAME=":memory:"), None),
        (Connection("sqlite", NAME="file:memorydb_default?mode=memory&cache=shared"), None),
        (Connection("postgresql", NAME="a", HOST="/run/postgresql"), None),
        (Connection("postgresql", NAME="a", HOST="h1,h2", PORT="1,2"), None),
        (Connection("postgresql", NAME="a", OPTIONS={"sslmode": "verify-full"}), None),
        (Connection("mysql", NAME="a", HOST="::1", PORT=1), "mysql://[::1]:1/a"),
        (Connection("postgresql", NAME=None), None),
        (Connection("oracle", NAME="a"), None),
        (Connection("unknown"), None),
    ],
)
def test_the_url_of_a_database_of_djangos(
    project: Any, connection: Connection, url: str | None
) -> None:
    from node_timeout.contrib.bamboo.own_database import alias_of

    assert project.database_url(connection) == url
    if url:
        assert alias_of(url, [connection]) == "default"


def test_the_command_needs_nothing_of_the_environment(house: House) -> None:
    checked = manage(house, "check", "--engine", "bamboo")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "its database answers" in checked.stdout
    said = manage(house, "list", "--json")
    assert said.returncode == 0, said.stderr
    helped = manage(house, "--help")
    assert "Usage: manage.py node_timeout [OPTIONS] COMMAND" in helped.stdout
    wrong = manage(house, "nonsense")
    assert wrong.returncode == 2
    assert "No such command 'nonsense'" in wrong.stderr


def test_djangos_migrate_makes_our_tables(house: House, request: pytest.FixtureRequest) -> None:
    from tests.bamboo.house import DATABASE

    server = request.getfixturevalue(
        {"mariadb": "mariadb_server", "postgresql": "postgres_server"}[DATABASE]
    )
    url = server.create_database("fresh")

    def migrate(**others: str) -> str:
        found = subprocess.run(
            [sys.executable, "-m", "django", "migrate"],
            env=bare(house, BAMBOO_TEST_DATABASE_URL=url, **others),
            cwd=ROOT,
            check=False,
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert found.returncode == 0, found.stderr
        return found.stdout

    assert "its tables are at revision" not in migrate(
        BAMBOO_TEST_LEDGER_URL=house.env["BAMBOO_TEST_DATABASE_URL"]
    )
    assert "node-timeout: its tables are at revision 0002" in migrate()
    assert "node-timeout: its tables are at revision 0002" in migrate(), "again"
    checked = manage(house, "list", BAMBOO_TEST_DATABASE_URL=url)
    assert checked.returncode == 0, checked.stderr


# Old strategies


async def test_an_old_strategy_is_called_with_the_node_id(house: House, project: Any) -> None:
    from django.test import override_settings

    from node_timeout.contrib.bamboo_daemon.old_strategies import OldStrategy
    from tests.bamboo.project.old import Note, Refuse

    node = replace(timed_out("n", "1"), action="note")
    note = Note()
    with override_settings(PIPELINE_NODE_TIMEOUT_HANDLER={"note": note, "refuse": Refuse}):
        result = await OldStrategy(FakeEngine([node.run])).deal_with_timeout_node(node)
        assert (result.result, result.message) == (True, "noted")
        refused = replace(node, action="refuse")
        result = await OldStrategy(FakeEngine([node.run])).deal_with_timeout_node(refused)
        assert (result.result, result.message) == (False, "not now")
        with pytest.raises(NodeRunSupersededError):
            await OldStrategy(FakeEngine([run("n", "2")])).deal_with_timeout_node(node)
        with pytest.raises(StrategyRefusedError, match="has no action 'gone'"):
            await OldStrategy(FakeEngine()).deal_with_timeout_node(replace(node, action="gone"))
    assert note.noted == ["n"]


def test_old_strategies_are_known_by_their_actions(project: Any) -> None:
    from django.test import override_settings
    from pipeline.contrib.node_timeout import handlers

    from tests.bamboo.project.old import Note

    old = handlers.node_timeout_handler | {"note": Note()}
    with override_settings(PIPELINE_NODE_TIMEOUT_HANDLER=old):
        built = Settings(**project.settings_of_project())
    assert built.handlers == {"note": project.OLD_STRATEGY}


def test_an_old_strategy_deals_with_a_node_of_the_engine(house: House) -> None:
    """Its action is known where configs are stored, and to a worker started by Django's command."""
    from django.test import override_settings

    from tests.bamboo.project.old import FailByHand

    only = {"NODE_TIMEOUT_ENGINE": "bamboo", "BAMBOO_TEST_OLD_HANDLER": "yes"}
    worker = house.only_worker(command=[*MANAGE, "worker"], **only)
    try:
        node = house.activity(seconds=60)
        tree = house.tree(node)
        with override_settings(PIPELINE_NODE_TIMEOUT_HANDLER={"by_hand": FailByHand()}):
            config = {"enable": True, "action": "by_hand", "seconds": 2}
            house.run(tree, {node.id: config})
        house.wait_for(node.id, "FAILED")
        row = house.handled(node.id)
        assert (row.state, row.action) == (RunState.HANDLED, "by_hand")
        assert house.outputs(node.id)["ex_data"] == "failed by hand"
    finally:
        assert worker.stop() == 0
        house.workers = []
