"""Configs are put into a tree and read from it, and every fault is named."""

import contextlib
import copy
import json
import time
from collections.abc import Callable
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_timeout.domain import hints
from node_timeout.domain.config_check import ConfigRules
from node_timeout.domain.errors import (
    SHOWN_PROBLEMS,
    InvalidInputError,
    InvalidPipelineTreeError,
    InvalidTimeoutConfigError,
)
from node_timeout.domain.pipeline_tree import MAX_SUB_PROCESS_DEPTH
from node_timeout.domain.timeout_config import apply_configs, read_config, read_configs
from tests.support import tree_of

RULES = ConfigRules(actions=("forced_fail", "forced_fail_and_skip"), max_seconds=1000)
GOOD = {"enable": True, "action": "forced_fail", "seconds": 10}


def nested(inner: Any, node_id: str = "sub") -> dict[str, Any]:
    return {"activities": {node_id: {"type": "SubProcess", "pipeline": inner}}}


def plain(*node_ids: str) -> dict[str, Any]:
    return {"activities": {node_id: {"type": "ServiceActivity"} for node_id in node_ids}}


def test_a_config_lands_at_its_node_and_the_input_is_untouched() -> None:
    tree = plain("a", "b")
    before = copy.deepcopy(tree)
    new_tree = apply_configs(tree, {"a": GOOD}, RULES)
    assert new_tree["activities"]["a"]["timeout_config"] == GOOD
    assert "timeout_config" not in new_tree["activities"]["b"]
    assert tree == before
    new_tree["activities"]["b"]["touched"] = True
    assert tree == before


def test_nodes_of_nested_sub_processes_are_found() -> None:
    tree = nested(nested(plain("deep"), "inner"), "outer")
    new_tree = apply_configs(tree, {"deep": GOOD}, RULES)
    inner = new_tree["activities"]["outer"]["pipeline"]["activities"]["inner"]["pipeline"]
    assert inner["activities"]["deep"]["timeout_config"] == GOOD


def test_seconds_as_text_count_as_the_number() -> None:
    new_tree = apply_configs(plain("a"), {"a": {**GOOD, "seconds": "10"}}, RULES)
    assert new_tree["activities"]["a"]["timeout_config"]["seconds"] == 10
    found = read_configs("root", new_tree, RULES)
    assert [each.timeout for each in found.enabled] == [10.0]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"seconds": True}, "seconds is True"),
        ({"seconds": -5}, "seconds is -5"),
        ({"seconds": 0}, "seconds is 0"),
        ({"seconds": float("nan")}, "seconds is nan"),
        ({"seconds": float("inf")}, "seconds is inf"),
        ({"seconds": "soon"}, "seconds is 'soon'"),
        ({"seconds": None}, "seconds is None"),
        ({"seconds": 1001}, "at most 1000"),
        ({"seconds": 10**400}, "at most 1000"),
        ({"seconds": 10**5000}, "seconds is <int>"),
        ({"action": "forced_fale"}, "did you mean 'forced_fail'?"),
        ({"action": 7}, "action 7 is unknown"),
        ({"action": ["forced_fail"]}, "is unknown"),
        ({"enable": 1}, "enable is 1, not True or False"),
        (
            {"second": 3},
            "key 'second' is not one of enable, action, seconds, after, payload, did you mean",
        ),
    ],
)
def test_a_bad_value_is_refused_with_its_node_and_what_would_be_right(
    change: dict[str, Any], says: str
) -> None:
    with pytest.raises(InvalidTimeoutConfigError) as error:
        apply_configs(plain("node_7"), {"node_7": {**GOOD, **change}}, RULES)
    assert says in str(error.value)
    assert "'node_7'" in str(error.value)


