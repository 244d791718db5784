"""bamboo's own app as the source of events; scanner and worker are ours."""

import json
import sys

from tests.acceptance.conftest import NODE_TIMEOUT
from tests.bamboo.house import BAMBOO_APP, DROPIN_APP, House


def test_its_signal_handler_fills_the_pool_and_our_worker_acts(house: House) -> None:
    from django.db import connection

    apps = json.dumps([BAMBOO_APP, DROPIN_APP])
    house.ensure_workers()
    failed, skipped = house.activity(seconds=60), house.activity(seconds=60)
    trees = {node.id: house.tree(node) for node in (failed, skipped)}
    with connection.cursor() as cursor:
        for node, action in ((failed, "forced_fail"), (skipped, "forced_fail_and_skip")):
            cursor.execute(
                "INSERT INTO node_timeout_timeoutnodeconfig"
                " (root_pipeline_id, action, node_id, timeout) VALUES (%s, %s, %s, %s)",
                [trees[node.id]["id"], action, node.id, 2],
            )
    for imported in (2, 0):
        command = house.start([*NODE_TIMEOUT, "import-bamboo"], f" {imported} imported")
        assert command.wait() == 0
    with house.celery("er_execute_dropin,er_schedule_dropin", BAMBOO_TEST_APPS=apps):
        for tree in trees.values():
            house.act("run_pipeline", pipeline=tree, queue="dropin")
        house.wait_for(failed.id, "FAILED")
        house.wait_for(trees[skipped.id]["id"], "FINISHED")
    for node in (failed, skipped):
        row = house.handled(node.id)
        assert row.started_at is None, "the pool alone knew of it"
        assert row.root_pipeline_id == trees[node.id]["id"], "found by its config"


def test_a_check_looks_into_bamboos_database(house: House) -> None:
    process = house.start([*NODE_TIMEOUT, "check"], "engine and strategies")
    assert process.wait() == 0, process.output
    assert "engine bamboo (its database answers)" in process.output


def test_bamboos_app_and_ours_stand_side_by_side(house: House) -> None:
    """While one moves over, both may be installed: names, tables and labels do not clash."""
    code = (
        "import django; django.setup(); from django.apps import apps;"
        " print(*[app.label for app in apps.get_app_configs()])"
    )
    both = json.dumps([BAMBOO_APP, "node_timeout.contrib.bamboo"])
    process = house.start(
        [sys.executable, "-c", code], "node_timeout_bamboo", BAMBOO_TEST_APPS=both
    )
    assert process.wait() == 0
