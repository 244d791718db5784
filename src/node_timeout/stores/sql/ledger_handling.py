"""Handling of due runs in the ledger: workers take rows, and record what came of them.

A lease is the token: while it lasts, the row is its worker's, and nobody else's.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Update, func, select, true
from sqlalchemy import update as sql_update
from sqlalchemy.ext.asyncio import AsyncConnection

from node_timeout.domain.run import DueRun, NodeRun, Outcome, RunState, TimedOutNode
from node_timeout.ports.ledger import Taking
from node_timeout.stores.sql.database import autocommitting, transaction
from node_timeout.stores.sql.ledger_configs import LedgerConfigs
from node_timeout.stores.sql.ledger_rows import (
    OwnValues,
    armed_row,
    by_run,
    chunks,
    due_of,
    in_order,
    readable,
)
from node_timeout.stores.sql.ledger_tracking import RESUMED
from node_timeout.stores.sql.postgres_fast_paths import TAKE_DUE, take_due_values
from node_timeout.stores.sql.tables import configs as config_table
from node_timeout.stores.sql.tables import ledger

RESUMED_SECONDS = 60.0
"""When a run that started again while it was found stale is looked at once more."""

_Alike = dict[tuple[RunState, bool], list[Outcome]]
"""Outcomes by state and whether the strategy was called."""

_WITH_CONFIG = select(
    ledger.c.node_id,
    ledger.c.version,
    ledger.c.state,
    ledger.c.deadline,
    ledger.c.due_at,
    ledger.c.attempts,
    func.coalesce(config_table.c.action, ledger.c.action).label("action"),
    func.coalesce(config_table.c.root_pipeline_id, ledger.c.root_pipeline_id).label(
        "root_pipeline_id"
    ),
).select_from(ledger.outerjoin(config_table, config_table.c.node_id == ledger.c.node_id))


class LedgerHandling(LedgerConfigs):
    """The part of `node_timeout.ports.Ledger` that is about due runs."""

    @transaction
    async def take(
        self,
        connection: AsyncConnection,
        due: Sequence[DueRun],
        *,
        now: float,
        lease_seconds: float,
        max_attempts: int,
        ahead_seconds: float = 0.0,
    ) -> Taking:
        lease = now + lease_seconds
        taken: list[TimedOutNode] = []
        if self._is_postgresql:
            # Usually all; should the planner change their order, a deadlock is tried again.
            runs = in_order(each.run for each in due)
            values = take_due_values(runs, now=now, lease=lease, ahead_seconds=ahead_seconds)
            found = await connection.execute(TAKE_DUE, values)
            taken = [_node(row, row.attempts) for row in found]
            gone = {node.run for node in taken}
            due = [each for each in due if each.run not in gone]
        rows = await self._lock(connection, (each.run for each in due))
        missing = [each for each in due if each.run not in rows]
        if missing:
            await self._adopt(connection, missing, now)
            rows |= await self._lock(connection, (each.run for each in missing))
        sorter = _Sorter(now, lease, max_attempts, ahead_seconds)
        for run, row in rows.items():
            sorter.sort(run, row)
        for chunk in chunks([node.run for node in sorter.taken]):
            await connection.execute(
                sql_update(ledger)
                .where(self._keys.of(chunk))
                .values(state=RunState.EXECUTING, due_at=lease, attempts=ledger.c.attempts + 1)
            )
        for chunk in chunks(sorter.given_up):
            own = self._keys.each_its_own(
                [each.node.run for each in chunk], {"message": [each.message for each in chunk]}
            )
            await connection.execute(
                sql_update(ledger)
                .where(own.these)
                .values(**own.values, state=RunState.DEAD, due_at=None, finished_at=now),
                execution_options=own.options,
            )
        return Taking(
            taken=(*taken, *sorter.taken, *sorter.mine),
            lease=lease,
            later=tuple(sorter.later),
            dropped=sorter.dropped,
            given_up=tuple(sorter.given_up),
            stolen=sorter.stolen,
        )

    async def _lock(
        self, connection: AsyncConnection, runs: Iterable[NodeRun]
    ) -> dict[NodeRun, Any]:
        """Lock the rows in key order, so that two workers do not wait for each other.

        Action and root pipeline are those of the config of the moment, if there is one.
        """
        locked: dict[NodeRun, Any] = {}
        for chunk in chunks(in_order(runs)):
            found = await connection.execute(
                _WITH_CONFIG.where(self._keys.of(chunk))
                .order_by(ledger.c.node_id, ledger.c.version)
                .with_for_update(of=None if self._is_mysql else ledger)
            )
            locked |= by_run(readable(found))
        return locked

    async def _adopt(
        self,
        connection: AsyncConnection,
        missing: Sequence[DueRun],
        now: float,
    ) -> None:
        """Open rows for runs that the engine put into the pool itself, unless others just did."""
        configs = await self._configs(connection, (each.run.node_id for each in missing))
        rows = [
            armed_row(each.run, configs.get(each.run.node_id), None, min(each.due_at, now))
            for each in sorted(missing, key=lambda each: each.run.member)
        ]
        for chunk in chunks(rows):
            await connection.execute(self._insert(ledger), list(chunk))

    @autocommitting
    async def leases(
        self, connection: AsyncConnection, runs: Sequence[NodeRun]
    ) -> dict[NodeRun, float]:
        leases: dict[NodeRun, float] = {}
        for chunk in chunks(runs):
            found = await connection.execute(
                select(ledger.c.node_id, ledger.c.version, ledger.c.due_at).where(
                    self._keys.of(chunk), ledger.c.state == RunState.EXECUTING
                )
            )
            leases |= {each.run: each.due_at for each in map(due_of, found)}
        return leases

    async def record(self, outcomes: Sequence[Outcome], *, lease: float, now: float) -> int:
        alike: _Alike = {}
        for each in sorted(outcomes, key=lambda outcome: outcome.node.run.member):
            alike.setdefault((each.state, each.called), []).append(each)
        if len(alike) == 1 and outcomes[0].state is not RunState.STALE:
            return await self._record_at_once(alike, lease, now)
        return await self._record_together(alike, lease, now)

    async def _record(
        self, connection: AsyncConnection, alike: _Alike, lease: float, now: float
    ) -> int:
        recorded = 0
        for (state, called), outcomes in alike.items():
            for chunk in chunks(outcomes):
                values = {
                    "message": [each.message for each in chunk],
                    "due_at": [each.due_at for each in chunk],
                }
                own = self._keys.each_its_own([each.node.run for each in chunk], values)
                # The lease is the token: none of another worker is due at this very instant, and no
                # run in another state but one cancelled under this worker's hands.
                # In this form no planner looks for it, or for the state, in another index.
                mine = sql_update(ledger).where(own.these, (ledger.c.due_at == lease).is_(true()))
                if state is not RunState.HANDLED:
                    mine = mine.where((ledger.c.state == RunState.EXECUTING).is_(true()))
                if state is RunState.STALE:
                    recorded += await self._record_stale(connection, mine, own, now)
                    continue
                result = await connection.execute(
                    mine.values(
                        **own.values,
                        state=state,
                        finished_at=None if state is RunState.ARMED else now,
                        attempts=ledger.c.attempts - (0 if called else 1),
                    ),
                    execution_options=own.options,
                )
                recorded += result.rowcount
        return recorded

    _record_together = transaction(_record)
    _record_at_once = autocommitting(_record)

    async def _record_stale(
        self, connection: AsyncConnection, mine: Update, own: OwnValues, now: float
    ) -> int:
        """Of those that started again meanwhile the engine was asked too early.

        They come last: one that starts between the two statements finds its row closed by the
        first, and waits for the commit.
        """
        closed = await connection.execute(
            mine.where(ledger.c.message != RESUMED).values(
                state=RunState.STALE, message=own.values["message"], due_at=None, finished_at=now
            ),
            execution_options=own.options,
        )
        # The reconciler finds them absent from the pool.
        resumed = await connection.execute(
            mine.where(ledger.c.message == RESUMED).values(
                state=RunState.ARMED, due_at=now + RESUMED_SECONDS, message=""
            ),
            execution_options=own.options,
        )
        return int(closed.rowcount + resumed.rowcount)


class _Sorter:
    """Decides for each locked row what becomes of it."""

    def __init__(self, now: float, lease: float, max_attempts: int, ahead: float) -> None:
        self._now = now
        self._soon = now + ahead
        self._lease = lease
        self._max_attempts = max_attempts
        self.taken: list[TimedOutNode] = []
        self.mine: list[TimedOutNode] = []
        self.later: list[DueRun] = []
        self.given_up: list[Outcome] = []
        self.dropped: Counter[RunState] = Counter()
        self.stolen = 0

    def sort(self, run: NodeRun, row: Any) -> None:
        executing = row.state == RunState.EXECUTING
        if row.due_at is None or row.state == RunState.CANCELLED:
            self.dropped[RunState(row.state)] += 1
        elif executing and row.due_at == self._lease:
            # Our own: the transaction was committed, and its answer lost.
            self.mine.append(_node(row, row.attempts))
        elif row.due_at > (self._soon if row.due_at == row.deadline else self._now):
            self.later.append(DueRun(run=run, due_at=row.due_at))
        elif not row.action:
            self._give_up(row, f"no timeout config for node {row.node_id!r}")
        elif executing and row.attempts >= self._max_attempts:
            self._give_up(row, f"gave up after {row.attempts} attempts: the last worker vanished")
        else:
            self.stolen += executing
            self.taken.append(_node(row, row.attempts + 1))

    def _give_up(self, row: Any, why: str) -> None:
        node = _node(row, row.attempts)
        self.given_up.append(Outcome(node=node, state=RunState.DEAD, message=why))


def _node(row: Any, attempt: int) -> TimedOutNode:
    return TimedOutNode(
        node_id=row.node_id,
        version=row.version,
        root_pipeline_id=row.root_pipeline_id,
        action=row.action,
        deadline=row.deadline,
        attempt=attempt,
    )
