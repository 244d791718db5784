"""Changes of runs over Django's own connection: all except reconfigure.

The admin pages use it in web processes of any kind, also under gevent. The domain decides what
becomes of a row.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial

from node_timeout.contrib.bamboo.django_ledger import DjangoLedger
from node_timeout.contrib.bamboo.pool_outbox import PoolOutbox
from node_timeout.domain.changes import Cancel, Change, Extend, Fire, Pause, Replay, Resume
from node_timeout.domain.history import HistoryEntry
from node_timeout.domain.orders import Order, judge
from node_timeout.domain.run import DueRun, LedgerRow, RunState

logger = logging.getLogger(__name__)


class DjangoChanges:
    """Each call is a transaction, or part of the caller's. Raises `LedgerUnavailableError`."""

    def __init__(
        self,
        ledger: DjangoLedger,
        pool: PoolOutbox,
        behind_commit: Callable[[Callable[[], object]], None],
        *,
        max_seconds: float,
    ) -> None:
        """``max_seconds``: the longest time that a run may get."""
        self._ledger = ledger
        self._pool = pool
        self._behind_commit = behind_commit
        self._max_seconds = max_seconds

    def extend(
        self, run_ids: Sequence[str], *, by: float, actor: str, reason: str | None = None
    ) -> int:
        """Move deadlines by ``by`` seconds, which may be negative; return how many were moved."""
        return self._move(Extend(by=by), run_ids, actor, reason)

    def fire(self, run_ids: Sequence[str], *, actor: str, reason: str | None = None) -> int:
        """Make armed or paused runs due now; return how many were armed or paused."""
        return self._move(Fire(), run_ids, actor, reason)

    def cancel(self, run_ids: Sequence[str], *, actor: str, reason: str | None = None) -> int:
        """Cancel armed or paused runs; return how many were armed or paused."""
        return self._move(Cancel(), run_ids, actor, reason)

    def pause(self, run_ids: Sequence[str], *, actor: str, reason: str | None = None) -> int:
        """Stop the time of armed runs; return how many were armed."""
        return self._move(Pause(), run_ids, actor, reason)

    def resume(self, run_ids: Sequence[str], *, actor: str, reason: str | None = None) -> int:
        """Continue paused runs with the time they had left; return how many were paused."""
        return self._move(Resume(), run_ids, actor, reason)

    def replay(self, run_ids: Sequence[str], *, actor: str, reason: str | None = None) -> int:
        """Arm dead runs again, due now; return how many were dead."""
        return self._move(Replay(), run_ids, actor, reason)

    def _move(self, change: Change, run_ids: Sequence[str], actor: str, reason: str | None) -> int:
        """Change the rows, and after the commit update the pool."""
        changed = self._change(change, run_ids, actor, reason)
        for row in changed:
            self._behind_commit(partial(self._tell_pool, row))
        return len(changed)

    def _tell_pool(self, row: LedgerRow) -> None:
        """Remove the run first: arming alone does not move a member that is already there."""
        self._pool.disarm(row.run_id)
        if row.state is RunState.ARMED and row.next_at is not None:
            self._pool.arm(DueRun(run_id=row.run_id, due_at=row.next_at))

    def _change(
        self, change: Change, run_ids: Sequence[str], actor: str, reason: str | None
    ) -> list[LedgerRow]:
        now = self._pool.now()
        order = Order(change=change, actor=actor, reason=reason, max_seconds=self._max_seconds)

        def rule(row: LedgerRow) -> tuple[LedgerRow | None, HistoryEntry | None]:
            judged = judge(order, row, now)
            return (judged.row, judged.entry) if judged.entry else (None, None)

        return self._ledger.change(run_ids, rule)

    def discard(self, run_ids: Sequence[str], *, actor: str, reason: str | None = None) -> int:
        """Delete dead runs, with their history; return how many were dead. A log line remains."""
        discarded = self._ledger.discard(run_ids)
        for run_id in discarded:
            self._behind_commit(partial(self._pool.disarm, run_id))
        if discarded:
            runs = ", ".join(discarded)
            logger.info("%s deleted dead runs (%s): %s", actor, reason or "no reason given", runs)
        return len(discarded)
