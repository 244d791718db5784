"""What goes wrong in the original, on real bamboo-pipeline: the lines that need one."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from node_timeout.domain.run import DueRun, RunState
from tests.bamboo.house import BAMBOO_APP, OWN_APP, ROOT, House, fail, skip


@pytest.fixture(autouse=True)
def workers(house: House) -> None:
    house.ensure_workers()


def test_01_the_app_is_connected_once_django_is_set_up(house: House) -> None:
    code = (
        "import django; django.setup(); from pipeline.eri.signals import post_set_state;"
        " print(len(post_set_state.receivers), 'receivers')"
    )
    for app, expected in ((OWN_APP, 1), (BAMBOO_APP, 0)):
        found = subprocess.run(
            [sys.executable, "-c", code],
            env=house.env | {"BAMBOO_TEST_APPS": json.dumps([app])},
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        )
        assert f"{expected} receivers" in found.stdout


def test_03_forced_fail_and_skip_skips_in_the_engine(house: House) -> None:
    node = house.activity(seconds=60)
    root = house.run(house.tree(node), {node.id: skip(1)})
    house.wait_for(root, "FINISHED")
    assert house.state(node.id).skip


def test_16_a_node_that_waits_to_be_retried_is_left_alone(house: House) -> None:
    """The original struck nodes in any state of their version."""
    node = house.activity(seconds=60)
    house.run(house.tree(node), {node.id: fail(3)})
    row = house.wait(lambda: house.rows(node.id))[0]
    house.act("pause_node_appoint", node_id=node.id)
    pool = house.client().pool
    assert pool.arm(DueRun(run_id=row.run_id, due_at=pool.now())), "an entry that was left behind"
    time.sleep(2)
    assert house.name(node.id) == "SUSPENDED"


def test_19_a_node_failed_by_hand_leaves_no_entry_behind(house: House) -> None:
    from django.conf import settings

    node = house.activity(seconds=60)
    house.run(house.tree(node), {node.id: fail(60)})
    row = house.wait(lambda: house.rows(node.id))[0]
    house.wait(lambda: settings.redis_inst.zscore("executing_node_pool", row.run_id))
    house.act("forced_fail_activity", node_id=node.id, ex_data="by hand")
    assert house.state(node.id).version != row.version, "the engine has refreshed it"
    assert settings.redis_inst.zscore("executing_node_pool", row.run_id) is None


def test_20_a_node_of_a_revoked_pipeline_is_left_alone(house: House) -> None:
    node = house.activity(seconds=60)
    root = house.run(house.tree(node), {node.id: fail(2)})
    house.wait_for(node.id, "RUNNING")
    house.act("revoke_pipeline", pipeline_id=root)
    house.wait_for_run(node.id, RunState.STALE)
    assert house.name(node.id) == "RUNNING"


def test_22_a_node_retried_in_between_is_not_failed_in_its_new_version(house: House) -> None:
    """See also tests/bamboo/test_faults.py, where the retry holds the row meanwhile."""
    from node_timeout.domain.errors import NodeRunSupersededError
    from node_timeout.engines.bamboo import bamboo_calls
    from tests.bamboo.test_faults import timed_out

    node = house.activity(seconds=60)
    house.run(house.tree(node))
    house.wait_for(node.id, "RUNNING")
    old = timed_out(house, node.id)
    assert bamboo_calls.is_running(old), "checked …"
    house.act("forced_fail_activity", node_id=node.id, ex_data="by hand")
    house.act("retry_node", node_id=node.id)
    house.wait_for(node.id, "RUNNING")
    with pytest.raises(NodeRunSupersededError):
        bamboo_calls.forced_fail(old, "… and acted")
    assert house.name(node.id) == "RUNNING"


def test_24_work_that_goes_on_behind_a_forced_fail_changes_nothing(
    house: House, tmp_path: Path
) -> None:
    """Nothing can stop a thread in a Celery worker; what it does when it ends does no harm."""
    file = tmp_path / "done"
    busy = house.activity("test_busy", seconds=8, file=str(file))
    after = house.activity(seconds=0)
    root = house.run(house.tree(busy, after), {busy.id: skip(2)})
    house.wait_for(root, "FINISHED")
    assert not file.exists(), "the pipeline did not wait for it"
    state = house.state(busy.id)
    house.wait(file.exists)
    time.sleep(1)
    later = house.state(busy.id)
    assert (later.name, later.version, later.skip) == ("FINISHED", state.version, True)
    assert [row.state for row in house.rows(busy.id)] == [RunState.HANDLED]
    assert house.state(after.id).loop == 1
    other = house.run(house.tree(house.activity(seconds=0)))
    house.wait_for(other, "FINISHED")  # the Celery worker works on


@pytest.mark.parametrize(
    ("code", "ask", "outputs_stay", "is_slept"),
    [
        ("test_busy", False, True, False),
        ("test_busy_hooked", False, False, False),
        ("test_busy_poll", False, False, True),
        ("test_busy_poll", True, True, False),
        ("test_busy_poll_hooked", True, False, False),
    ],
)
def test_24_what_work_changes_that_goes_on_behind_a_skip(
    house: House, tmp_path: Path, *, code: str, ask: bool, outputs_stay: bool, is_slept: bool
) -> None:
    """The table in docs/how-to/use-with-bamboo-engine.md: bamboo-engine compares versions when it
    sets a state, and does so neither before a poll nor around a hook.
    """
    from pipeline.eri.models import Process, Schedule

    file = tmp_path / "done"
    node = house.activity(code, seconds=5, file=str(file), ask=ask)
    after = house.activity(seconds=10)
    root = house.run(house.tree(node, after), {node.id: skip(1)})
    house.wait_for(node.id, "FINISHED")
    version = house.handled(node.id).version
    assert house.outputs(node.id)["_forced_failed"] is True
    house.wait(file.exists)
    if is_slept:
        schedules = Schedule.objects.filter(node_id=node.id, version=version, expired=True)
        house.wait(schedules.exists)
    house.wait_for(root, "FINISHED")
    assert ("_forced_failed" in house.outputs(node.id)) is outputs_stay
    assert Schedule.objects.filter(node_id=node.id).exists() is is_slept
    assert (house.name(node.id), house.state(node.id).skip) == ("FINISHED", True)
    assert [row.state for row in house.rows(node.id)] == [RunState.HANDLED]
    assert house.state(after.id).loop == 1
    house.wait(lambda: not Process.objects.filter(root_pipeline_id=root, dead=False).exists())


def test_24_a_poll_that_goes_on_puts_the_process_of_the_next_node_to_sleep(
    house: House, tmp_path: Path
) -> None:
    from pipeline.eri.models import Process

    file = tmp_path / "done"
    node = house.activity("test_busy_poll", seconds=5, file=str(file))
    after = house.activity("test_busy", seconds=12, file=str(tmp_path / "after"))
    root = house.run(house.tree(node, after), {node.id: skip(1)})
    house.wait(file.exists)
    assert house.name(after.id) == "RUNNING"
    house.wait(lambda: Process.objects.filter(current_node_id=after.id, asleep=True).exists())
    assert house.name(after.id) == "RUNNING", "and yet it is executed"
    house.wait_for(root, "FINISHED")


def test_24_a_component_learns_that_it_was_failed(house: House, tmp_path: Path) -> None:
    """Its hook is called, so that it can end what it has begun elsewhere."""
    notes = tmp_path / "notes"
    node = house.activity("test_hooked", seconds=60, file=str(notes))
    house.run(house.tree(node), {node.id: fail(2)})
    house.wait_for(node.id, "FAILED")
    assert notes.read_text(encoding="utf-8") == "failed\n"