def test_a_duration_may_stand_for_the_seconds() -> None:
    config = {"enable": True, "action": "forced_fail", "after": "PT10M"}
    new_tree = apply_configs(plain("a"), {"a": config}, RULES)
    assert new_tree["activities"]["a"]["timeout_config"]["seconds"] == 600
    found = read_configs("root", new_tree, RULES)
    assert [each.timeout for each in found.enabled] == [600.0]
    (direct,) = read_configs("root", plain_with(config), RULES).enabled
    assert direct.timeout == 600.0


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"after": "PT5M", "seconds": 5}, "say either seconds or after, not both"),
        ({"after": "P1M"}, "write days"),
        ({"after": 600}, "is no duration such as PT10M"),
        ({"after": "PT20M"}, "after is 'PT20M', not a number of seconds above 0 and at most 1000"),
        ({"after": "PT0S"}, "not a number of seconds above 0"),
    ],
)
def test_a_duration_that_cannot_be_is_refused(change: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidTimeoutConfigError) as error:
        apply_configs(plain("a"), {"a": {"enable": True, "action": "forced_fail"} | change}, RULES)
    assert says in str(error.value)


def plain_with(config: dict[str, Any]) -> dict[str, Any]:
    tree = plain("a")
    tree["activities"]["a"]["timeout_config"] = config
    return tree


def test_a_missing_key_is_named() -> None:
    with pytest.raises(InvalidTimeoutConfigError, match="node 'a': key 'seconds' is missing"):
        apply_configs(plain("a"), {"a": {"enable": True, "action": "forced_fail"}}, RULES)


def test_every_bad_node_is_listed() -> None:
    configs = {"a": {**GOOD, "seconds": -1}, "b": GOOD, "c": "10 s", "zz": GOOD}
    with pytest.raises(InvalidTimeoutConfigError) as error:
        apply_configs(plain("a", "b", "c"), configs, RULES)
    assert len(error.value.problems) == 3


def test_an_unknown_node_gets_a_hint() -> None:
    with pytest.raises(InvalidTimeoutConfigError, match="did you mean 'fetch_orders'"):
        apply_configs(plain("fetch_orders"), {"fetch_order": GOOD}, RULES)


def test_a_sub_process_cannot_time_out() -> None:
    with pytest.raises(InvalidTimeoutConfigError, match="'sub' is a SubProcess"):
        apply_configs(nested(plain("a")), {"sub": GOOD}, RULES)


@pytest.mark.parametrize("node_id", ["", " a", "x" * 129, 7, None, "a\0b", "\ud800"])
def test_an_impossible_node_id_is_refused(node_id: Any) -> None:
    with pytest.raises(InvalidTimeoutConfigError, match="node id"):
        apply_configs(plain("a"), {node_id: GOOD}, RULES)


@pytest.mark.parametrize(
    ("tree", "says"),
    [
        (None, "the pipeline tree is missing"),
        ([], "list, not a dict"),
        ({}, "no dict 'activities'"),
        ({"activites": {}}, "is it 'activites'?"),
        ({"activities": []}, "no dict 'activities' (node id to node)"),
        (nested(plain("sub")), "'sub' stands twice"),
    ],
)
def test_a_broken_tree_is_refused(tree: Any, says: str) -> None:
    for call in (
        lambda: apply_configs(tree, {}, RULES),
        lambda: read_configs("root", tree, RULES),
    ):
        with pytest.raises(InvalidPipelineTreeError) as error:
            call()
        assert says in str(error.value)


def test_a_tree_that_contains_itself_is_refused() -> None:
    tree = nested(None)
    tree["activities"]["sub"]["pipeline"] = tree
    with pytest.raises(InvalidPipelineTreeError, match="contains itself"):
        apply_configs(tree, {}, RULES)


def test_a_tree_nested_1000_deep_is_refused() -> None:
    tree = plain("a")
    for depth in range(1000):
        tree = nested(tree, f"sub{depth}")
    with pytest.raises(InvalidPipelineTreeError, match=f"deeper than {MAX_SUB_PROCESS_DEPTH}"):
        apply_configs(tree, {}, RULES)


