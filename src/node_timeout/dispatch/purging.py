"""Deletes closed rows and expired configs, one bounded page at a time."""

from node_timeout import metrics
from node_timeout.dispatch.reports import ReconcileReport
from node_timeout.ports.ledger import Ledger, Retention
from node_timeout.ports.pool import Pool


async def purge(
    ledger: Ledger, pool: Pool, retention: Retention, limit: int, report: ReconcileReport
) -> bool:
    """Delete one page of closed rows and one of configs past their retention; return whether either
    page was full.

    Runs leave the pool first: a `NodeLeft` event may have crossed with the arming there, and a
    member whose row is gone could not be identified. Raises `PoolUnavailableError`,
    `LedgerUnavailableError`.
    """
    now = await pool.now()
    run_ids = await ledger.purgeable(now, retention, limit)
    if run_ids:
        await pool.disarm(run_ids)
        purged = await ledger.purge(run_ids, now, retention)
        report.purged += purged
        metrics.PURGED.inc(purged)
    configs = await ledger.purge_configs(now, limit)
    report.purged_configs += configs
    metrics.CONFIGS_PURGED.inc(configs)
    return max(len(run_ids), configs) >= limit
