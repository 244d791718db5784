"""Celery's pools gevent and eventlet, and a process that either has patched later: refused.

The bridge's event loop would be a greenlet of the thread that runs the engine, and Django takes
every query of that thread for one inside an event loop.
"""

import json
import subprocess
import sys

import pytest

from tests.bamboo.house import OWN_APP, PROJECT, ROOT, House, fail

LIBRARIES = ("gevent", "eventlet")
PATCH = {
    "gevent": "import gevent.monkey; gevent.monkey.patch_all()",
    "eventlet": "import eventlet; eventlet.monkey_patch()",
}


@pytest.mark.parametrize("library", LIBRARIES)
def test_celery_refuses_to_start_and_loses_no_task(house: House, library: str) -> None:
    """It ends before it takes a task; a worker with another pool carries them out."""
    node = house.activity(seconds=0)
    root = house.run(house.tree(node), {node.id: fail(60)}, queue="dropin")
    command = [sys.executable, "-m", "celery", "-A", PROJECT, "worker", "-P", library, "-c", "3"]
    queues = "er_execute_dropin,er_schedule_dropin"
    refused = subprocess.run(
        [*command, "-Q", queues, "-n", f"{library}@test", "--without-mingle", "--without-gossip"],
        env=house.env,
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
    celery = house.start_celery(queues)
    house.wait_for(root, "FINISHED")
    assert celery.stop() == 0


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("called_before", [False, True])
def test_a_process_patched_later_keeps_its_engine(
    house: House, library: str, *, called_before: bool
) -> None:
    """Nothing of ours is called, whether or not its event loop runs already; that is said once."""
    node = house.activity(seconds=60)
    house.run(house.tree(node), {node.id: fail(60)})
    house.wait_for(node.id, "RUNNING")
    code = f"""
import django; django.setup()
from django.db import connections
from node_timeout.contrib.bamboo import client
from node_timeout.errors import GreenThreadsError
from node_timeout import metrics
from pipeline.eri.models import State
from pipeline.eri.runtime import BambooDjangoRuntime
if {called_before}:
    client().rows("nobody")
connections["default"].close()
del connections["default"]  # it knows its thread by a number that patching changes
{PATCH[library]}
for state in ("SUSPENDED", "READY", "RUNNING"):
    BambooDjangoRuntime().set_state(node_id={node.id!r}, to_state=state)
try:
    client().rows("nobody")
except GreenThreadsError as error:
    print("refused:", error)
print("states:", State.objects.filter(node_id={node.id!r}).count())
print("missed:", metrics.EVENTS_MISSED._value.get())
"""
    found = subprocess.run(
        [sys.executable, "-c", code],
        env=house.env | {"BAMBOO_TEST_APPS": json.dumps([OWN_APP])},
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert found.returncode == 0, found.stderr
    assert f"refused: {library} has replaced" in found.stdout
    assert "states: 1" in found.stdout
    assert "missed: 2.0" in found.stdout, "of RUNNING and SUSPENDED"
    assert found.stderr.count(f"{library} has replaced") == 1, "said once"
