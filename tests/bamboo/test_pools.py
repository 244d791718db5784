"""Celery's pools. Over Django's own connection all of them work.

With a ledger elsewhere ``threads`` works as ``prefork`` does, and ``gevent`` and ``eventlet`` are
refused: in a process that one of those has patched, the bridge's event loop would be a greenlet of
the engine's thread, and Django takes every query of that thread for one inside an event loop.
"""

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from node_timeout.domain.run import RunState
from tests.bamboo.house import DATABASE, OWN_APP, PROJECT, ROOT, House, elsewhere, fail

POOLS_QUEUES = "er_execute_pools,er_schedule_pools"
LIBRARIES = ("gevent", "eventlet")
PATCH = {
    "gevent": "import gevent.monkey; gevent.monkey.patch_all()",
    "eventlet": "import eventlet; eventlet.monkey_patch()",
}


@pytest.mark.parametrize("pool", ["threads", *LIBRARIES])
def test_every_pool_works_without_a_connection_of_ours(house: House, pool: str) -> None:
    """Thirty threads or greenlets of one Celery process change states; a third overruns."""
    house.ensure_workers()
    with house.celery(POOLS_QUEUES, pool=("-P", pool, "-c", "30"), PGAPPNAME="django") as celery:
        nodes = [house.activity(seconds=60 if i % 3 == 0 else 1) for i in range(60)]
        roots = [
            house.run(house.tree(node), {node.id: fail(90 if i % 3 else 5)}, queue="pools")
            for i, node in enumerate(nodes)
        ]
        most = 0
        for node in nodes[::3]:
            while house.name(node.id) != "FAILED":
                most = max(most, _connections_of_ours(celery.popen.pid))
        assert most == 0
        for i, root in enumerate(roots):
            if i % 3:
                house.wait_for(root, "FINISHED", 80)
        for i, node in enumerate(nodes):
            (row,) = house.rows(node.id)
            assert row.state is (RunState.CANCELLED if i % 3 else RunState.HANDLED)
            assert row.attempts == (0 if i % 3 else 1)
        assert celery.stop() == 0


@pytest.mark.parametrize("library", LIBRARIES)
def test_celery_refuses_to_start_and_loses_no_task(house: House, library: str) -> None:
    """It ends before it takes a task; a worker with another pool carries them out."""
    node = house.activity(seconds=0)
    root = house.run(house.tree(node), {node.id: fail(60)}, queue="pools")
    command = [sys.executable, "-m", "celery", "-A", PROJECT, "worker", "-P", library, "-c", "3"]
    refused = subprocess.run(
        [
            *command,
            "-Q",
            POOLS_QUEUES,
            "-n",
            f"{library}@test",
            "--without-mingle",
            "--without-gossip",
        ],
        env=house.env | elsewhere(house),
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    output = refused.stdout + refused.stderr
    assert refused.returncode != 0, output
    last = output.strip().splitlines()[-1]
    assert f"{library} has replaced" in last, output
    assert "--pool prefork" in last
    assert "ready." not in output
    assert house.name(node.id) == "", "not begun, so not lost"
    with house.celery(POOLS_QUEUES, pool=("-c", "3"), **elsewhere(house)) as celery:
        house.wait_for(root, "FINISHED")
        assert celery.stop() == 0


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("called_before", [False, True])
@pytest.mark.parametrize("is_elsewhere", [False, True])
def test_a_process_patched_later_keeps_its_engine(
    house: House, library: str, *, called_before: bool, is_elsewhere: bool
) -> None:
    """With a ledger elsewhere nothing of ours is called, whether or not its event loop runs, and
    that is said once; over Django's own connection all is recorded.
    """
    node = house.activity(seconds=60)
    house.run(house.tree(node), {node.id: fail(60)})
    house.wait_for(node.id, "RUNNING")
    code = f"""
import django; django.setup()
from django.db import connections
from node_timeout.contrib.bamboo import client
from node_timeout.domain.errors import GreenThreadsError
from node_timeout import metrics
from pipeline.eri.models import State
from pipeline.eri.runtime import BambooDjangoRuntime
if {called_before}:
    client().find()
connections["default"].close()
del connections["default"]  # it knows its thread by a number that patching changes
{PATCH[library]}
for state in ("SUSPENDED", "READY", "RUNNING"):
    BambooDjangoRuntime().set_state(node_id={node.id!r}, to_state=state)
if not {is_elsewhere}:
    print("rows:", client().rows("nobody"))
try:
    client().find()
except GreenThreadsError as error:
    print("refused:", error)
print("states:", State.objects.filter(node_id={node.id!r}).count())
print("missed:", metrics.EVENTS_MISSED._value.get())
"""
    found = subprocess.run(
        [sys.executable, "-c", code],
        env=house.env
        | {"BAMBOO_TEST_APPS": json.dumps([OWN_APP])}
        | (elsewhere(house) if is_elsewhere else {}),
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert found.returncode == 0, found.stderr
    assert f"refused: {library} has replaced" in found.stdout
    assert "states: 1" in found.stdout
    if is_elsewhere:
        assert "missed: 2.0" in found.stdout, "of RUNNING and SUSPENDED"
        assert found.stderr.count(f"{library} has replaced") == 1, "said once"
    else:
        assert "rows: []" in found.stdout, "the bridge alone is refused"
        assert "missed: 0.0" in found.stdout
        assert f"{library} has replaced" not in found.stderr
        assert house.row(node.id).state is RunState.ARMED


def test_threads_share_one_event_loop_and_a_few_connections(house: House) -> None:
    """Thirty threads of one Celery process change states; fifteen connections are ours at most."""
    house.ensure_workers()
    with house.celery(
        POOLS_QUEUES,
        pool=("-P", "threads", "-c", "30"),
        PGAPPNAME="django",
        **elsewhere(house),
    ) as celery:
        nodes = [house.activity(seconds=60) for _ in range(60)]
        for node in nodes:
            house.run(house.tree(node), {node.id: fail(5)}, queue="pools")
        most = 0
        while any(house.name(node.id) != "FAILED" for node in nodes):
            most = max(most, _connections_of_ours(celery.popen.pid))
        print(f"\n-P threads: {most} connections of ours at most")
        assert {row.attempts for node in nodes for row in house.rows(node.id)} == {1}
        assert most <= 15
        assert most or DATABASE != "postgresql"
        assert celery.stop() == 0


def _connections_of_ours(pid: int) -> int:
    """Connections of this process that have no name; where the database tells nothing, 0.

    A connection that is being opened is not counted: it shows neither its name nor a state yet. Nor
    is a socket to another server: its local port may be that of a connection of another process.
    """
    from django.db import connection

    if connection.vendor != "postgresql":
        return 0
    sockets = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed since it was listed
            sockets.add(link.readlink().name)
    database = int(connection.settings_dict["PORT"])
    ports = []
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        here, there = (int(fields[i].split(":")[1], 16) for i in (1, 2))
        if there == database and f"socket:[{fields[9]}]" in sockets:
            ports.append(here)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE application_name = '' AND client_port = ANY(%s) AND state <> 'starting'",
            [ports],
        )
        ((count,),) = cursor.fetchall()
    return int(count)
