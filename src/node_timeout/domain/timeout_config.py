"""Checks timeout configs, puts them into a pipeline tree, reads them from one. Pure functions.

A node's ``timeout_config`` is ``{"enable": True, "action": str, "seconds": number}``. It may have
``after``, an ISO 8601 duration, in place of ``seconds``. It may have a ``payload``, any JSON, for
the strategy. Three rules:

- In ``configs`` to be applied, every fault is an error: somebody has just written them.
- In a tree, a config counts if it says ``enable: True``; then a fault is an error.
- Everything else in a tree is no timeout. If a timeout was probably meant, or its node cannot have
  one, that is a finding: the other nodes keep their deadlines.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any

from node_timeout.domain.config_check import AFTER, PAYLOAD, ConfigRules, check_config, payload_text
from node_timeout.domain.errors import (
    InvalidInputError,
    InvalidPipelineTreeError,
    InvalidTimeoutConfigError,
)
from node_timeout.domain.hints import Problems, shown
from node_timeout.domain.ids import id_problem
from node_timeout.domain.pipeline_tree import SERVICE_ACTIVITY, PipelineTree, type_of
from node_timeout.domain.run import Node
from node_timeout.older_python import dataclass

MAX_ACTION_LENGTH = 64
NO_SWITCHES = ("action", "seconds", AFTER, PAYLOAD)


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeoutConfig:
    """The timeout of one node: which action deals with it, and how long after its start."""

    node_id: str
    root_pipeline_id: str
    action: str
    timeout: float
    """Seconds."""
    payload_json: str | None = None

    @property
    def payload(self) -> Any:
        """The payload for the strategy, parsed again on each call; None if there is none."""
        return None if self.payload_json is None else json.loads(self.payload_json)

    @property
    def node(self) -> Node:
        return self.root_pipeline_id, self.node_id

    def as_dict(self) -> dict[str, Any]:
        """The fields by name, as a dict that ``json.dumps`` accepts."""
        return {
            "node_id": self.node_id,
            "root_pipeline_id": self.root_pipeline_id,
            "action": self.action,
            "timeout": self.timeout,
            "payload": self.payload,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeConfigs:
    """The timeouts in the tree of a root pipeline."""

    enabled: tuple[TimeoutConfig, ...]
    disabled: tuple[Node, ...]
    """Nodes without an enabled timeout."""
    findings: tuple[str, ...]
    """One sentence for each part that was ignored but may have been meant as a timeout."""


def apply_configs(tree: Any, configs: Any, rules: ConfigRules) -> dict[str, Any]:
    """Return a copy of ``tree`` with each config at its node's ``timeout_config``.

    Raises `InvalidPipelineTreeError` or `InvalidTimeoutConfigError` that lists every bad node;
    the input is never changed.
    """
    if not isinstance(configs, Mapping):
        raise InvalidTimeoutConfigError(
            f"configs is {type(configs).__name__}, not a dict of node id to config"
        )
    nodes = PipelineTree.of(tree).nodes
    problems = Problems()
    checked: dict[str, dict[str, Any]] = {}
    for node_id, config in configs.items():
        if _is_target(node_id, nodes, problems):
            checked[node_id] = check_config(node_id, config, rules, problems)
    if problems:
        raise InvalidTimeoutConfigError(*problems)
    try:
        new_tree: dict[str, Any] = copy.deepcopy(tree)
    except RecursionError as error:
        raise InvalidPipelineTreeError("the pipeline tree's values are nested too deep") from error
    new_nodes = PipelineTree.of(new_tree).nodes
    for node_id, config in checked.items():
        new_nodes[node_id]["timeout_config"] = config
    return new_tree


def read_configs(
    root_pipeline_id: Any,
    tree: Any,
    rules: ConfigRules,
    *,
    lenient: bool = False,
    payload: Any = None,
) -> TreeConfigs:
    """Collect the configs of a tree. Raises `InvalidInputError` that lists every bad node.

    ``lenient``: a bad node is a finding, and the others keep their timeouts. ``payload``: the
    payload for nodes that have none of their own.
    """
    _check_given(root_pipeline_id, payload)
    pipeline = PipelineTree.of(tree)
    problems = Problems()
    findings = list(pipeline.passed_over)
    enabled: list[TimeoutConfig] = []
    disabled: list[Node] = []
    for node_id, node in pipeline.nodes.items():
        config = node.get("timeout_config")
        if not config:
            continue
        bad_id = id_problem("node id", node_id)
        if finding := _finding(node_id, node, config):
            findings.append(finding)
        elif _is_enabled(config) and bad_id:
            problems.append(bad_id)
        elif _is_enabled(config):
            before = len(problems)
            checked = check_config(node_id, config, rules, problems)
            if len(problems) == before:
                checked = {PAYLOAD: payload} | checked
                enabled.append(_timeout_config(node_id, root_pipeline_id, checked))
        if node.get("type") == SERVICE_ACTIVITY and not _is_enabled(config) and not bad_id:
            disabled.append((root_pipeline_id, node_id))
    if problems and not lenient:
        raise InvalidTimeoutConfigError(*problems)
    findings += problems
    return TreeConfigs(
        enabled=tuple(enabled),
        disabled=tuple(disabled),
        findings=tuple(findings),
    )


def read_config(
    node_id: str, root_pipeline_id: Any, config: Any, rules: ConfigRules
) -> TimeoutConfig | None:
    """Read a single config; None if it is no timeout. Raises `InvalidInputError`.

    No other node depends on it: a config that was probably meant as a timeout is an error.
    """
    if _is_off(config):
        return None
    problem = id_problem(f"root pipeline id of node {node_id!r}", root_pipeline_id)
    if problem:
        raise InvalidInputError(problem)
    problems = Problems()
    checked = check_config(node_id, config, rules, problems)
    if problems:
        raise InvalidTimeoutConfigError(*problems)
    return _timeout_config(node_id, root_pipeline_id, checked)


def _check_given(root_pipeline_id: Any, payload: Any) -> None:
    """Check the arguments. Raises `InvalidInputError`."""
    if problem := id_problem("root pipeline id", root_pipeline_id):
        raise InvalidInputError(problem)
    try:
        payload_text(payload)
    except ValueError as error:
        raise InvalidInputError(f"payload {error}") from None


def _timeout_config(
    node_id: str, root_pipeline_id: str, checked: Mapping[str, Any]
) -> TimeoutConfig:
    return TimeoutConfig(
        node_id=node_id,
        root_pipeline_id=root_pipeline_id,
        action=checked["action"],
        timeout=float(checked["seconds"]),
        payload_json=payload_text(checked.get(PAYLOAD)),
    )


def _finding(node_id: Any, node: dict[str, Any], config: Any) -> str | None:
    """Why a node gets no timeout although one was probably meant; else None."""
    if not _is_enabled(config):
        if _is_off(config):
            return None
        why = f"its timeout_config {shown(config)} does not say 'enable': True"
    elif node.get("type") != SERVICE_ACTIVITY:
        why = f"it is {type_of(node)}, only a {SERVICE_ACTIVITY} can time out"
    else:
        return None
    return f"node {shown(node_id)} gets no timeout: {why}"


def _is_enabled(config: Any) -> bool:
    return isinstance(config, Mapping) and config.get("enable") is True


def _is_off(config: Any) -> bool:
    """Whether this is no timeout, and none was meant.

    True if it says ``enable: False``, or if every key except action, seconds, after and payload has
    a value such as False or None: bk-sops and BKFlow write ``enabled: False``, with a d.
    """
    if not isinstance(config, Mapping):
        return False
    if config.get("enable") is False:
        return True
    switches = [value for key, value in config.items() if key not in NO_SWITCHES]
    return not any(switches) if switches else not config


def _is_target(node_id: Any, nodes: Mapping[Any, dict[str, Any]], problems: Problems) -> bool:
    """Whether the node can have a timeout; if not, ``problems`` says why."""
    problem = id_problem("node id", node_id)
    if not problem and node_id not in nodes:
        problem = (
            f"node {node_id!r} is not in the pipeline tree{problems.did_you_mean(node_id, nodes)}"
        )
    if not problem and nodes[node_id].get("type") != SERVICE_ACTIVITY:
        problem = (
            f"node {node_id!r} is {type_of(nodes[node_id])}, only a {SERVICE_ACTIVITY} can time out"
        )
    if problem:
        problems.append(problem)
    return not problem