def test_the_deepest_tree_that_is_allowed_is_copied() -> None:
    tree = plain("a")
    for depth in range(MAX_SUB_PROCESS_DEPTH):
        tree = nested(tree, f"sub{depth}")
    assert read_configs("root", apply_configs(tree, {"a": GOOD}, RULES), RULES).enabled


def test_values_nested_too_deep_are_refused() -> None:
    value: Any = 1
    for _ in range(100_000):
        value = [value]
    tree = plain("a")
    tree["activities"]["a"]["inputs"] = value
    with pytest.raises(InvalidPipelineTreeError, match="too deep"):
        apply_configs(tree, {}, RULES)
    while isinstance(value, list):  # let it go one by one, not by recursion
        value = value.pop()


def test_configs_that_are_no_dict_are_refused() -> None:
    with pytest.raises(InvalidTimeoutConfigError, match="configs is list"):
        apply_configs(plain("a"), [], RULES)


@pytest.mark.parametrize("payload", [{"task": 7, "why": "慢 😀\u0000"}, ["a"], "text", 0, False])
def test_a_payload_is_kept_as_it_is(payload: Any) -> None:
    tree = apply_configs(plain("a"), {"a": {**GOOD, "payload": payload}}, RULES)
    assert tree["activities"]["a"]["timeout_config"]["payload"] == payload
    (found,) = read_configs("root", tree, RULES).enabled
    assert found.payload == payload
    assert found.as_dict()["payload"] == payload
    assert (found.payload_json or "").isascii(), "every database keeps that as it is"


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        ({1, 2}, "cannot be written as JSON"),
        (float("nan"), "cannot be written as JSON"),
        ({"a": "\ud800"}, "cannot be written as JSON"),
        ("x" * 20_000, "has 20002 characters as JSON, at most 16384 are allowed"),
    ],
)
def test_a_payload_that_is_no_json_or_too_long_is_an_error(payload: Any, says: str) -> None:
    with pytest.raises(InvalidTimeoutConfigError, match=f"node 'a': payload {says}"):
        apply_configs(plain("a"), {"a": {**GOOD, "payload": payload}}, RULES)


def test_a_payload_is_nested_64_deep_at_most() -> None:
    deep: Any = "end"
    for number in range(64):
        deep = {"in": deep} if number % 2 else [deep, [[]]] if number > 2 else [deep]
    apply_configs(plain("a"), {"a": {**GOOD, "payload": deep}}, RULES)
    for _ in range(900):
        deep = [deep]
        with pytest.raises(InvalidTimeoutConfigError, match="payload is nested deeper than 64"):
            apply_configs(plain("a"), {"a": {**GOOD, "payload": deep}}, RULES)
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(InvalidInputError, match="payload is nested deeper than 64"):
        read_configs("root", plain("a"), RULES, payload=deep)


def test_a_payload_may_be_given_for_all_nodes_that_have_none() -> None:
    tree = tree_of("a", "b")
    tree["activities"]["b"]["timeout_config"]["payload"] = {"own": True}
    found = read_configs("root", tree, RULES, payload={"task_id": 7})
    assert [each.payload for each in found.enabled] == [{"task_id": 7}, {"own": True}]
    with pytest.raises(InvalidInputError, match="payload cannot be written as JSON"):
        read_configs("root", tree, RULES, payload={1, 2}, lenient=True)


def test_no_payload_is_no_key() -> None:
    tree = apply_configs(plain("a"), {"a": {**GOOD, "payload": None}}, RULES)
    assert tree["activities"]["a"]["timeout_config"] == GOOD
    (found,) = read_configs("root", tree, RULES).enabled
    assert found.payload is None


