"""The worst moments: between commit and message, in a database's restart, in a user's retry."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from node_timeout.domain.errors import (
    EngineUnavailableError,
    NodeRunSupersededError,
    TemporaryError,
)
from node_timeout.domain.run import RunState, TimedOutNode
from tests.bamboo.house import House, fail, skip


@pytest.fixture(autouse=True)
def workers(house: House) -> None:
    house.ensure_workers()


def timed_out(house: House, node_id: str, action: str = "forced_fail") -> TimedOutNode:
    state = house.state(node_id)
    return TimedOutNode(
        node_id=node_id,
        version=state.version,
        root_pipeline_id=state.root_id,
        action=action,
        deadline=0.0,
        attempt=1,
    )


def test_a_worker_killed_before_it_sends_the_pipeline_on(house: House, tmp_path: Path) -> None:
    """The skip is committed, its message is not sent: nobody else would ever send it."""
    fault = tmp_path / "fault"
    worker = house.only_worker(BAMBOO_TEST_FAULT=str(fault))
    hanging, after = house.activity(seconds=60), house.activity(seconds=0)
    root = house.run(house.tree(hanging, after), {hanging.id: skip(3)})
    house.wait_for(hanging.id, "RUNNING")
    fault.write_text("kill")
    assert worker.wait(30) == -9
    assert house.name(hanging.id) == "FINISHED", "committed"
    assert house.name(after.id) == "", "and yet the pipeline stands"
    house.ensure_workers()
    house.wait_for(root, "FINISHED", 60)
    row = house.handled(hanging.id)
    assert row.message == "failed and skipped before, sent on again"
    assert house.state(after.id).loop == 1, "it ran once"


def test_a_broker_that_is_down_at_the_skip_is_waited_for(house: House, tmp_path: Path) -> None:
    fault = tmp_path / "fault"
    house.only_worker(BAMBOO_TEST_FAULT=str(fault))
    hanging = house.activity(seconds=60)
    root = house.run(house.tree(hanging), {hanging.id: skip(3)})
    house.wait_for(hanging.id, "RUNNING")
    fault.write_text("raise")
    row = house.wait(lambda: [r for r in house.rows(hanging.id) if "broker" in (r.message or "")])[
        0
    ]
    assert row.message
    assert "bamboo's broker: planted" in row.message
    fault.unlink()
    house.wait_for(root, "FINISHED")
    house.wait_for_run(hanging.id, RunState.HANDLED)


def in_thread(forced_fail: Callable[[TimedOutNode, str], str], node: TimedOutNode) -> str:
    """With a connection of its own."""
    from django.db import connections

    try:
        return forced_fail(node, "meanwhile")
    finally:
        connections.close_all()


def test_a_node_retried_while_it_is_being_failed_is_not_failed(house: House) -> None:
    """Check and act are one step: while a retry holds the State row, no act goes past it."""
    from django.db import transaction
    from pipeline.eri.models import State

    from node_timeout.engines.bamboo import bamboo_calls

    node = house.activity(seconds=60)
    house.run(house.tree(node))
    house.wait_for(node.id, "RUNNING")
    old = timed_out(house, node.id)
    assert bamboo_calls.is_running(old)
    with transaction.atomic():
        State.objects.select_for_update().get(node_id=node.id)
        with ThreadPoolExecutor() as other, pytest.raises(TemporaryError, match="holds the state"):
            other.submit(in_thread, bamboo_calls.forced_fail, old).result()
        State.objects.filter(node_id=node.id).update(version="vretried")
    with pytest.raises(NodeRunSupersededError, match="moved on: RUNNING at version vretried"):
        bamboo_calls.forced_fail(old, "too late")
    assert house.name(node.id) == "RUNNING"
    assert not bamboo_calls.is_running(old)


def test_a_skip_that_waits_in_celerys_queue_is_not_sent_again(house: House) -> None:
    """The worker died before it wrote its outcome, and Celery has a backlog."""
    from pipeline.eri.models import Process

    from node_timeout.engines.bamboo import bamboo_calls

    node, after = house.activity(seconds=60), house.activity(seconds=0)
    root = house.run(house.tree(node, after))
    house.wait_for(node.id, "RUNNING")
    Process.objects.filter(current_node_id=node.id).update(queue="dropin")
    first = timed_out(house, node.id)
    assert bamboo_calls.forced_fail_and_skip(first, "x") == "failed and skipped"
    assert bamboo_calls.is_running(first)
    assert bamboo_calls.forced_fail_and_skip(first, "x") == "failed and skipped before"
    assert house.name(root) == "RUNNING"


def test_what_was_failed_by_hand_is_not_taken_for_our_own(house: House) -> None:
    from node_timeout.engines.bamboo import bamboo_calls

    node = house.activity(seconds=60)
    house.run(house.tree(node))
    house.wait_for(node.id, "RUNNING")
    first = timed_out(house, node.id)
    assert bamboo_calls.forced_fail(first, "by node-timeout") == "failed"
    assert bamboo_calls.is_running(first), "its outcome may not have been recorded"
    assert bamboo_calls.forced_fail(first, "again") == "failed before"
    house.act("retry_node", node_id=node.id)
    house.wait_for(node.id, "RUNNING")
    assert not bamboo_calls.is_running(first)
    house.act("forced_fail_activity", node_id=node.id, ex_data="by hand")
    assert not bamboo_calls.is_running(first)
    with pytest.raises(NodeRunSupersededError):
        bamboo_calls.forced_fail_and_skip(first, "too late")


def test_a_node_that_the_engine_does_not_know(house: House) -> None:
    from node_timeout.engines.bamboo import bamboo_calls

    stranger = TimedOutNode(
        node_id="nobody", version="v1", root_pipeline_id="", action="x", deadline=0, attempt=1
    )
    assert not bamboo_calls.is_running(stranger)
    with pytest.raises(NodeRunSupersededError, match="no state of node 'nobody'"):
        bamboo_calls.forced_fail(stranger, "x")
    assert bamboo_calls.running([("root", "nobody")]) == []


def test_an_error_of_the_database_is_temporary(house: House) -> None:
    from django.db import OperationalError

    from node_timeout.engines.bamboo import bamboo_calls

    def fall_over() -> None:
        raise OperationalError("server closed the connection")

    with pytest.raises(EngineUnavailableError, match="bamboo's database: server closed"):
        bamboo_calls.in_database(fall_over)


def test_connections_that_the_database_closed_are_opened_anew(house: House) -> None:
    from django.db import connection

    before = house.activity(seconds=60)
    house.run(house.tree(before), {before.id: fail(1)})
    house.wait_for(before.id, "FAILED")
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE pid <> pg_backend_pid() AND datname = current_database()"
            )
        else:
            cursor.execute(
                "SELECT id FROM information_schema.processlist"
                " WHERE id <> connection_id() AND user <> 'system user'"
            )
            for (number,) in cursor.fetchall():
                cursor.execute(f"KILL {number}")
    after = house.activity(seconds=60)
    house.run(house.tree(after), {after.id: fail(3)})
    house.wait_for(after.id, "FAILED")
    row = house.handled(after.id)
    assert row.attempts == 1


def test_stores_that_are_gone_do_not_stop_the_engine(house: House) -> None:
    """A client whose stores do not exist: the state changes go through, and are counted."""
    from node_timeout import metrics
    from node_timeout.blocking import BlockingNodeTimeout
    from node_timeout.contrib.bamboo import receivers
    from node_timeout.settings import Settings

    gone = Settings(database_url="postgresql://x@127.0.0.1:1/x", redis_url="redis://127.0.0.1:1")
    missed = metrics.EVENTS_MISSED._value.get()
    with pytest.MonkeyPatch.context() as patch, BlockingNodeTimeout(gone) as client:
        patch.setattr(receivers, "client", lambda: client)
        patch.setattr(receivers._Rest, "until", 0.0)
        node = house.activity(seconds=60)
        root = house.run(house.tree(node))
        house.act("revoke_pipeline", pipeline_id=root)
        assert house.name(root) == "REVOKED"
    # The end of the root pipeline is told for its configs' sake, its beginning is not.
    assert metrics.EVENTS_MISSED._value.get() == missed + 1


def test_no_more_connections_than_threads(house: House) -> None:
    from django.db import connection

    if connection.vendor != "postgresql":
        pytest.skip("PostgreSQL tells who is connected")
    house.only_worker(NODE_TIMEOUT_ENGINE_THREADS="3", PGAPPNAME="engine-threads")
    nodes = [house.activity(seconds=60) for _ in range(20)]
    for node in nodes:
        house.run(house.tree(node), {node.id: fail(3)})
    for node in nodes:
        house.wait_for(node.id, "FAILED")
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'engine-threads'"
        )
        ((connected,),) = cursor.fetchall()
    assert 1 <= connected <= 3
