"""Reads and checks what callers give about configs, before anything is stored."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from node_timeout.domain.config_check import ConfigRules
from node_timeout.domain.errors import InvalidInputError, joined
from node_timeout.domain.hints import shown
from node_timeout.domain.ids import id_problem
from node_timeout.domain.run_id import is_run_id
from node_timeout.domain.timeout_config import TreeConfigs, read_configs

logger = logging.getLogger(__name__)


def read_tree(
    root_pipeline_id: Any,
    pipeline_tree: Any,
    rules: ConfigRules,
    *,
    lenient: bool = False,
    payload: Any = None,
) -> tuple[dict[str, Any], TreeConfigs | None]:
    """The result of `NodeTimeout.batch_create_node_timeout_config`, and what is to be stored.

    The latter is None if the tree is refused.
    """
    result, tree = _read(root_pipeline_id, pipeline_tree, rules, lenient=lenient, payload=payload)
    if tree and result["message"]:
        _warn(root_pipeline_id, result["message"])
    return result, tree


def _read(
    root_pipeline_id: Any, pipeline_tree: Any, rules: ConfigRules, **how: Any
) -> tuple[dict[str, Any], TreeConfigs | None]:
    try:
        tree = read_configs(root_pipeline_id, pipeline_tree, rules, **how)
    except InvalidInputError as error:
        return {"result": False, "data": [], "message": str(error)}, None
    message = joined(tree.findings)
    return {"result": True, "data": list(tree.enabled), "message": message}, tree


def _warn(root_pipeline_id: Any, message: str) -> None:
    """Log what is ignored while the rest is stored."""
    logger.warning("root pipeline %s: %s", shown(root_pipeline_id), message)


def read_trees(
    pipeline_trees: Any, rules: ConfigRules, *, lenient: bool = False
) -> tuple[dict[str, Any], TreeConfigs | None]:
    """The same for `NodeTimeout.batch_create_node_timeout_configs`."""
    if not isinstance(pipeline_trees, Mapping):
        said = f"pipeline_trees is {type(pipeline_trees).__name__}, not a dict by root pipeline id"
        return {"result": False, "data": [], "message": said}, None
    found = {
        root: _read(root, tree, rules, lenient=lenient) for root, tree in pipeline_trees.items()
    }
    result = lenient or all(tree for _, tree in found.values())
    for root, (one, _) in found.items():
        if result and one["message"]:
            _warn(root, one["message"])
    trees = [tree for _, tree in found.values() if tree and result]
    together = TreeConfigs(
        enabled=tuple(config for tree in trees for config in tree.enabled),
        disabled=tuple(node for tree in trees for node in tree.disabled),
        findings=tuple(
            f"root pipeline {shown(root)}: {one['message']}"
            for root, (one, _) in found.items()
            if one["message"]
        ),
    )
    message = joined(together.findings)
    return {"result": result, "data": list(together.enabled), "message": message}, (
        together if result else None
    )


def to_forget(
    root_pipeline_id: str, node_ids: Iterable[str] | None
) -> tuple[str, list[str] | None]:
    """Check the arguments of `forget`. Raises `InvalidInputError`."""
    check_root(root_pipeline_id)
    if node_ids is None:
        return root_pipeline_id, None
    if isinstance(node_ids, str):  # else each letter would be a node id
        raise InvalidInputError(f"node_ids is text, {shown(node_ids)}, not a list of node ids")
    chosen = list(node_ids)
    if problems := [problem for each in chosen if (problem := id_problem("node id", each))]:
        raise InvalidInputError(*problems)
    return root_pipeline_id, chosen


def check_root(root_pipeline_id: object) -> None:
    """Raises `InvalidInputError`."""
    if problem := id_problem("root pipeline id", root_pipeline_id):
        raise InvalidInputError(problem)


def check_run_ids(run_ids: Sequence[str]) -> None:
    """Raises `InvalidInputError`."""
    if wrong := [each for each in run_ids if not is_run_id(each)]:
        raise InvalidInputError(*(f"{shown(each)} is no run id" for each in wrong))