def test_reading_leaves_disabled_configs_out_but_names_them() -> None:
    tree = tree_of("on", "off")
    tree["activities"]["off"]["timeout_config"]["enable"] = False
    tree["activities"]["none"] = {"type": "ServiceActivity", "timeout_config": None}
    found = read_configs("root", tree, RULES)
    assert [each.as_dict() for each in found.enabled] == [
        {
            "node_id": "on",
            "root_pipeline_id": "root",
            "action": "forced_fail",
            "timeout": 10.0,
            "payload": None,
        }
    ]
    assert found.disabled == (("root", "off"),)


def test_a_lenient_reading_keeps_the_good_nodes_and_names_the_bad_ones() -> None:
    """A bad one counts for nothing: what was stored for it before is left as it is."""
    tree = plain("a", "b", "c", "d", " e")
    changes: dict[str, dict[str, Any]] = {
        "a": {},
        "b": {"seconds": -1},
        "c": {"action": "x"},
        " e": {},
    }
    for node_id, change in changes.items():
        tree["activities"][node_id]["timeout_config"] = {**GOOD, **change}
    tree["activities"]["d"]["timeout_config"] = {"enable": False}
    with pytest.raises(InvalidTimeoutConfigError):
        read_configs("root", tree, RULES)
    found = read_configs("root", tree, RULES, lenient=True)
    assert [config.node_id for config in found.enabled] == ["a"]
    assert found.disabled == (("root", "d"),)
    b, c, e = found.findings
    assert b.startswith("node 'b': seconds is -1")
    assert c.startswith("node 'c': action 'x' is unknown")
    assert e == "node id ' e' begins or ends with white space"
    with pytest.raises(InvalidPipelineTreeError):
        read_configs("root", [], RULES, lenient=True)


@pytest.mark.parametrize("seconds", [5, 5.0, "1000"])
def test_the_least_and_the_greatest_number_of_seconds_are_allowed(seconds: Any) -> None:
    rules = replace(RULES, min_seconds=5)
    assert apply_configs(plain("a"), {"a": {**GOOD, "seconds": seconds}}, rules)


@pytest.mark.parametrize("seconds", [4.9, 0, "1001"])
def test_what_is_beyond_them_is_refused_with_both(seconds: Any) -> None:
    rules = replace(RULES, min_seconds=5)
    with pytest.raises(InvalidTimeoutConfigError, match="at least 5 and at most 1000"):
        apply_configs(plain("a"), {"a": {**GOOD, "seconds": seconds}}, rules)


def test_reading_lists_every_bad_node() -> None:
    tree = tree_of("a", "b", seconds=-1)
    tree["activities"]["\0"] = tree["activities"]["a"]
    with pytest.raises(InvalidTimeoutConfigError) as error:
        read_configs("root", tree, RULES)
    assert len(error.value.problems) == 3


@pytest.mark.parametrize(
    "off",
    [
        {"enabled": False, "seconds": 10, "action": "forced_fail"},
        {"enable": False, "seconds": "never", "action": None, "note": "was 10 once"},
        {"enable": None, "seconds": 10, "action": "forced_fail"},
        {"enable": 0},
        {},
        [],
        "",
    ],
)
def test_what_is_clearly_off_is_not_checked_further(off: Any) -> None:
    tree = tree_of("on")
    tree["activities"]["off"] = {"type": "ServiceActivity", "timeout_config": off}
    tree["activities"][" no id"] = {"type": "ServiceActivity", "timeout_config": off}
    found = read_configs("root", tree, RULES)
    assert [each.node_id for each in found.enabled] == ["on"]
    assert found.disabled == ((("root", "off"),) if off else ()), "no id that no table can hold"
    assert found.findings == ()


@pytest.mark.parametrize(
    "meant",
    [
        {"enabled": True, "seconds": 30},
        {"enable": "true", "seconds": 30, "action": "forced_fail"},
        {"enable": 1, "seconds": 30, "action": "forced_fail"},
        {"Enable": True, "seconds": 30, "action": "forced_fail"},
        {"seconds": 30, "action": "forced_fail"},
        600,
        "10 s",
    ],
)
def test_what_was_probably_meant_is_a_finding_and_costs_no_other_node_its_deadline(
    meant: Any,
) -> None:
    tree = tree_of("on")
    tree["activities"]["typo"] = {"type": "ServiceActivity", "timeout_config": meant}
    found = read_configs("root", tree, RULES)
    assert [each.node_id for each in found.enabled] == ["on"]
    assert found.disabled == (("root", "typo"),)
    (finding,) = found.findings
    assert "node 'typo' gets no timeout" in finding
    assert "does not say 'enable': True" in finding


