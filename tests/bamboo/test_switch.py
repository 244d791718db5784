"""The app's settings in Django: its own rules for configs, and the switch that turns it off."""

import subprocess
import sys
from typing import Any

import pytest
from prometheus_client import REGISTRY

from node_timeout.domain.errors import InvalidTimeoutConfigError, NodeTimeoutError, SettingsError
from tests.bamboo.house import ROOT, House, fail

NOWHERE = {
    "database_url": "mysql://nobody:nothing@127.0.0.1:1/nothing",
    "redis_url": "redis://127.0.0.1:1/0",
}


def change_states(node_id: str) -> None:
    """What the engine sends while a node runs."""
    from bamboo_engine import states
    from pipeline.eri.models import State
    from pipeline.eri.signals import post_set_state

    for state in (states.RUNNING, states.SUSPENDED, states.FINISHED):
        post_set_state.send(
            sender=State,
            node_id=node_id,
            to_state=state,
            version="v1",
            root_id="root",
            parent_id="root",
            loop=1,
        )


def missed() -> float:
    return REGISTRY.get_sample_value("node_timeout_events_missed_total") or 0.0


def test_what_is_applied_and_stored_follows_the_settings_of_the_project(house: House) -> None:
    from django.conf import settings
    from django.test import override_settings

    from node_timeout.contrib import bamboo

    node = house.activity()
    tree = house.tree(node)
    own = {"handlers": {"page": "node_timeout.embedded.demo:SkipWhenPaged"}, "max_seconds": 9}
    page = {"enable": True, "action": "page", "seconds": 9}
    with pytest.raises(InvalidTimeoutConfigError, match="action 'page' is unknown"):
        bamboo.apply_node_timeout_configs(tree, {node.id: page})
    with override_settings(NODE_TIMEOUT=settings.NODE_TIMEOUT | own):
        applied = bamboo.apply_node_timeout_configs(tree, {node.id: page})
        assert bamboo.client().apply_node_timeout_configs(tree, {node.id: page}) == applied
        assert bamboo.apply_node_timout_configs is bamboo.apply_node_timeout_configs
        with pytest.raises(InvalidTimeoutConfigError, match="at most 9"):
            bamboo.apply_node_timeout_configs(tree, {node.id: {**page, "seconds": 10}})
        result = bamboo.batch_create_node_timeout_config(tree["id"], applied)
        (stored,) = result["data"]
        assert (stored.node_id, stored.action, stored.timeout) == (node.id, "page", 9)
        assert house.client().node_started(node.id, "v1"), "it is in the ledger"
        assert house.client().node_left(node.id, "v1") == 1
    with pytest.raises(InvalidTimeoutConfigError, match="action 'page' is unknown"):
        bamboo.apply_node_timeout_configs(tree, {node.id: page})


def test_switched_off_it_connects_nowhere_and_says_so(house: House) -> None:
    from django.test import override_settings

    from node_timeout.contrib import bamboo

    node = house.activity()
    tree = bamboo.apply_node_timeout_configs(house.tree(node), {node.id: fail(30)})
    before = missed()
    with override_settings(NODE_TIMEOUT={"enabled": False, **NOWHERE}):
        client = bamboo.client()
        result = bamboo.batch_create_node_timeout_config(tree["id"], tree)
        assert result["result"] is True
        assert result["message"] == "node-timeout is off: NODE_TIMEOUT['enabled'] is False"
        assert [(each.node_id, each.timeout) for each in result["data"]] == [(node.id, 30)]
        assert bamboo.apply_node_timeout_configs(tree, {node.id: fail(30)}) == tree
        bad: dict[str, Any] = {"activities": {"a": {"type": "ServiceActivity"}}}
        bad["activities"]["a"]["timeout_config"] = fail(-1)
        refused = bamboo.batch_create_node_timeout_config("r", bad)
        assert (refused["result"], refused["data"]) == (False, [])
        assert "seconds is -1" in refused["message"]
        change_states(node.id)
        assert (client.node_started(node.id, "v1"), client.node_left(node.id)) == (False, 0)
        assert client.nodes_started([(node.id, "v1")]) == client.nodes_left([(node.id, None)]) == 0
        assert client.rows(node.id) == []

        def replay() -> object:
            return client.replay(everything=True)

        for call in (client.status, replay):
            with pytest.raises(NodeTimeoutError, match="node-timeout is off"):
                call()
        assert client.bridge is None, "no thread, no connection"
    assert missed() == before
    assert not house.client().node_started(node.id, "v1"), "nothing was stored"
    assert house.rows(node.id) == []


def test_the_switch_is_true_or_false(house: House) -> None:
    from django.test import override_settings

    from node_timeout.contrib import bamboo

    for wrong in ("no", 0, None):
        with (
            override_settings(NODE_TIMEOUT={"enabled": wrong}),
            pytest.raises(SettingsError, match=r"NODE_TIMEOUT\['enabled'\] is .*, not True or"),
        ):
            bamboo.client()


@pytest.mark.parametrize("first", ["", "from gevent import monkey; monkey.patch_all();"])
def test_a_project_that_has_it_off_starts_without_any_server(house: House, first: str) -> None:
    code = (
        f"{first}from tests.bamboo.project import settings as project;"
        f" project.NODE_TIMEOUT = {{'enabled': False}} | {NOWHERE!r};"
        " import django, threading; django.setup();"
        " from tests.bamboo.test_switch import change_states, missed; change_states('n');"
        " print(missed(), [each.name for each in threading.enumerate()])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        env=house.env,
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    assert found.stdout.endswith("0.0 ['MainThread']\n"), found.stdout + found.stderr
