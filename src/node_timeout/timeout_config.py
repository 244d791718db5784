"""Timeout configs: checked, put into a pipeline tree, read from one. Pure functions.

A pipeline tree is bamboo's: ``activities`` maps node ids to nodes; a node of type
``ServiceActivity`` may carry ``timeout_config``, one of type ``SubProcess`` nests a tree under
``pipeline``. Other types of nodes are passed over.
"""

import copy
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from node_timeout.errors import (
    InvalidInputError,
    InvalidPipelineTreeError,
    InvalidTimeoutConfigError,
)
from node_timeout.node import id_problem

KEYS = ("enable", "action", "seconds")
MAX_ACTION_LENGTH = 64
MAX_SUB_PROCESS_DEPTH = 50

SERVICE_ACTIVITY = "ServiceActivity"
SUB_PROCESS = "SubProcess"


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeoutConfig:
    """The timeout of one node: which action strikes it, how many seconds after its start."""

    node_id: str
    root_pipeline_id: str
    action: str
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """The form of the batch call's ``data``; ``timeout`` is in seconds."""
        return {
            "node_id": self.node_id,
            "root_pipeline_id": self.root_pipeline_id,
            "action": self.action,
            "timeout": self.seconds,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigRules:
    """What a config is checked against: the actions that are installed and the longest timeout."""

    actions: Collection[str]
    max_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeConfigs:
    """What a tree says of its nodes' timeouts."""

    enabled: tuple[TimeoutConfig, ...]
    disabled: tuple[str, ...]
    """Node ids whose config says ``enable: false``."""


def apply_configs(tree: Any, configs: Any, rules: ConfigRules) -> dict[str, Any]:
    """Return a copy of ``tree`` with each config at its node's ``timeout_config``.

    Raises `InvalidPipelineTreeError` or `InvalidTimeoutConfigError` that lists every bad node;
    the input is never changed.
    """
    if not isinstance(configs, Mapping):
        raise InvalidTimeoutConfigError(
            f"configs is {type(configs).__name__}, not a dict of node id to config"
        )
    nodes = dict(_walk(tree))
    problems: list[str] = []
    checked: dict[str, dict[str, Any]] = {}
    for node_id, config in configs.items():
        try:
            _check_target(node_id, nodes)
            checked[node_id] = _check_config(node_id, config, rules)
        except InvalidTimeoutConfigError as error:
            problems.extend(error.problems)
    if problems:
        raise InvalidTimeoutConfigError(*problems)
    try:
        new_tree: dict[str, Any] = copy.deepcopy(tree)
    except RecursionError as error:
        raise InvalidPipelineTreeError("the pipeline tree's values are nested too deep") from error
    for node_id, node in _walk(new_tree):
        if node_id in checked:
            node["timeout_config"] = checked[node_id]
    return new_tree


def read_configs(root_pipeline_id: Any, tree: Any, rules: ConfigRules) -> TreeConfigs:
    """Collect the configs of a tree. Raises `InvalidInputError` that lists every bad node."""
    problem = id_problem("root pipeline id", root_pipeline_id)
    if problem:
        raise InvalidInputError(problem)
    problems: list[str] = []
    enabled: list[TimeoutConfig] = []
    disabled: list[str] = []
    for node_id, node in _walk(tree):
        if node["type"] != SERVICE_ACTIVITY or node.get("timeout_config") is None:
            continue
        try:
            if problem := id_problem("node id", node_id):
                raise InvalidTimeoutConfigError(problem)  # noqa: TRY301 - one list of problems
            config = _check_config(node_id, node["timeout_config"], rules)
        except InvalidTimeoutConfigError as error:
            problems.extend(error.problems)
            continue
        if config["enable"]:
            enabled.append(_timeout_config(node_id, root_pipeline_id, config))
        else:
            disabled.append(node_id)
    if problems:
        raise InvalidTimeoutConfigError(*problems)
    return TreeConfigs(enabled=tuple(enabled), disabled=tuple(disabled))


def read_config(
    node_id: str, root_pipeline_id: Any, config: Any, rules: ConfigRules
) -> TimeoutConfig | None:
    """Read one config by itself; None if it is disabled. Raises `InvalidInputError`."""
    problem = id_problem(f"root pipeline id of node {node_id!r}", root_pipeline_id)
    if problem:
        raise InvalidInputError(problem)
    checked = _check_config(node_id, config, rules)
    return _timeout_config(node_id, root_pipeline_id, checked) if checked["enable"] else None


def did_you_mean(word: object, known: Collection[str]) -> str:
    """``", did you mean 'x'?"`` for a near miss, else the empty string."""
    close = get_close_matches(str(word), list(known), n=1)
    return f", did you mean {close[0]!r}?" if close else ""


def _timeout_config(
    node_id: str, root_pipeline_id: str, checked: Mapping[str, Any]
) -> TimeoutConfig:
    return TimeoutConfig(
        node_id=node_id,
        root_pipeline_id=root_pipeline_id,
        action=checked["action"],
        seconds=float(checked["seconds"]),
    )


def _walk(tree: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every (node id, node), sub-processes before their nodes, without recursion.

    A node is yielded only if it is a dict with a ``type``; all else raises
    `InvalidPipelineTreeError`, as do a tree inside itself and a node id that stands twice.
    """
    seen: set[str] = set()
    pending: list[tuple[str, Any, tuple[int, ...]]] = [("the pipeline tree", tree, ())]
    while pending:
        where, subtree, outer = pending.pop()
        if id(subtree) in outer:
            raise InvalidPipelineTreeError(f"{where} contains itself")
        if len(outer) > MAX_SUB_PROCESS_DEPTH:
            raise InvalidPipelineTreeError(
                f"{where} is nested deeper than {MAX_SUB_PROCESS_DEPTH} sub-processes"
            )
        for node_id, node in _activities(where, subtree).items():
            if not isinstance(node, dict) or not isinstance(node.get("type"), str):
                raise InvalidPipelineTreeError(
                    f"node {node_id!r:.200} in {where} is not a dict with a 'type'"
                )
            if node_id in seen:
                raise InvalidPipelineTreeError(f"node {node_id!r} stands twice in the tree")
            seen.add(node_id)
            yield node_id, node
            if node["type"] == SUB_PROCESS:
                name = f"the 'pipeline' of sub-process {node_id!r}"
                pending.append((name, node.get("pipeline"), (*outer, id(subtree))))


def _activities(where: str, subtree: Any) -> dict[str, Any]:
    if not isinstance(subtree, dict):
        raise InvalidPipelineTreeError(f"{where} is {type(subtree).__name__}, not a dict")
    activities = subtree.get("activities")
    if not isinstance(activities, dict):
        close = get_close_matches("activities", [str(key) for key in subtree], n=1)
        hint = f"; did you mean it by {close[0]!r}?" if close else ""
        raise InvalidPipelineTreeError(f"{where} has no dict 'activities' (node id to node){hint}")
    return activities


def _check_target(node_id: Any, nodes: Mapping[str, dict[str, Any]]) -> None:
    problem = id_problem("node id", node_id)
    if problem:
        raise InvalidTimeoutConfigError(problem)
    if node_id not in nodes:
        raise InvalidTimeoutConfigError(
            f"node {node_id!r} is not in the pipeline tree{did_you_mean(node_id, nodes)}"
        )
    if nodes[node_id]["type"] != SERVICE_ACTIVITY:
        raise InvalidTimeoutConfigError(
            f"node {node_id!r} is a {nodes[node_id]['type']}, only {SERVICE_ACTIVITY} can time out"
        )


def _check_config(node_id: str, config: Any, rules: ConfigRules) -> dict[str, Any]:
    """Return the config with ``seconds`` as a number, or raise with every fault of it."""
    if not isinstance(config, Mapping):
        raise InvalidTimeoutConfigError(
            f"node {node_id!r}: timeout config is {type(config).__name__}, "
            f"not a dict with the keys {', '.join(KEYS)}"
        )
    problems = [f"node {node_id!r}: key {key!r} is missing" for key in KEYS if key not in config]
    problems += [
        f"node {node_id!r}: key {key!r:.80} is not one of {', '.join(KEYS)}"
        f"{did_you_mean(key, KEYS)}"
        for key in config
        if key not in KEYS
    ]
    if problems:
        raise InvalidTimeoutConfigError(*problems)
    if not isinstance(config["enable"], bool):
        problems.append(f"node {node_id!r}: enable is {config['enable']!r:.80}, not True or False")
    if not isinstance(config["action"], str) or config["action"] not in rules.actions:
        problems.append(
            f"node {node_id!r}: action {config['action']!r:.80} is unknown"
            f"{did_you_mean(config['action'], rules.actions)}"
            f" (installed: {', '.join(sorted(rules.actions))})"
        )
    seconds = _number(config["seconds"])
    if seconds is None or not 0 < seconds <= rules.max_seconds:
        problems.append(
            f"node {node_id!r}: seconds is {config['seconds']!r:.80}, "
            f"not a number above 0 and at most {rules.max_seconds:.15g}"
        )
    if problems:
        raise InvalidTimeoutConfigError(*problems)
    return {"enable": config["enable"], "action": config["action"], "seconds": seconds}


def _number(value: Any) -> int | float | None:
    """Read a finite number; text such as ``"10"`` counts. None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, int):
        return value
    try:
        number = float(value)
    except ValueError:
        return None
    if not math.isfinite(number):
        return None
    return int(number) if isinstance(value, str) and number.is_integer() else number