@pytest.mark.parametrize(
    ("place", "kind"),
    [
        (lambda node: {"activities": {"x": node}}, "SubProcess"),
        (lambda node: {"activities": {"x": node}}, "SubCanvas"),
        (lambda node: {"activities": {"x": node}}, "Sleep"),
        (lambda node: {"activities": {}, "gateways": {"x": node}}, "ExclusiveGateway"),
        (lambda node: {"activities": {}, "gateways": {"x": node}}, "ParallelGateway"),
        (lambda node: {"activities": {}, "gateways": {"x": node}}, "ConditionalParallelGateway"),
        (lambda node: {"activities": {}, "gateways": {"x": node}}, "ConvergeGateway"),
        (lambda node: {"activities": {}, "start_event": {"id": "x", **node}}, "EmptyStartEvent"),
        (lambda node: {"activities": {}, "end_event": {"id": "x", **node}}, "EmptyEndEvent"),
        (lambda node: {"activities": {}, "end_event": {"id": "x", **node}}, "ExecutableEndEvent"),
    ],
)
def test_a_config_where_none_can_work_is_a_finding(
    place: Callable[[dict[str, Any]], dict[str, Any]], kind: str
) -> None:
    node = {"type": kind, "pipeline": plain("inner")}
    good = place({**node, "timeout_config": GOOD})
    found = read_configs("root", good, RULES)
    assert (found.enabled, found.disabled) == ((), ())
    assert found.findings == (
        f"node 'x' gets no timeout: it is a {kind}, only a ServiceActivity can time out",
    )
    typo = read_configs("root", place({**node, "timeout_config": {"enabled": True}}), RULES)
    assert "node 'x' gets no timeout" in typo.findings[0]
    assert typo.disabled == ()
    off = read_configs("root", place({**node, "timeout_config": {"enabled": False}}), RULES)
    assert off.findings == ()
    with pytest.raises(InvalidTimeoutConfigError, match=f"node 'x' is a {kind}, only"):
        apply_configs(good, {"x": GOOD}, RULES)


@pytest.mark.parametrize("kind", ["SubProcess", "SubCanvas"])
@pytest.mark.parametrize(
    ("reference", "says"),
    [
        ({"template_id": "t1"}, "is missing"),
        ({"pipeline": None}, "is missing"),
        ({"pipeline": "t1"}, "is str, not a dict"),
        ({"pipeline": {"template_id": "t1"}}, "has no dict 'activities'"),
    ],
)
def test_a_sub_process_without_a_tree_costs_no_other_node_its_deadline(
    reference: dict[str, Any], says: str, kind: str
) -> None:
    tree = tree_of("a")
    tree["activities"]["sub"] = {"type": kind, **reference}
    new_tree = apply_configs(tree, {"a": {**GOOD, "seconds": 7}}, RULES)
    found = read_configs("root", new_tree, RULES)
    assert [(each.node_id, each.timeout) for each in found.enabled] == [("a", 7)]
    (finding,) = found.findings
    assert f"the 'pipeline' of {kind} 'sub' {says}" in finding
    assert finding.endswith(": no node inside it gets a timeout")


def test_what_is_no_node_costs_no_other_node_its_deadline() -> None:
    tree = tree_of("a")
    tree["activities"] |= {"stub": {"name": "b"}, "text": "c"}
    tree |= {"gateways": [], "start_event": {"id": ["s"]}, "end_event": "e"}
    found = read_configs("root", tree, RULES)
    assert [each.node_id for each in found.enabled] == ["a"]
    assert found.findings == ("node 'text' is str, not a dict: it is ignored",)
    with pytest.raises(InvalidTimeoutConfigError, match="'stub' is a node without a type"):
        apply_configs(tree, {"stub": GOOD}, RULES)


