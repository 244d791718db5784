"""Real bamboo-pipeline, real Celery workers, RabbitMQ, Redis, and MariaDB or PostgreSQL.

A tour: what becomes of a node that overruns, of one that does not, and of one that its users
retry, suspend, revoke, or whose worker is killed at the worst moment.
"""

import statistics
import time
from pathlib import Path

import pytest

from node_timeout.domain.run import RunState
from tests.bamboo.house import House, fail, skip


@pytest.fixture(autouse=True)
def workers(house: House) -> None:
    house.ensure_workers()


def test_a_node_that_overruns_is_failed(house: House) -> None:
    node = house.activity(seconds=60)
    house.run(house.tree(node), {node.id: fail(2)})
    house.wait_for(node.id, "RUNNING")
    version = house.state(node.id).version
    house.wait_for(node.id, "FAILED")
    assert house.outputs(node.id)["_forced_failed"] is True
    assert version in house.outputs(node.id)["ex_data"]
    row = house.handled(node.id)
    assert (row.version, row.message) == (version, "failed")
    assert row.finished_at >= row.deadline, "never early"
    assert row.deadline == pytest.approx(row.started_at + 2)


def test_under_fail_and_skip_the_pipeline_goes_on_and_finishes(house: House) -> None:
    hanging, after = house.activity(seconds=60), house.activity(seconds=0)
    root = house.run(house.tree(hanging, after), {hanging.id: skip(2)})
    house.wait_for(root, "FINISHED")
    assert house.state(hanging.id).skip
    assert house.name(hanging.id) == house.name(after.id) == "FINISHED"
    house.wait_for_run(hanging.id, RunState.HANDLED)
    assert house.row(hanging.id).message == "failed and skipped"


def test_a_node_that_finishes_in_time_is_untouched(house: House) -> None:
    node = house.activity(seconds=0)
    root = house.run(house.tree(node), {node.id: fail(30)})
    house.wait_for(root, "FINISHED")
    house.wait_for_run(node.id, RunState.CANCELLED)
    assert not house.state(node.id).skip
    assert "_forced_failed" not in house.outputs(node.id)


def test_a_retried_node_has_a_fresh_deadline_and_the_old_one_never_strikes(house: House) -> None:
    node = house.activity(seconds=60)
    house.run(house.tree(node), {node.id: fail(4)})
    house.wait_for(node.id, "RUNNING")
    first = house.state(node.id).version
    time.sleep(2)
    house.act("forced_fail_activity", node_id=node.id, ex_data="by hand")
    house.act("retry_node", node_id=node.id)
    house.wait_for(node.id, "RUNNING")
    second = house.state(node.id).version
    rows = house.wait(lambda: rows if len(rows := house.rows(node.id)) == 2 else None)
    old, new = (next(row for row in rows if row.version == v) for v in (first, second))
    assert old.state is RunState.CANCELLED
    assert new.deadline > old.deadline + 1.5, "fresh"
    house.wait_for(node.id, "FAILED")
    assert second in house.outputs(node.id)["ex_data"]
    rows = {row.version: row for row in house.rows(node.id)}
    assert rows[first].state is RunState.CANCELLED
    assert rows[first].attempts == 0


def test_a_node_inside_a_sub_process(house: House) -> None:
    from bamboo_engine.builder import Data, EmptyEndEvent, EmptyStartEvent, SubProcess

    inner = house.activity(seconds=60)
    start = EmptyStartEvent()
    start.extend(inner).extend(EmptyEndEvent())
    root = house.run(house.tree(SubProcess(start=start, data=Data())), {inner.id: skip(2)})
    house.wait_for(root, "FINISHED")
    assert house.state(inner.id).skip


def test_a_node_inside_a_sub_canvas(house: House) -> None:
    from bamboo_engine import builder

    if not hasattr(builder, "SubCanvas"):
        pytest.skip("bamboo-engine 4 brought the sub-canvas")
    inner = house.activity(seconds=60)
    start = builder.EmptyStartEvent()
    start.extend(inner).extend(builder.EmptyEndEvent())
    canvas = builder.SubCanvas(start=start, data=builder.Data())
    root = house.run(house.tree(canvas), {inner.id: skip(2)})
    house.wait_for(root, "FINISHED")
    assert house.state(inner.id).skip


def test_a_suspended_node_is_left_alone_and_struck_when_it_is_resumed(house: House) -> None:
    first, node = house.activity(seconds=2), house.activity(seconds=60)
    root = house.run(house.tree(first, node), {node.id: fail(2)})
    house.act("pause_node_appoint", node_id=node.id)
    house.wait_for(first.id, "FINISHED")
    time.sleep(3)
    assert house.name(node.id) == "SUSPENDED"
    assert house.rows(node.id) == [], "its time has not begun"
    house.act("resume_node_appoint", node_id=node.id)
    house.wait_for(node.id, "FAILED")
    assert house.name(root) == "RUNNING"


