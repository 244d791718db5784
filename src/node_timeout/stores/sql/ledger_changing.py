"""Ordered changes of runs in the ledger, and deletions; the domain has the rules."""

from collections.abc import Sequence

from sqlalchemy import ColumnElement, delete, select
from sqlalchemy.ext.asyncio import AsyncConnection

from node_timeout.domain import orders
from node_timeout.domain.changes import Discard, Verdict
from node_timeout.domain.history import HistoryKind
from node_timeout.domain.orders import Judged, Order
from node_timeout.domain.run import RunState
from node_timeout.stores.sql.database import transaction
from node_timeout.stores.sql.ledger_tracking import LedgerTracking
from node_timeout.stores.sql.run_rows import chunks, in_order
from node_timeout.stores.sql.tables import history as history_table
from node_timeout.stores.sql.tables import runs


class LedgerChanging(LedgerTracking):
    """The part of `node_timeout.ports.ledger.Ledger` that is about changes."""

    @transaction
    async def change(
        self, connection: AsyncConnection, order: Order, chosen: Sequence[str], now: float
    ) -> dict[str, Judged]:
        judged: dict[str, Judged] = {}
        for chunk in chunks(in_order(chosen)):
            locked = await self._locked(connection, chunk)
            rows = {run.run_id: row for run, row in locked.items()}
            had = await self._had(connection, chunk, order.idempotency_key)
            if order.asks_configs:  # under the lock: the later order sees newer configs
                nodes = [row.node for row in rows.values()]
                order = order.told(await self._configs(connection, nodes))
            here = {
                run_id: orders.judge(order, rows.get(run_id), now, had.get(run_id))
                for run_id in chunk
            }
            changed = [each for each in here.values() if each.entry is not None]
            await self._store(connection, (each.row for each in changed if each.row))
            await self._note(connection, (each.entry for each in changed if each.entry))
            judged |= here
        if isinstance(order.change, Discard):
            done = [run_id for run_id, each in judged.items() if each.verdict is Verdict.DONE]
            await self._delete(connection, done, runs.c.state == RunState.DEAD)
        return judged

    async def _had(
        self, connection: AsyncConnection, chosen: Sequence[str], key: str | None
    ) -> dict[str, HistoryKind]:
        """The change that each run already had under this idempotency key."""
        if key is None:
            return {}
        found = await connection.execute(
            select(history_table.c.run_id, history_table.c.kind).where(
                self._keys.of(chosen, history_table), history_table.c.idempotency_key == key
            )
        )
        return {row.run_id: HistoryKind(row.kind) for row in found}

    async def _delete(
        self, connection: AsyncConnection, chosen: Sequence[str], still: ColumnElement[bool]
    ) -> int:
        """Delete those rows that still fulfil ``still``, with their history; return how many."""
        deleted = 0
        for chunk in chunks(in_order(chosen)):
            result = await connection.execute(delete(runs).where(self._keys.of(chunk), still))
            deleted += result.rowcount
            left = select(runs.c.run_id).where(runs.c.run_id == history_table.c.run_id)
            await connection.execute(
                delete(history_table).where(self._keys.of(chunk, history_table), ~left.exists())
            )
        return deleted
