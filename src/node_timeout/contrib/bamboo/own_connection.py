"""The client of a project whose database has the ledger: it uses the project's own connection.

An event of the engine costs one statement, and none for a node without a config. Redis is updated
after the commit. Queries and changes of many runs use the bridge, if there is one.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from django.db import connections

from node_timeout import metrics, tracing
from node_timeout.contrib.bamboo.app_settings import AppSettings
from node_timeout.contrib.bamboo.django_changes import DjangoChanges
from node_timeout.contrib.bamboo.django_ledger import DjangoLedger
from node_timeout.contrib.bamboo.own_configs import OwnConfigs
from node_timeout.contrib.bamboo.own_database import alias_of
from node_timeout.contrib.bamboo.pool_outbox import PoolOutbox
from node_timeout.domain.agreement import problems
from node_timeout.domain.errors import TemporaryError
from node_timeout.domain.events import NodeLeft, NodeStarted
from node_timeout.domain.history import HistoryEntry
from node_timeout.domain.ids import check_ids
from node_timeout.domain.roots import only_root
from node_timeout.domain.run import DueRun, LedgerRow, NodeRun, RunState
from node_timeout.operations.reading import check_run_ids
from node_timeout.stores.redis.blocking import BlockingPool
from node_timeout.stores.tls import Tls

logger = logging.getLogger(__name__)


class OwnConnection(OwnConfigs):
    """Its own methods need no bridge, no thread and no further connection to the database.

    They work under prefork, threads, gevent and eventlet.
    """

    def __init__(self, settings: AppSettings, alias: str, bridge: Any = None) -> None:
        """``alias`` names the database in ``DATABASES``. Raises `SettingsError`."""
        pool = BlockingPool(
            settings.redis_url,
            settings.executing_pool,
            settings.pool_shards,
            tls=Tls.of(settings),
        )
        super().__init__(settings, DjangoLedger(alias), PoolOutbox(pool), bridge)
        self._ledger_id = pool.ledger_id
        self._agreed = settings.agreed
        self._is_compared = False
        self.changes = DjangoChanges(
            self.ledger, self.pool, self._behind_commit, max_seconds=settings.max_seconds
        )

    def close(self) -> None:
        super().close()
        self.pool.close()

    def is_in(self, alias: str) -> bool:
        """Whether this database, as it is connected now, has the ledger: tests use other ones."""
        url = self.settings.database_url
        if url is None:
            return alias == self.ledger.alias
        return alias_of(url, [connections[alias]]) is not None

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
        with tracing.arming([event]) as (traced,):
            row = self.ledger.open(traced, config, now)
            if row is not None:
                return self._armed(row)
            if self._in_transaction:
                self._behind_commit(lambda: self._armed(self.ledger.resume(traced, config, now)))
                return False
            return self._armed(self.ledger.resume(traced, config, now))

    def _armed(self, row: LedgerRow | None) -> bool:
        """Put an armed run into the pool after the commit; return whether it is armed."""
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
        """Compare the settings with the scanners', once per process: differences lose deadlines."""
        try:
            found = problems(self._agreed, self.ledger.settings(), self._ledger_id())
        except TemporaryError:
            return  # try again at the next arming
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
        """See `NodeTimeout`. With ``trust_ledger``, ``version`` is the one that has left just now,
        or its successor. In a transaction it is recorded after the commit, and returns 0.
        """
        if not (trust_ledger and version and happened_at is None):
            return self.nodes_left(
                [(node_id, version, root_pipeline_id)],
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

    def node_paused(
        self,
        node_id: str,
        version: str,
        root_pipeline_id: str | None = None,
        *,
        happened_at: float | None = None,
    ) -> bool:
        """The engine has suspended the node: stop its time until it starts again.

        A node without a config costs nothing. In a transaction it works like `node_left`.
        """
        check_ids(node_id, version, root_pipeline_id)
        root = self._root_of(node_id, root_pipeline_id)
        if root is None or node_id not in self.configs.of(root):
            return False
        now = self.pool.now()
        event = NodeLeft(
            node_id=node_id,
            version=version,
            root_pipeline_id=root,
            happened_at=now if happened_at is None else happened_at,
            trust_ledger=True,
            is_pause=True,
        )
        call = partial(self._have_left, [event], [], now)
        if self._in_transaction:
            self._behind_commit(call)
            return False
        return bool(call())

    def nodes_started(
        self, runs: Iterable[Sequence[str]], *, happened_at: float | None = None
    ) -> int:
        """`node_started` for many (node_id, version[, root_pipeline_id]); return how many are
        armed. If the ledger fails in between, the first ones are armed: repeat the call.
        """
        named = [_three(run) for run in runs]
        for node_id, version, root in named:
            check_ids(node_id, version, root)
        rooted = [
            (node_id, version, self._root_of(node_id, root)) for node_id, version, root in named
        ]
        return sum(self.node_started(*each, happened_at=happened_at) for each in rooted)

    def nodes_left(
        self,
        nodes: Iterable[Sequence[str | None]],
        *,
        happened_at: float | None = None,
        trust_ledger: bool = False,
    ) -> int:
        """`node_left` for many (node_id, version or None[, root_pipeline_id]); return how many were
        armed. If it raises, all are still armed. In a transaction it works like `node_left`.
        """
        now = self.pool.now()
        if happened_at is None and self._in_transaction:
            happened_at = now  # runs that start before the commit stay armed
        events: list[NodeLeft] = []
        foreign: list[tuple[str, str]] = []
        for node in nodes:
            node_id, version, named = _three(node)
            check_ids(node_id, "-" if version is None else version, named)
            root = named or only_root(node_id, self._roots_that_have(node_id))
            if not named and version and not trust_ledger:
                foreign.append((node_id, version))  # only this root has the node, or none has
            if root is not None:
                events.append(
                    NodeLeft(
                        node_id=node_id,
                        version=version,
                        root_pipeline_id=root,
                        happened_at=happened_at,
                        trust_ledger=trust_ledger,
                    )
                )
        call = partial(self._have_left, events, foreign, now)
        if self._in_transaction:
            self._behind_commit(call)
            return 0
        return call()

    def _have_left(
        self, events: Sequence[NodeLeft], foreign: Sequence[tuple[str, str]], now: float
    ) -> int:
        leaving = self.ledger.leave_all(events, now)
        stopped = (*leaving.cancelled, *leaving.paused)
        metrics.DISARMED.inc(len(stopped))
        named = [event.run for event in events if not event.trust_ledger]
        gone = dict.fromkeys([*stopped, *filter(None, named)])
        for run in gone:
            if run not in leaving.kept:
                self._behind_commit(partial(self.pool.disarm, run.run_id))
        for member in foreign:
            self._behind_commit(partial(self.pool.disarm_foreign, *member))
        return len(stopped)

    def rows(self, node_id: str, root_pipeline_id: str | None = None) -> list[LedgerRow]:
        return self.ledger.rows(node_id, root_pipeline_id)

    def history(self, run_ids: Sequence[str]) -> list[HistoryEntry]:
        check_run_ids(run_ids)
        return self.ledger.history(run_ids)

    def _left(self, named: NodeRun, now: float) -> int:
        cancelled = self.ledger.leave(named, now)
        metrics.DISARMED.inc(len(cancelled))
        for run in cancelled:
            self._behind_commit(partial(self.pool.disarm, run.run_id))
        return len(cancelled)

    def _root_of(self, node_id: str, named: str | None) -> str | None:
        """Raises `AmbiguousNodeError`."""
        return named or only_root(node_id, self.ledger.roots_of(node_id))

    def _roots_that_have(self, node_id: str) -> list[str]:
        """Root pipelines with a config or an open run of the node: a config may be deleted."""
        found = {*self.ledger.roots_of(node_id), *self.ledger.roots_of_open_runs(node_id)}
        return sorted(found)


def _three(node: Sequence[Any]) -> tuple[Any, Any, Any]:
    node_id, version, *root = node
    return node_id, version, root[0] if root else None
