"""Operations on timeout configs: store those of a tree, copy bamboo's, end and delete them."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from node_timeout.domain.config_check import ConfigRules
from node_timeout.domain.timeout_config import TreeConfigs
from node_timeout.operations.reading import check_root, to_forget
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
    """The other rows were stored here already, or were refused."""
    refused: list[str] = field(default_factory=list)
    """One sentence for each row that is not a valid config."""


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
    check_root(root_pipeline_id)
    return await ledger.end_root(root_pipeline_id, await pool.now() + retention_seconds)


async def forget_root(
    ledger: Ledger, root_pipeline_id: str, node_ids: Iterable[str] | None = None
) -> int:
    """See `NodeTimeout.forget`."""
    return await ledger.forget_root(*to_forget(root_pipeline_id, node_ids))


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
