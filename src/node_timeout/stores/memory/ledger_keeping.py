"""What the reconciler and operators do with rows in memory."""

from collections.abc import Callable, Sequence

from node_timeout.domain import orders
from node_timeout.domain.changes import Discard, Verdict
from node_timeout.domain.orders import Judged, Order
from node_timeout.domain.run import CLOSED, DueRun, LedgerRow, RunState, StoppedBy
from node_timeout.ports.ledger import Retention
from node_timeout.stores.memory.ledger_directory import MemoryDirectory, finished_at


class MemoryKeeping(MemoryDirectory):
    """The part of `node_timeout.ports.ledger.Ledger` outside a run's normal course."""

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

    async def change(self, order: Order, run_ids: Sequence[str], now: float) -> dict[str, Judged]:
        judged: dict[str, Judged] = {}
        if order.asks_configs:
            order = order.told(await self.configs([row.node for row in self._known(run_ids)]))
        for run_id in sorted(set(run_ids)):
            entries = self._history.get(run_id, [])
            kinds = {entry.idempotency_key: entry.kind for entry in entries}
            had = kinds.get(order.idempotency_key) if order.idempotency_key else None
            each = orders.judge(order, self._rows.get(run_id), now, had)
            if each.entry is not None and each.row is not None:
                self._store([each.row])
                self._note([each.entry])
            judged[run_id] = each
        if isinstance(order.change, Discard):
            done = [run_id for run_id, each in judged.items() if each.verdict is Verdict.DONE]
            self._delete(done)
        return judged


def _is_past(row: LedgerRow, now: float, retention: Retention) -> bool:
    seconds = {
        RunState.HANDLED: retention.handled_seconds,
        RunState.STALE: retention.handled_seconds,
        RunState.CANCELLED: retention.cancelled_seconds,
        RunState.DEAD: retention.dead_seconds,
    }.get(row.state)
    if row.stopped_by is StoppedBy.OPERATOR:
        seconds = retention.dead_seconds
    return seconds is not None and finished_at(row) < now - seconds
