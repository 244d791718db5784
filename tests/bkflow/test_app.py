"""The app by itself: what it imports, what it says where something is missing, its admin pages."""

import subprocess
from pathlib import Path

import pytest

from tests.bkflow.house import PYTHON, ROOT, Hands, House, environments, migrated, wait
from tests.servers import MariadbServer, RabbitServer, RedisServer

IMPORT_ALL = """
import importlib, pkgutil, sys, django
django.setup()
import node_timeout
names = [each.name for each in pkgutil.walk_packages(node_timeout.__path__, "node_timeout.")]
for name in names:
    importlib.import_module(name)
absent = {"pydantic", "sqlalchemy", "alembic", "aio_pika", "httpx", "click_default_group", "rich"}
print(len(names), sorted(absent & {*sys.modules}), "redis.asyncio" in sys.modules)
"""


def python(code: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PYTHON, "-c", code], env=env, cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_every_module_is_imported_on_python_39(house: House) -> None:
    found = python(IMPORT_ALL, house.project)
    assert found.returncode == 0, found.stderr
    count, rest = found.stdout.splitlines()[-1].split(maxsplit=1)
    assert int(count) > 50
    assert rest == "[] False"


def test_both_distributions_together_stop_the_start(house: House, tmp_path: Path) -> None:
    metadata = tmp_path / "node_timeout-0.1.0.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: node-timeout\nVersion: 0.1.0\n")
    env = house.project | {"PYTHONPATH": f"{ROOT}:{tmp_path}"}
    found = python("import django; django.setup()", env)
    assert found.returncode != 0
    assert "node-timeout and node-timeout-bamboo are both installed" in found.stderr


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("from node_timeout import NodeTimeout", "NodeTimeout is not part of node-timeout-bamboo"),
        ("from node_timeout import nothing", "cannot import name 'nothing'"),
    ],
)
def test_what_is_not_here_is_named(house: House, code: str, says: str) -> None:
    found = python(code, house.project)
    assert found.returncode != 0
    assert says in found.stderr


def test_calls_that_need_the_daemons_package_say_so(house: House, hands: Hands) -> None:
    assert "status() is not part of node-timeout-bamboo" in hands.try_call("status")
    found = house.run(PYTHON, "-m", "django", "node_timeout", "scan", env=house.project)
    assert found.returncode != 0
    assert "manage.py node_timeout is not part of node-timeout-bamboo" in found.stderr


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("NODE_TIMEOUT_POOL_SHARDS", "0", "POOL_SHARDS: is not a whole number from 1 to 1000"),
        ("NODE_TIMEOUT_MIN_SECONDS", "9e9", "MIN_SECONDS: is not a number from 0 to"),
        ("NODE_TIMEOUT_EXECUTING_POL", "p", "did you mean NODE_TIMEOUT_EXECUTING_POOL?"),
        ("BAMBOO_TEST_REDIS_URL", "redis+cluster://127.0.0.1:1", "names a cluster of Redis"),
        ("BAMBOO_TEST_LEDGER_URL", "mysql://u@elsewhere/x", "names no database of this project"),
    ],
)
def test_a_wrong_setting_stops_the_start(
    house: House, variable: str, value: str, says: str
) -> None:
    found = python("import django; django.setup()", house.project | {variable: value})
    assert found.returncode != 0
    assert says in found.stderr


VALUES = """
from dataclasses import FrozenInstanceError, asdict, replace
from node_timeout.domain.run import DueRun, LedgerRow, RunState
from node_timeout.domain.events import NodeLeft

row = LedgerRow(root_pipeline_id="r", node_id="n", version="v", state=RunState.ARMED)
assert row == LedgerRow(**asdict(row)) and hash(row) == hash(replace(row))
assert replace(row, message="m").message == "m" and row.message is None
assert f"{row.state}" == str(row.state) == "armed" == row.state
assert NodeLeft.of(row.run, remember=True).remember is True
for wrong in (
    lambda: LedgerRow(root_pipeline_id="r", node_id="n", version="v"),
    lambda: DueRun(run_id="r", due_at=1.0, other=1),
    lambda: DueRun("r", 1.0),
):
    try:
        wrong()
    except TypeError as error:
        print(error)
try:
    row.message = "changed"
except FrozenInstanceError as error:
    print(error)
"""


def test_values_are_frozen_and_built_by_keyword(house: House) -> None:
    found = python(VALUES, house.project)
    assert found.returncode == 0, found.stderr
    assert found.stdout.splitlines() == [
        "LedgerRow lacks 'state'",
        "DueRun has no 'other'",
        "_by_keyword() takes 1 positional argument but 3 were given",
        "cannot assign to field 'message'",
    ]


def test_a_secret_file_is_read(house: House, tmp_path: Path) -> None:
    (tmp_path / "node_timeout_pool_shards").write_text("none\n")
    env = house.project | {"NODE_TIMEOUT_SECRETS_DIR": str(tmp_path)}
    found = python("import django; django.setup()", env)
    assert "POOL_SHARDS: is not a whole number" in found.stderr
    right = python("import django; django.setup()", env | {"NODE_TIMEOUT_POOL_SHARDS": "2"})
    assert right.returncode == 0, "the environment wins"


def test_without_its_tables_a_state_change_is_a_counted_and_logged_miss(
    house: House,
    mariadb_server: MariadbServer,
    redis_server: RedisServer,
    rabbit_server: RabbitServer,
) -> None:
    url = mariadb_server.create_database("bare")
    bare = House(house.directory, *environments(house.directory, url, redis_server, rabbit_server))
    found = bare.run(PYTHON, "-m", "django", "migrate", env=bare.project)
    assert (
        "its tables are missing, and nothing is recorded: run node-timeout migrate" in found.stdout
    )
    with bare.hands() as hands:
        before = hands.tell("READY", "n", "root")
        assert hands.tell("RUNNING", "n", "root") == before + 1
        (line,) = [line for line in hands.log.splitlines() if "was not recorded" in line]
        assert "are its tables made? node-timeout migrate" in line
        assert "its tables are missing" in migrated(bare)
        assert "its tables are here" in migrated(bare)
        assert hands.tell("FINISHED", "n", "root") == before + 1


def test_the_admin_pages_work_on_django_32(hands: Hands) -> None:
    made = hands.run("forced_fail", 600)
    runs = wait(lambda: hands.runs(made["node_id"]))
    pages = "/admin/node_timeout_bamboo/timeoutnode"
    status, page = hands.look(f"{pages}run/")
    assert status == 200
    assert made["node_id"] in page
    status, page = hands.look(f"{pages}config/?q={made['node_id']}")
    assert status == 200
    assert made["root"] in page
    run_id = hands.run_id(made["root"], made["node_id"], runs[0]["version"])
    status, page = hands.look(f"{pages}run/{run_id}/change/")
    assert status == 200
    status, page = hands.look(
        f"{pages}run/", action="cancel_runs", _selected_action=run_id, reason="a test"
    )
    assert status == 200
    assert [run["state"] for run in hands.runs(made["node_id"])] == ["cancelled"]
