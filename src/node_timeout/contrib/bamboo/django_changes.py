"""What a person asks of runs, over Django's own connection: cancel, replay, discard.

The admin pages use it in web processes of any kind, gevent's too. What becomes of a row, the domain
says.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial

from node_timeout.contrib.bamboo.django_ledger import DjangoLedger
from node_timeout.contrib.bamboo.pool_outbox import PoolOutbox
from node_timeout.domain import history
from node_timeout.domain.events import NodeLeft
from node_timeout.domain.leaving import leave
from node_timeout.domain.lifecycle import replay
from node_timeout.domain.run import DueRun, HistoryEntry, LedgerRow

logger = logging.getLogger(__name__)


class DjangoChanges:
    """Each call is a transaction, or a part of the caller's. Raises `LedgerUnavailableError`."""

    def __init__(
        self,
        ledger: DjangoLedger,
        pool: PoolOutbox,
        behind_commit: Callable[[Callable[[], object]], None],
    ) -> None:
        self._ledger = ledger
        self._pool = pool
        self._behind_commit = behind_commit

    def cancel(self, run_ids: Sequence[str], *, actor: str, reason: str | None = None) -> int:
        """Cancel runs that are open; return how many were."""
        now = self._pool.now()

        def rule(row: LedgerRow) -> tuple[LedgerRow | None, HistoryEntry | None]:
            event = NodeLeft.of(row.run, only_version=True, actor=actor, reason=reason)
            leaving = leave({row.run: row}, [event], now)
            entries = history.of_leavings(leaving.cancelled, [event], now)
            return (leaving.changed[0], entries[0]) if leaving.cancelled else (None, None)

        cancelled = self._ledger.change(run_ids, rule)
        for row in cancelled:
            self._behind_commit(partial(self._pool.disarm, row.run_id))
        return len(cancelled)

    def replay(self, run_ids: Sequence[str], *, actor: str, reason: str | None = None) -> int:
        """Arm dead runs again, due now; return how many were dead."""
        now = self._pool.now()

        def rule(row: LedgerRow) -> tuple[LedgerRow | None, HistoryEntry | None]:
            return replay(row, now), history.of_replay(row, now, actor, reason)

        replayed = self._ledger.change(run_ids, rule)
        for row in replayed:
            self._behind_commit(partial(self._pool.arm, DueRun(run_id=row.run_id, due_at=now)))
        return len(replayed)

    def discard(self, run_ids: Sequence[str], *, actor: str, reason: str | None = None) -> int:
        """Delete dead runs, with their history; return how many were dead. A log line remains."""
        discarded = self._ledger.discard(run_ids)
        for run_id in discarded:
            self._behind_commit(partial(self._pool.disarm, run_id))
        if discarded:
            runs = ", ".join(discarded)
            logger.info("%s deleted dead runs (%s): %s", actor, reason or "no reason given", runs)
        return len(discarded)
