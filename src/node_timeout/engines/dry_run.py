"""Engine ``dry_run``: shadow mode. Every run counts as running; actions are only reported."""

import logging

from node_timeout.domain.run import TimedOutNode
from node_timeout.settings import Settings

logger = logging.getLogger(__name__)


class DryRunEngine:
    """See `node_timeout.ports.Engine`. Changes no node; its answers are stored in the ledger."""

    def __init__(self, settings: Settings) -> None:
        del settings  # every engine is built with them

    async def is_running(self, node: TimedOutNode) -> bool:
        del node
        return True

    async def forced_fail(self, node: TimedOutNode, reason: str) -> str:
        return _tell("fail", node, reason)

    async def forced_fail_and_skip(self, node: TimedOutNode, reason: str) -> str:
        return _tell("fail and skip", node, reason)

    async def close(self) -> None:
        return


def _tell(what: str, node: TimedOutNode, reason: str) -> str:
    logger.info(
        "dry run: would %s node %s: %s",
        what,
        node.node_id,
        reason,
        extra={
            "node_id": node.node_id,
            "version": node.version,
            "root_pipeline_id": node.root_pipeline_id,
            "action": node.action,
            "attempt": node.attempt,
        },
    )
    return f"dry run: would {what}"
