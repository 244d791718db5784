"""How runs in memory are looked after: what the reconciler and operators do with rows."""

import dataclasses
from collections.abc import Callable, Sequence

from node_timeout.domain import history, lifecycle
from node_timeout.domain.run import DueRun, LedgerRow, RunState
from node_timeout.ports.directory import Cursor, DeadRuns
from node_timeout.ports.ledger import ReplayPage, Retention
from node_timeout.stores.memory.ledger_directory import CLOSED, MemoryDirectory, finished_at


class MemoryKeeping(MemoryDirectory):
    """The part of `node_timeout.ports.ledger.Ledger` that is not about the way of a run."""

    async def open_runs(
        self, after: DueRun | None, limit: int, until: float | None = None
    ) -> list[DueRun]:
        def wants_at(row: LedgerRow) -> float | None:
            late = until is not None and row.next_at is not None and row.next_at > until
            return None if row.state is not RunState.ARMED or late else row.next_at

        return self._page(wants_at, after, limit)

    async def expired_runs(
        self, before: float, limit: int, after: DueRun | None = None
    ) -> list[DueRun]:
        def ended_at(row: LedgerRow) -> float | None:
            until = row.lease_until
            is_over = row.state is RunState.EXECUTING and until is not None and until < before
            return until if is_over else None

        return self._page(ended_at, after, limit)

    def _page(
        self, instant: Callable[[LedgerRow], float | None], after: DueRun | None, limit: int
    ) -> list[DueRun]:
        keys = sorted(
            (at, row.run_id) for row in self._rows.values() if (at := instant(row)) is not None
        )
        later = [key for key in keys if after is None or key > (after.due_at, after.run_id)]
        return [DueRun(run_id=run_id, due_at=at) for at, run_id in later[:limit]]

    async def purgeable(self, now: float, retention: Retention, limit: int) -> list[str]:
        chosen: list[str] = []
        for state in CLOSED:
            past = [
                row
                for row in self._rows.values()
                if row.state is state and _is_past(row, now, retention)
            ]
            chosen += [row.run_id for row in sorted(past, key=finished_at)[:limit]]
        return chosen

    async def purge(self, run_ids: Sequence[str], now: float, retention: Retention) -> int:
        past = [row.run_id for row in self._known(run_ids) if _is_past(row, now, retention)]
        return self._delete(past)

    async def replay(self, order: DeadRuns, now: float, limit: int) -> ReplayPage:
        page = self._dead(order)[:limit]
        replayed = [new for row in page if (new := lifecycle.replay(row, now))]
        self._store(replayed)
        self._note(history.of_replay(row, now, order.actor, order.reason) for row in replayed)
        rest = None
        if len(page) == limit:
            rest = dataclasses.replace(order, after=Cursor(finished_at(page[-1]), page[-1].run_id))
        due = tuple(DueRun(run_id=row.run_id, due_at=now) for row in replayed)
        return ReplayPage(due=due, rest=rest)

    async def discard(self, which: DeadRuns, limit: int) -> list[str]:
        run_ids = [row.run_id for row in self._dead(which)[:limit]]
        self._delete(run_ids)
        return run_ids

    def _dead(self, which: DeadRuns) -> list[LedgerRow]:
        found = self._found(which.wanted, which.after)
        return [row for _, row in found if finished_at(row) <= which.until]


def _is_past(row: LedgerRow, now: float, retention: Retention) -> bool:
    seconds = {
        RunState.HANDLED: retention.handled_seconds,
        RunState.STALE: retention.handled_seconds,
        RunState.CANCELLED: retention.cancelled_seconds,
        RunState.DEAD: retention.dead_seconds,
    }.get(row.state)
    return seconds is not None and finished_at(row) < now - seconds