def test_a_node_suspended_while_it_runs_keeps_the_time_it_has_left(house: House) -> None:
    node = house.activity(seconds=60)
    house.run(house.tree(node), {node.id: fail(4)})
    house.wait_for(node.id, "RUNNING")
    first = house.wait(lambda: house.rows(node.id))[0]
    time.sleep(1)
    house.act("pause_node_appoint", node_id=node.id)
    house.wait_for_run(node.id, RunState.PAUSED)
    suspended = time.time()
    time.sleep(4)
    assert house.name(node.id) == "SUSPENDED", "its deadline has passed meanwhile"
    # bamboo-engine lets a polling node that was suspended lie; a project may set it going again.
    from pipeline.eri.runtime import BambooDjangoRuntime

    runtime = BambooDjangoRuntime()
    runtime.set_state(node_id=node.id, to_state="READY")
    runtime.set_state(node_id=node.id, to_state="RUNNING")
    resumed = time.time()
    row = house.row(node.id)
    assert row.version == first.version
    assert row.deadline == pytest.approx(first.deadline + resumed - suspended, abs=0.7)
    house.wait_for(node.id, "FAILED")


def test_a_revoked_pipeline_is_left_alone(house: House) -> None:
    node = house.activity(seconds=60)
    root = house.run(house.tree(node), {node.id: fail(3)})
    house.wait_for(node.id, "RUNNING")
    house.act("revoke_pipeline", pipeline_id=root)
    house.wait_for_run(node.id, RunState.STALE)
    assert house.name(node.id) == "RUNNING", "as bamboo-engine left it"
    assert house.name(root) == "REVOKED"


def test_a_node_that_must_not_be_skipped_is_failed_and_that_is_told(house: House) -> None:
    node = house.activity(seconds=60)
    node.skippable = False
    house.run(house.tree(node), {node.id: skip(2)})
    house.wait_for(node.id, "FAILED")
    row = house.handled(node.id)
    assert row.message == "failed, not skipped: can not skip this node"
    assert row.attempts == 1, "no retry loop"


