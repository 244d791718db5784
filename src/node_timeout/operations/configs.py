"""Operations on timeout configs: store those of a tree, copy bamboo's, and let them end."""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from node_timeout.domain.config_check import ConfigRules
from node_timeout.domain.errors import InvalidInputError, joined
from node_timeout.domain.hints import shown
from node_timeout.domain.run import id_problem
from node_timeout.domain.timeout_config import TreeConfigs, read_configs
from node_timeout.ports.ledger import Ledger
from node_timeout.ports.pool import Pool
from node_timeout.stores.sql.bamboo_configs import BambooConfigs
from node_timeout.stores.tls import Tls

logger = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class ImportReport:
    """What `NodeTimeout.import_bamboo_configs` did, in rows."""

    read: int = 0
    imported: int = 0
    """The others were here already, or were refused."""
    refused: list[str] = field(default_factory=list)
    """One sentence for each row that is no valid config."""


def read_tree(
    root_pipeline_id: Any,
    pipeline_tree: Any,
    rules: ConfigRules,
    *,
    lenient: bool = False,
    payload: Any = None,
) -> tuple[dict[str, Any], TreeConfigs | None]:
    """The result of `NodeTimeout.batch_create_node_timeout_config`, and what is to be stored.

    Nothing is to be stored of a tree that is refused.
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
    """Of what is passed over while the rest is stored."""
    logger.warning("root pipeline %s: %s", shown(root_pipeline_id), message)


def read_trees(
    pipeline_trees: Any, rules: ConfigRules, *, lenient: bool = False
) -> tuple[dict[str, Any], TreeConfigs | None]:
    """The same of `NodeTimeout.batch_create_node_timeout_configs`."""
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


async def store(
    ledger: Ledger, reading: tuple[dict[str, Any], TreeConfigs | None]
) -> dict[str, Any]:
    """Store what `read_tree` or `read_trees` has read; return its result."""
    result, tree = reading
    if tree:
        await ledger.save_configs(tree.enabled, tree.disabled)
    return result


async def end_root(
    ledger: Ledger, pool: Pool, root_pipeline_id: str, retention_seconds: float
) -> int:
    """See `NodeTimeout.root_finished`."""
    _check_root(root_pipeline_id)
    return await ledger.end_root(root_pipeline_id, await pool.now() + retention_seconds)


async def forget_root(
    ledger: Ledger, root_pipeline_id: str, node_ids: Iterable[str] | None = None
) -> int:
    """See `NodeTimeout.forget`."""
    return await ledger.forget_root(*to_forget(root_pipeline_id, node_ids))


def to_forget(
    root_pipeline_id: str, node_ids: Iterable[str] | None
) -> tuple[str, list[str] | None]:
    """What `forget` is given, checked. Raises `InvalidInputError`."""
    _check_root(root_pipeline_id)
    if node_ids is None:
        return root_pipeline_id, None
    if isinstance(node_ids, str):  # a list of its letters is not meant
        raise InvalidInputError(f"node_ids is text, {shown(node_ids)}, not a list of node ids")
    chosen = list(node_ids)
    if problems := [problem for each in chosen if (problem := id_problem("node id", each))]:
        raise InvalidInputError(*problems)
    return root_pipeline_id, chosen


async def import_bamboo(
    ledger: Ledger,
    source_url: str,
    table: str,
    rules: ConfigRules,
    tls: Tls,
    progress: Callable[[int, int], None],
) -> ImportReport:
    """See `NodeTimeout.import_bamboo_configs`."""
    report = ImportReport()
    source = BambooConfigs(source_url, table, tls=tls)
    try:
        total = await source.count()
        async for page in source.pages(rules):
            report.read += page.rows
            report.imported += await ledger.add_configs(page.configs)
            report.refused += page.refused
            progress(report.read, max(total, report.read))
    finally:
        await source.close()
    return report


def _check_root(root_pipeline_id: object) -> None:
    """Raises `InvalidInputError`."""
    if problem := id_problem("root pipeline id", root_pipeline_id):
        raise InvalidInputError(problem)
