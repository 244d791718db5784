"""The wire form of the engine's events."""

import json
from dataclasses import replace
from typing import Any

import pytest

from node_timeout.domain.config_check import ConfigRules
from node_timeout.domain.errors import UnreadableMessageError
from node_timeout.domain.events import NodeLeft, NodeStarted
from node_timeout.wire.events import decode, encode, in_rounds
from tests.support import config, gone, run

NOW = 1_000_000_000.0
RULES = ConfigRules(actions=("forced_fail",), max_seconds=1e6)

RUNNING = {"event": "node_running", "node_id": "a", "version": "v1", "happened_at": NOW - 1}
LEFT = {"event": "node_left", "node_id": "a", "version": "v1", "happened_at": NOW}
CONFIG = {"enable": True, "action": "forced_fail", "seconds": 5}


def message(*events: Any, schema: Any = 1) -> bytes:
    return json.dumps({"schema": schema, "events": events}).encode()


def test_both_events_are_read() -> None:
    both = [{**each, "root_pipeline_id": "root"} for each in (RUNNING, LEFT)]
    events, unreadable = decode(message(*both), RULES, NOW)
    assert events == [
        NodeStarted.of(run("a"), happened_at=NOW - 1),
        gone("a", "v1", happened_at=NOW, remember=True),
    ]
    assert unreadable == []
    without_root, _ = decode(
        message(*({**each, "root_pipeline_id": None} for each in both)), RULES, NOW
    )
    assert without_root == [replace(event, root_pipeline_id=None) for event in events]
    assert encode(without_root) == message(
        *({**each, "root_pipeline_id": None} for each in both)
    ).replace(b', "root_pipeline_id": null', b"")


def test_a_node_may_be_paused_and_resumed() -> None:
    paused = {**LEFT, "event": "node_paused", "root_pipeline_id": "root"}
    resumed = {**paused, "event": "node_resumed"}
    events, unreadable = decode(message(paused, resumed), RULES, NOW)
    pause = gone("a", "v1", happened_at=NOW, remember=True, is_pause=True)
    assert (events, unreadable) == (
        [pause, NodeStarted.of(run("a"), happened_at=NOW)],
        [],
    )
    assert encode([pause]) == message(paused)
    unnamed = {key: value for key, value in paused.items() if key != "version"}
    _, refused = decode(message(unnamed), RULES, NOW)
    assert "version" in refused[0].reason, "a pause is of one version"


def test_a_config_may_come_along() -> None:
    carrying = {**RUNNING, "root_pipeline_id": "root", "timeout_config": CONFIG}
    disabled = {**carrying, "timeout_config": {**CONFIG, "enable": False}}
    loaded = {**carrying, "timeout_config": {**CONFIG, "payload": {"task": [1, "慢"]}}}
    (with_config, without, with_payload), _ = decode(
        message(carrying, disabled, loaded), RULES, NOW
    )
    assert isinstance(with_payload, NodeStarted)
    assert with_payload.config == config("a", 5, payload={"task": [1, "慢"]})
    assert decode(encode([with_payload]), RULES, NOW) == ([with_payload], [])
    assert isinstance(with_config, NodeStarted)
    assert with_config.config == config("a", 5)
    assert isinstance(without, NodeStarted)
    assert without.config is None


def test_a_start_may_say_which_trace_it_is_a_part_of() -> None:
    context = f"00-{'a' * 32}-{'b' * 16}-01"
    bad = [7, "", context.upper(), f"00-{'0' * 32}-{'b' * 16}-01", f"{context}\n", f"{context}-x"]
    starts = [{**RUNNING, "version": str(i), "traceparent": each} for i, each in enumerate(bad)]
    traced = {**RUNNING, "traceparent": context}
    (start, *others), unreadable = decode(message(traced, *starts), RULES, NOW)
    assert unreadable == [], "nobody is refused for it"
    assert isinstance(start, NodeStarted)
    assert start.trace == context
    assert [getattr(each, "trace", "") for each in others] == [None] * len(bad)
    assert decode(encode([start]), RULES, NOW) == ([start], [])


