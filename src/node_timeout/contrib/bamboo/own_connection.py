"""The client of a project whose database holds the ledger: it uses the project's own connection.

What the engine tells costs a statement, and none for a node without a config. Redis is told behind
the commit. All other calls go over the bridge of `BlockingNodeTimeout`.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from django.db import connections, transaction

from node_timeout import metrics
from node_timeout.blocking import BlockingNodeTimeout
from node_timeout.contrib.bamboo.django_changes import DjangoChanges
from node_timeout.contrib.bamboo.django_ledger import DjangoLedger
from node_timeout.contrib.bamboo.own_database import alias_of
from node_timeout.contrib.bamboo.pool_outbox import PoolOutbox
from node_timeout.contrib.bamboo.root_configs import RootConfigs
from node_timeout.domain.errors import TemporaryError
from node_timeout.domain.events import NodeStarted
from node_timeout.domain.roots import only_root
from node_timeout.domain.run import DueRun, LedgerRow, NodeRun, RunState, check_ids
from node_timeout.domain.timeout_config import TreeConfigs
from node_timeout.operations.configs import read_tree, read_trees, to_forget
from node_timeout.runtime.agreement import problems
from node_timeout.settings import Settings
from node_timeout.stores.redis.blocking import BlockingPool
from node_timeout.stores.sql.schema import Schema
from node_timeout.stores.tls import Tls
from node_timeout.wiring import agreed_settings, rules_of

logger = logging.getLogger(__name__)


class OwnConnection(BlockingNodeTimeout):
    """`BlockingNodeTimeout`; what follows needs neither its thread nor its connections.

    It is right under prefork, threads, gevent and eventlet.
    """

    def __init__(
        self, settings: Settings, alias: str, *, call_timeout: float | None = None
    ) -> None:
        """``alias``: of the database in ``DATABASES``. Raises `SettingsError`."""
        super().__init__(settings, call_timeout=call_timeout)
        self.ledger = DjangoLedger(alias)
        pool = BlockingPool(
            settings.redis_url.get_secret_value(),
            settings.executing_pool,
            settings.pool_shards,
            tls=Tls.of(settings),
        )
        self.pool = PoolOutbox(pool)
        self._ledger_id = pool.ledger_id
        self._agreed = agreed_settings(settings)
        self._is_compared = False
        self.configs = RootConfigs(self.ledger.configs_of)
        self._rules = rules_of(settings)
        self.changes = DjangoChanges(self.ledger, self.pool, self._behind_commit)

    def close(self) -> None:
        super().close()
        self.pool.close()

    def is_in(self, alias: str) -> bool:
        """Whether the ledger is in this database of the project as it is now: tests have others."""
        return (
            alias_of(self.settings.database_url.get_secret_value(), [connections[alias]])
            is not None
        )

    def migrate(self) -> str | None:
        """Make the tables, or bring them to this version; return their revision."""
        schema = Schema(self.settings.database_url.get_secret_value(), tls=Tls.of(self.settings))

        async def go() -> str | None:
            try:
                return await schema.migrate()
            finally:
                await schema.close()

        with ThreadPoolExecutor(1) as thread:  # the caller may be in an event loop
            return thread.submit(asyncio.run, go()).result()

    def batch_create_node_timeout_config(
        self,
        root_pipeline_id: Any,
        pipeline_tree: Any,
        *,
        lenient: bool = False,
        payload: Any = None,
    ) -> dict[str, Any]:
        """As ever; in the transaction that the caller has begun, if there is one."""
        reading = read_tree(
            root_pipeline_id, pipeline_tree, self._rules, lenient=lenient, payload=payload
        )
        return self._store(*reading, [root_pipeline_id])

    def batch_create_node_timeout_configs(
        self, pipeline_trees: Any, *, lenient: bool = False
    ) -> dict[str, Any]:
        """The same of many."""
        reading = read_trees(pipeline_trees, self._rules, lenient=lenient)
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
        """Their configs; and once more when others can see it."""
        for root in roots:
            self.configs.forget(root)
            self._behind_commit(partial(self.configs.forget, root))

    def node_started(
        self,
        node_id: str,
        version: str,
        root_pipeline_id: str | None = None,
        *,
        happened_at: float | None = None,
    ) -> bool:
        check_ids(node_id, version, root_pipeline_id)
        root = self._root_of(node_id, root_pipeline_id)
        config = None if root is None else self.configs.of(root).get(node_id)
        if root is None or config is None:
            metrics.NOT_ARMED.inc()
            return False
        event = NodeStarted(
            node_id=node_id, version=version, root_pipeline_id=root, happened_at=happened_at
        )
        now = self.pool.now()
        row = self.ledger.open(event, config, now)
        if row is not None:
            return self._armed(row)
        if self._in_transaction:
            self._behind_commit(lambda: self._armed(self.ledger.resume(event, config, now)))
            return False
        return self._armed(self.ledger.resume(event, config, now))

    def _armed(self, row: LedgerRow | None) -> bool:
        """Tell the pool of an armed run."""
        if row is None or row.state is not RunState.ARMED or row.next_at is None:
            metrics.NOT_ARMED.inc()
            return False
        metrics.ARMED_TOTAL.inc()
        due = DueRun(run_id=row.run_id, due_at=row.next_at)
        self._behind_commit(partial(self._arm, due))
        return True

    def _arm(self, due: DueRun) -> None:
        if self.pool.arm(due) and not self._is_compared:
            self._compare()

    def _compare(self) -> None:
        """Once a process: what is set otherwise than in the scanners may lose a deadline."""
        try:
            found = problems(self._agreed, self.ledger.settings(), self._ledger_id())
        except TemporaryError:
            return  # at the next arming
        self._is_compared = True
        for text in found:
            logger.error("%s", text)

    def node_left(
        self,
        node_id: str,
        version: str | None = None,
        root_pipeline_id: str | None = None,
        *,
        happened_at: float | None = None,
        trust_ledger: bool = False,
    ) -> int:
        """As ever. With ``trust_ledger`` a version is named, or the one after it, and has left just
        now; in a transaction that is noted behind the commit, and 0 is returned.
        """
        if not (trust_ledger and version and happened_at is None):
            return super().node_left(
                node_id,
                version,
                root_pipeline_id,
                happened_at=happened_at,
                trust_ledger=trust_ledger,
            )
        check_ids(node_id, version, root_pipeline_id)
        root = self._root_of(node_id, root_pipeline_id)
        if root is None or node_id not in self.configs.of(root):
            return 0
        named = NodeRun(root_pipeline_id=root, node_id=node_id, version=version)
        now = self.pool.now()
        if self._in_transaction:
            self._behind_commit(lambda: self._left(named, now))
            return 0
        return self._left(named, now)

    def _left(self, named: NodeRun, now: float) -> int:
        cancelled = self.ledger.leave(named, now)
        metrics.DISARMED.inc(len(cancelled))
        for run in cancelled:
            self._behind_commit(partial(self.pool.disarm, run.run_id))
        return len(cancelled)

    def root_finished(self, root_pipeline_id: str) -> int:
        if not self.configs.of(root_pipeline_id):
            return 0
        expires_at = self.pool.now() + self.settings.config_retention
        self.configs.forget(root_pipeline_id)
        return self.ledger.end_root(root_pipeline_id, expires_at)

    def _root_of(self, node_id: str, named: str | None) -> str | None:
        """Raises `AmbiguousNodeError`."""
        return named or only_root(node_id, self.ledger.roots_of(node_id))

    @property
    def _in_transaction(self) -> bool:
        return bool(connections[self.ledger.alias].in_atomic_block)

    def _behind_commit(self, call: Callable[[], object]) -> None:
        """Now, if no transaction is under way; never, if it is rolled back.

        Behind a commit nothing is raised: the engine has hooks of its own there.
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