def test_the_worker_killed_between_fail_and_skip(house: House, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    (tmp_path / "notes.kill").touch()
    hanging = house.activity("test_hooked", seconds=60, file=str(notes))
    root = house.run(house.tree(hanging), {hanging.id: skip(2)})
    house.wait(lambda: not (tmp_path / "notes.kill").exists())
    house.wait(lambda: any(worker.popen.poll() is not None for worker in house.workers))
    assert house.name(root) == "RUNNING"
    house.ensure_workers()
    house.wait_for(root, "FINISHED", 60)
    assert house.state(hanging.id).skip
    house.wait_for_run(hanging.id, RunState.HANDLED)
    assert house.row(hanging.id).attempts == 2


def test_a_node_with_hooks_is_failed_while_its_inputs_render(house: House, tmp_path: Path) -> None:
    """It has no data for its hook yet, and has begun nothing that the hook could end."""
    from bamboo_engine.builder import Data, Var

    notes, rendered = tmp_path / "notes", tmp_path / "rendered"
    node = house.activity("test_hooked", seconds=60, file=str(notes))
    node.component.inputs.slow = Var(type=Var.SPLICE, value="${slow}")
    data = Data()
    data.inputs["${slow}"] = Var(type=Var.LAZY, custom_type="test_slow", value=str(rendered))
    after = house.activity(seconds=0)
    root = house.run(house.tree(node, after, data=data), {node.id: skip(1)})
    house.wait_for(node.id, "FINISHED")
    row = house.handled(node.id)
    assert (row.attempts, row.message) == (1, "failed and skipped")
    assert not notes.exists(), "nothing was begun, so no hook is called"
    rendered.touch()
    house.wait_for(root, "FINISHED")


def test_a_node_whose_component_the_worker_does_not_have_is_failed(house: House) -> None:
    house.only_worker(BAMBOO_TEST_WITHOUT_GONE="1")
    node = house.activity("test_gone", seconds=60)
    root = house.run(house.tree(node), {node.id: skip(1)})
    house.wait_for(root, "FINISHED")
    row = house.handled(node.id)
    assert (row.attempts, row.message) == (1, "failed and skipped")


def test_a_slow_receiver_holds_up_no_other_node(house: House, tmp_path: Path) -> None:
    """Sixty nodes due at once, and a receiver of the project that takes a second each time."""
    notes = tmp_path / "notes"
    house.only_worker(BAMBOO_TEST_RECEIVER=str(notes))
    nodes = [house.activity(seconds=3600) for _ in range(60)]
    due = time.time() + 25
    for number, node in enumerate(nodes):
        action = skip if number % 2 else fail
        house.run(house.tree(node), {node.id: action(due - time.time())})
    rows = [house.handled(node.id) for node in nodes]
    lateness = max(row.finished_at - row.deadline for row in rows)
    print(f"\n60 nodes, a receiver of a second: the last is {lateness:.1f} s late")
    assert lateness < 3
    for number, node in enumerate(nodes):
        house.wait_for(node.id, "FINISHED" if number % 2 else "FAILED")

    def told(node_id: str) -> list[str]:
        lines = notes.read_text(encoding="utf-8").splitlines()
        return [line.split()[1] for line in lines if line.split()[0] == node_id]

    expected = {
        node.id: ["FAILED", "FINISHED"] if number % 2 else ["FAILED"]
        for number, node in enumerate(nodes)
    }
    house.wait(lambda: all(told(node.id) == expected[node.id] for node in nodes), 90)


def test_a_skip_ends_the_whole_loop(house: House) -> None:
    """The engine goes on behind the node, not with its next turn."""
    node, after = house.activity(seconds=60), house.activity(seconds=0)
    tree = house.tree(node, after)
    tree["activities"][node.id]["loop_config"] = {
        "enable": True,
        "loop_times": 3,
        "fail_skip": True,
        "skippable": True,
    }
    root = house.run(tree, {node.id: skip(1)})
    house.wait_for(root, "FINISHED")
    assert [row.state for row in house.rows(node.id)] == [RunState.HANDLED], "one turn of three"


def test_each_turn_of_a_loop_has_a_deadline_of_its_own(house: House) -> None:
    from bamboo_engine.eri.models import node as nodes

    if not hasattr(nodes, "LoopControlConfig"):
        pytest.skip("bamboo-engine 3.0.7 brought the loops")
    node = house.activity(seconds=0)
    tree = house.tree(node)
    tree["activities"][node.id]["loop_config"] = {"enable": True, "loop_times": 3}
    root = house.run(tree, {node.id: fail(60)})
    house.wait_for(root, "FINISHED")
    rows = house.rows(node.id)
    assert {row.state for row in rows} == {RunState.CANCELLED}
    assert len(rows) == len({row.version for row in rows}) == 3


def test_the_running_node_of_a_paused_pipeline_is_failed(house: House) -> None:
    """Its deadline goes on; what comes behind it waits until the pipeline is resumed."""
    node, after = house.activity(seconds=60), house.activity(seconds=0)
    root = house.run(house.tree(node, after), {node.id: skip(3)})
    house.wait_for(node.id, "RUNNING")
    house.act("pause_pipeline", pipeline_id=root)
    house.wait_for(node.id, "FINISHED")
    row = house.handled(node.id)
    assert row.finished_at - row.deadline < 3
    house.wait(lambda: _is_suspended_by(root, after.id))
    assert house.name(after.id) == ""
    house.act("resume_pipeline", pipeline_id=root)
    house.wait_for(root, "FINISHED")


def _is_suspended_by(root: str, node_id: str) -> bool:
    from pipeline.eri.models import Process

    return bool(
        Process.objects.filter(
            current_node_id=node_id, root_pipeline_id=root, suspended_by=root
        ).exists()
    )


def test_an_event_that_was_lost_is_made_up_for(house: House) -> None:
    """As if the engine had started the node while our stores could not be reached."""
    from django.conf import settings
    from django.db import connection

    node = house.activity(seconds=60)
    house.run(house.tree(node), {node.id: fail(13)})
    row = house.wait(lambda: house.rows(node.id))[0]
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM node_timeout_run WHERE node_id = %s", [node.id])
    assert settings.redis_inst.zrem("executing_node_pool", row.run_id) == 1
    house.wait_for(node.id, "FAILED", 60)
    again = house.row(node.id)
    assert again.deadline == pytest.approx(row.deadline, abs=0.5), "it counts from the start"


def test_200_pipelines_at_once_are_each_dealt_with_exactly_once(house: House) -> None:
    trees = []
    for number in range(200):
        node = house.activity(seconds=0 if number % 10 == 9 else 3600)
        trees.append((house.tree(node), node.id, number))
    for tree, node_id, number in trees:
        seconds = 300 if number % 10 == 9 else 30 + number % 10
        house.run(tree, {node_id: skip(seconds) if number % 2 else fail(seconds)})
    expected = {"FINISHED": 0, "FAILED": 0}
    for _, _, number in trees:
        expected["FINISHED" if number % 2 else "FAILED"] += 1

    def all_closed() -> bool:
        rows = [row for _, node_id, _ in trees for row in house.rows(node_id)]
        return len(rows) == 200 and all(row.finished_at for row in rows)

    house.wait(all_closed, 180)
    rows = [house.row(node_id) for _, node_id, _ in trees]
    states = [row.state for row in rows]
    assert states.count(RunState.HANDLED) == 180
    assert states.count(RunState.CANCELLED) == 20
    handled = [row for row in rows if row.state is RunState.HANDLED]
    assert {row.attempts for row in handled} == {1}, "once"
    assert all(row.finished_at >= row.deadline for row in handled), "never early"
    for tree, node_id, number in trees:
        if number % 2:
            house.wait_for(tree["id"], "FINISHED")
        else:
            assert house.name(node_id) == "FAILED"
            assert house.state(node_id).retry == 0
    lateness = sorted(row.finished_at - row.deadline for row in handled)
    p50, p99 = statistics.median(lateness), lateness[int(len(lateness) * 0.99)]
    print(f"\n200 pipelines: deadline to done, p50 {p50 * 1000:.0f} ms, p99 {p99 * 1000:.0f} ms")