@pytest.mark.parametrize(
    "off",
    [
        {"enabled": False, "seconds": 10, "action": "forced_fail"},
        {"enable": False, "seconds": "never"},
        {},
    ],
)
def test_a_config_that_is_no_timeout_is_not_checked_further(off: dict[str, Any]) -> None:
    (event,), unreadable = decode(message({**RUNNING, "timeout_config": off}), RULES, NOW)
    assert isinstance(event, NodeStarted)
    assert (event.config, unreadable) == (None, [])


def test_a_left_event_needs_no_version() -> None:
    (event,), _ = decode(message({**LEFT, "version": None}), RULES, NOW)
    assert event == NodeLeft(node_id="a", happened_at=NOW)


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (7, "is not an object"),
        ({**RUNNING, "event": "node_runing"}, "'node_runing' is not one of node_running, node_l"),
        ({**RUNNING, "event": ["node_left"]}, "is not one of"),
        ({**RUNNING, "verison": "v1"}, "unknown keys verison"),
        ({**LEFT, "timeout_config": CONFIG}, "unknown keys timeout_config"),
        ({**RUNNING, "version": None}, "version of node 'a' None is NoneType"),
        ({**LEFT, "root_pipeline_id": 7}, "root pipeline id of node 'a' 7 is int, not text"),
        ({**LEFT, "node_id": "", "version": None}, "node id is empty"),
        ({**RUNNING, "happened_at": None}, "is not a number of Unix seconds"),
        ({**RUNNING, "happened_at": True}, "is not a number of Unix seconds"),
        ({**RUNNING, "happened_at": NOW * 1000}, "lies in the future; Unix seconds are meant"),
        ({**RUNNING, "happened_at": float("nan")}, "lies in the future"),
        ({**RUNNING, "happened_at": 4711.0}, "ten years ago or more"),
        ({**RUNNING, "timeout_config": CONFIG}, "root pipeline id of node 'a' None is NoneType"),
        (
            {**RUNNING, "root_pipeline_id": "r", "timeout_config": {**CONFIG, "seconds": -1}},
            "seconds is -1",
        ),
        (
            {**RUNNING, "root_pipeline_id": "r", "timeout_config": {**CONFIG, "action": "forced"}},
            "action 'forced' is unknown, did you mean 'forced_fail'?",
        ),
        (
            {**RUNNING, "root_pipeline_id": "r", "timeout_config": {"enabled": True}},
            "key 'enable' is missing",
        ),
        (
            {**RUNNING, "root_pipeline_id": "r", "timeout_config": {**CONFIG, "enable": "true"}},
            "enable is 'true', not True or False",
        ),
        ({**RUNNING, "root_pipeline_id": "r", "timeout_config": []}, "timeout config is list"),
        (
            {**RUNNING, "root_pipeline_id": "r", "timeout_config": {**CONFIG, "action": ["x"]}},
            "action ['x'] is unknown",
        ),
    ],
)
def test_a_bad_event_is_told_apart_with_its_reason(entry: Any, reason: str) -> None:
    events, (unreadable,) = decode(message(entry, LEFT), RULES, NOW)
    assert len(events) == 1, "the good one is read"
    assert reason in unreadable.reason
    assert json.dumps(json.loads(unreadable.body)["events"]) == json.dumps([entry])


@pytest.mark.parametrize(
    "body", [b"\xff", b"[]", b'{"schema": 1}', message(schema=2), message(schema=None)]
)
def test_a_message_of_another_form_is_refused(body: bytes) -> None:
    with pytest.raises(UnreadableMessageError):
        decode(body, RULES, NOW)


def test_events_of_a_node_come_in_order_of_time_each_in_a_round_of_its_own() -> None:
    first = NodeStarted.of(run("a", "v1"), happened_at=1.0)
    left = gone("a", happened_at=2.0)
    again = NodeStarted.of(run("a", "v2"), happened_at=3.0)
    other = NodeStarted.of(run("b"), happened_at=2.5)
    elsewhere = gone("a", root="other", happened_at=2.6)
    rounds = in_rounds([again, elsewhere, other, left, first])
    assert rounds == [[first, other, elsewhere], [left], [again]]
    assert in_rounds([]) == []
