"""The configs of a project whose database has the ledger, and calls after its commits."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from django.db import connections, transaction

from node_timeout import metrics
from node_timeout.contrib.bamboo.app_settings import AppSettings
from node_timeout.contrib.bamboo.django_ledger import DjangoLedger
from node_timeout.contrib.bamboo.pool_outbox import PoolOutbox
from node_timeout.contrib.bamboo.project_client import ProjectClient
from node_timeout.contrib.bamboo.root_configs import RootConfigs
from node_timeout.domain.timeout_config import TreeConfigs
from node_timeout.operations.reading import read_tree, read_trees, to_forget

logger = logging.getLogger(__name__)


class OwnConfigs(ProjectClient):
    """The part of `OwnConnection` that is about configs."""

    def __init__(
        self, settings: AppSettings, ledger: DjangoLedger, pool: PoolOutbox, bridge: Any = None
    ) -> None:
        super().__init__(settings, bridge)
        self.ledger = ledger
        self.pool = pool
        self.configs = RootConfigs(ledger.configs_of)

    def batch_create_node_timeout_config(
        self,
        root_pipeline_id: Any,
        pipeline_tree: Any,
        *,
        lenient: bool = False,
        payload: Any = None,
    ) -> dict[str, Any]:
        """See `NodeTimeout`; it is part of the caller's transaction, if there is one."""
        reading = read_tree(
            root_pipeline_id, pipeline_tree, self.settings.rules, lenient=lenient, payload=payload
        )
        return self._store(*reading, [root_pipeline_id])

    def batch_create_node_timeout_configs(
        self, pipeline_trees: Any, *, lenient: bool = False
    ) -> dict[str, Any]:
        """The same for many trees."""
        reading = read_trees(pipeline_trees, self.settings.rules, lenient=lenient)
        return self._store(*reading, pipeline_trees)

    def _store(
        self, result: dict[str, Any], tree: TreeConfigs | None, roots: Iterable[str]
    ) -> dict[str, Any]:
        if tree:
            self.ledger.save_configs(tree.enabled, tree.disabled)
            self._changed(list(roots))
        return result

    def forget(self, root_pipeline_id: str, node_ids: Iterable[str] | None = None) -> int:
        forgotten = self.ledger.forget(*to_forget(root_pipeline_id, node_ids))
        self._changed([root_pipeline_id])
        return forgotten

    def _changed(self, roots: Iterable[str]) -> None:
        """Forget the cached configs of these roots now, and again after the commit."""
        for root in roots:
            self.configs.forget(root)
            self._behind_commit(partial(self.configs.forget, root))

    def root_finished(self, root_pipeline_id: str) -> int:
        if not self.configs.of(root_pipeline_id):
            return 0
        expires_at = self.pool.now() + self.settings.config_retention
        self.configs.forget(root_pipeline_id)
        return self.ledger.end_root(root_pipeline_id, expires_at)

    @property
    def _in_transaction(self) -> bool:
        return bool(connections[self.ledger.alias].in_atomic_block)

    def _behind_commit(self, call: Callable[[], object]) -> None:
        """Call after the commit; at once if there is no transaction; never after a rollback.

        After a commit nothing is raised, since the engine has its own hooks there.
        """
        if not self._in_transaction:
            call()
            return

        def safely() -> None:
            try:
                call()
            except Exception as error:  # noqa: BLE001 - see above
                metrics.EVENTS_MISSED.inc()
                logger.error("not recorded behind the commit: %s", error)  # noqa: TRY400 - one line

        transaction.on_commit(safely, using=self.ledger.alias)