def test_ten_thousand_wrong_ids_cost_a_few_comparisons_and_a_short_text(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compared = 0

    def count(word: str, words: list[str], **more: Any) -> list[str]:
        nonlocal compared
        compared += len(words)
        return get_close_matches(word, words, **more)

    monkeypatch.setattr(hints, "get_close_matches", count)
    ids = [f"n{number:031x}" for number in range(10_000)]
    tree, wrong = plain(*ids), {f"{node_id}x": GOOD for node_id in ids}
    began = time.process_time()
    with pytest.raises(InvalidTimeoutConfigError) as error:
        apply_configs(tree, wrong, RULES)
    assert time.process_time() - began < 2
    assert 0 < compared <= hints.HINTED_PROBLEMS * hints.COMPARED
    assert len(error.value.problems) == 10_000
    assert f"did you mean {ids[0]!r}?" in error.value.problems[0]
    assert str(error.value).endswith(f"; and {10_000 - SHOWN_PROBLEMS} more")
    assert len(str(error.value)) < 10_000

    misspelt = {f"second{number}": 1 for number in range(10_000)}
    for bad in (
        lambda: apply_configs(plain("a"), {"a": misspelt}, RULES),
        lambda: read_configs("r", tree_of(*ids, action="forced_fale"), RULES),
    ):
        compared = 0
        with pytest.raises(InvalidTimeoutConfigError) as error:
            bad()
        assert compared <= hints.HINTED_PROBLEMS * hints.COMPARED
        assert len(error.value.problems) >= 10_000


@pytest.mark.parametrize("root", ["", None, "x" * 129])
def test_a_bad_root_pipeline_id_is_refused(root: Any) -> None:
    with pytest.raises(InvalidInputError, match="root pipeline id"):
        read_configs(root, plain("a"), RULES)


ids = st.text("abc_1é", min_size=1, max_size=6)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3) | st.integers(), inner)
    ),
    max_leaves=5,
)


@given(st.dictionaries(ids, st.floats(0.001, 1000), max_size=8), st.sets(ids, max_size=8))
def test_what_is_applied_is_what_is_read(timeouts: dict[str, float], others: set[str]) -> None:
    tree = {
        "activities": {
            **plain(*others)["activities"],
            "\u4e2d sub": {"type": "SubProcess", "pipeline": plain(*timeouts)},
        }
    }
    for node_id in set(timeouts) & others:
        del tree["activities"][node_id]
    configs = {
        node_id: {"enable": True, "action": "forced_fail", "seconds": seconds}
        for node_id, seconds in timeouts.items()
    }
    before = json.dumps(tree)
    new_tree = apply_configs(tree, configs, RULES)
    assert json.dumps(tree) == before
    found = read_configs("root", new_tree, RULES)
    assert {each.node_id: each.timeout for each in found.enabled} == timeouts


@given(values, values)
def test_no_input_raises_anything_but_invalid_input(tree: Any, configs: Any) -> None:
    for call in (
        lambda: apply_configs(tree, configs, RULES),
        lambda: apply_configs(plain("a"), {"a": configs}, RULES),
        lambda: read_configs("root", {"activities": {"a": tree}}, RULES),
        lambda: read_configs("root", {"activities": tree, "gateways": configs}, RULES),
        lambda: read_configs("root", {"activities": {}, "end_event": tree}, RULES),
        lambda: read_configs(
            "root", {"activities": {"a": {"type": tree, "timeout_config": configs}}}, RULES
        ),
        lambda: read_config("a", "root", configs, RULES) or True,
    ):
        with contextlib.suppress(InvalidInputError):
            assert call() is not None
