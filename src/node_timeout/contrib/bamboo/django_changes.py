"""What a person asks of runs, over Django's own connection: cancel, pause, resume, replay, discard.

The admin pages use it in web processes of any kind, gevent's too. What becomes of a row, the domain
says.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from functools import partial

from node_timeout.contrib.bamboo.django_ledger import DjangoLedger
from node_timeout.contrib.bamboo.pool_outbox import PoolOutbox
from node_timeout.domain.changes import Cancel, Change, Pause, Replay, Resume
from node_timeout.domain.history import HistoryEntry
from node_timeout.domain.orders import Order, judge
from node_timeout.domain.run import DueRun, LedgerRow

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
        """Cancel runs that are armed or paused; return how many were."""
        cancelled = self._change(Cancel(), run_ids, actor, reason)
        for row in cancelled:
            self._behind_commit(partial(self._pool.disarm, row.run_id))
        return len(cancelled)

    def pause(self, run_ids: Sequence[str], *, actor: str, reason: str | None = None) -> int:
        """Let the time of armed runs stand still; return how many were armed."""
        paused = self._change(Pause(), run_ids, actor, reason)
        for row in paused:
            self._behind_commit(partial(self._pool.disarm, row.run_id))
        return len(paused)

    def resume(self, run_ids: Sequence[str], *, actor: str, reason: str | None = None) -> int:
        """Let paused runs go on with the time they had left; return how many were paused."""
        return self._arm(Resume(), run_ids, actor, reason)

    def replay(self, run_ids: Sequence[str], *, actor: str, reason: str | None = None) -> int:
        """Arm dead runs again, due now; return how many were dead."""
        return self._arm(Replay(), run_ids, actor, reason)

    def _arm(self, change: Change, run_ids: Sequence[str], actor: str, reason: str | None) -> int:
        armed = self._change(change, run_ids, actor, reason)
        for row in armed:
            due = DueRun(run_id=row.run_id, due_at=row.next_at or 0.0)
            self._behind_commit(partial(self._pool.arm, due))
        return len(armed)

    def _change(
        self, change: Change, run_ids: Sequence[str], actor: str, reason: str | None
    ) -> list[LedgerRow]:
        now = self._pool.now()
        order = Order(change=change, actor=actor, reason=reason, max_seconds=math.inf)

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
