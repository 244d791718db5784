"""The ledger in a SQL database, by SQLAlchemy Core: PostgreSQL, MySQL/MariaDB, SQLite.

Here is what workers, the reconciler and operators do with rows; events are in `ledger_tracking`,
configs in `ledger_configs`.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Update, and_, case, delete, func, select, true
from sqlalchemy import update as sql_update
from sqlalchemy.ext.asyncio import AsyncConnection

from node_timeout.adapters.database import autocommitting, transaction
from node_timeout.adapters.ledger_rows import (
    armed_row,
    by_run,
    chunks,
    due_of,
    due_runs,
    in_order,
    is_after,
    ledger_rows_of,
    readable,
)
from node_timeout.adapters.ledger_tracking import RESUMED, LedgerTracking
from node_timeout.adapters.one_statement import TAKE_DUE, take_due_values
from node_timeout.adapters.tables import configs as config_table
from node_timeout.adapters.tables import ledger
from node_timeout.node import DueRun, NodeRun, Outcome, RunState, TimedOutNode
from node_timeout.ports import LedgerCounts, LedgerRow, ReplayOrder, Retention, Taking

HOUR = 3600.0
RESUMED_SECONDS = 60.0
"""When a run that started again while it was found stale is looked at once more."""
CLOSED = (RunState.HANDLED, RunState.STALE, RunState.CANCELLED, RunState.DEAD)

_Alike = dict[tuple[RunState, str, float | None, bool], list[NodeRun]]
"""Runs by what is written of them: state, message, due_at, called."""

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


class SqlLedger(LedgerTracking):
    """See `node_timeout.ports.Ledger` for the contract."""

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
        for outcome in sorter.given_up:
            await connection.execute(
                sql_update(ledger)
                .where(self._keys.of([outcome.node.run]))
                .values(state=RunState.DEAD, due_at=None, finished_at=now, message=outcome.message)
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
            key = (each.state, each.message, each.due_at, each.called)
            alike.setdefault(key, []).append(each.node.run)
        if len(alike) == 1 and outcomes[0].state is not RunState.STALE:
            return await self._record_at_once(alike, lease, now)
        return await self._record_together(alike, lease, now)

    async def _record(
        self, connection: AsyncConnection, alike: _Alike, lease: float, now: float
    ) -> int:
        recorded = 0
        for (state, message, due_at, called), runs in alike.items():
            for chunk in chunks(runs):
                # The lease is the token: none of another worker is due at this very instant, and no
                # run in another state but one cancelled under this worker's hands.
                # In this form no planner looks for it in the index of due_at.
                is_leased = (ledger.c.due_at == lease).is_(true())
                mine = sql_update(ledger).where(self._keys.of(chunk), is_leased)
                if state is not RunState.HANDLED:
                    mine = mine.where(ledger.c.state == RunState.EXECUTING)
                if state is RunState.STALE:
                    recorded += await self._record_stale(connection, mine, message, now)
                    continue
                result = await connection.execute(
                    mine.values(
                        state=state,
                        message=message,
                        due_at=due_at,
                        finished_at=None if state is RunState.ARMED else now,
                        attempts=ledger.c.attempts - (0 if called else 1),
                    )
                )
                recorded += result.rowcount
        return recorded

    _record_together = transaction(_record)
    _record_at_once = autocommitting(_record)

    async def _record_stale(
        self, connection: AsyncConnection, mine: Update, message: str, now: float
    ) -> int:
        """Of those that started again meanwhile the engine was asked too early.

        They come last: one that starts between the two statements finds its row closed by the
        first, and waits for the commit.
        """
        closed = await connection.execute(
            mine.where(ledger.c.message != RESUMED).values(
                state=RunState.STALE, message=message, due_at=None, finished_at=now
            )
        )
        # The reconciler finds them absent from the pool.
        resumed = await connection.execute(
            mine.where(ledger.c.message == RESUMED).values(
                state=RunState.ARMED, due_at=now + RESUMED_SECONDS, message=""
            )
        )
        return int(closed.rowcount + resumed.rowcount)

    @transaction
    async def open_runs(
        self,
        connection: AsyncConnection,
        after: DueRun | None,
        limit: int,
        until: float | None = None,
    ) -> list[DueRun]:
        query = due_runs(limit).where(ledger.c.state == RunState.ARMED)
        if until is not None:
            query = query.where(ledger.c.due_at <= until)
        if after is not None:
            query = query.where(ledger.c.due_at >= after.due_at, is_after(after))
        return [due_of(row) for row in await connection.execute(query)]

    @transaction
    async def expired_runs(
        self, connection: AsyncConnection, before: float, limit: int
    ) -> list[DueRun]:
        query = due_runs(limit).where(
            ledger.c.state == RunState.EXECUTING, ledger.c.due_at < before
        )
        return [due_of(row) for row in await connection.execute(query)]

    @transaction
    async def postpone(
        self, connection: AsyncConnection, runs: Sequence[NodeRun], now: float
    ) -> None:
        for chunk in chunks(in_order(runs)):
            await connection.execute(
                sql_update(ledger)
                .where(self._keys.of(chunk), ledger.c.due_at <= now)
                .values(due_at=now)
            )

    @transaction
    async def purge(
        self, connection: AsyncConnection, now: float, retention: Retention, limit: int
    ) -> int:
        purged = 0
        for state, seconds in (
            (RunState.HANDLED, retention.handled_seconds),
            (RunState.STALE, retention.handled_seconds),
            (RunState.CANCELLED, retention.cancelled_seconds),
        ):
            expired = and_(ledger.c.state == state, ledger.c.finished_at < now - seconds)
            found = await connection.execute(
                select(ledger.c.node_id, ledger.c.version)
                .where(expired)
                .order_by(ledger.c.finished_at)
                .limit(limit)
            )
            runs = [NodeRun(node_id=row.node_id, version=row.version) for row in found]
            for chunk in chunks(in_order(runs)):
                result = await connection.execute(
                    delete(ledger).where(self._keys.of(chunk), expired)
                )
                purged += result.rowcount
        return purged

    @transaction
    async def replay(
        self, connection: AsyncConnection, order: ReplayOrder, now: float, limit: int
    ) -> list[DueRun]:
        query = select(ledger.c.node_id, ledger.c.version).where(
            ledger.c.state == RunState.DEAD, ledger.c.finished_at <= order.until
        )
        if order.node_id is not None:
            query = query.where(ledger.c.node_id == order.node_id)
        if order.root_pipeline_id is not None:
            query = query.where(ledger.c.root_pipeline_id == order.root_pipeline_id)
        query = query.order_by(ledger.c.node_id, ledger.c.version).limit(limit).with_for_update()
        runs = [
            NodeRun(node_id=row.node_id, version=row.version)
            for row in await connection.execute(query)
        ]
        for chunk in chunks(runs):
            await connection.execute(
                sql_update(ledger)
                .where(self._keys.of(chunk))
                .values(state=RunState.ARMED, due_at=now, attempts=0, finished_at=None)
            )
        return [DueRun(run=run, due_at=now) for run in runs]

    @transaction
    async def counts(self, connection: AsyncConnection, now: float) -> LedgerCounts:
        overdue = case((ledger.c.due_at <= now, 1), else_=0)
        wanted = (RunState.ARMED, RunState.EXECUTING, RunState.DEAD)
        found = await connection.execute(
            select(ledger.c.state, func.count().label("rows"), func.sum(overdue).label("overdue"))
            .where(ledger.c.state.in_(wanted))
            .group_by(ledger.c.state)
        )
        by_state = {row.state: row for row in found}
        recent = await connection.execute(
            select(ledger.c.state, func.count().label("rows"))
            .where(ledger.c.state.in_(CLOSED), ledger.c.finished_at > now - HOUR)
            .group_by(ledger.c.state)
        )

        def rows(state: RunState) -> int:
            return int(by_state[state].rows) if state in by_state else 0

        armed = by_state.get(RunState.ARMED)
        return LedgerCounts(
            armed=rows(RunState.ARMED),
            overdue=int(armed.overdue) if armed else 0,
            executing=rows(RunState.EXECUTING),
            dead=rows(RunState.DEAD),
            last_hour={RunState(row.state): int(row.rows) for row in recent},
        )

    @transaction
    async def dead(self, connection: AsyncConnection) -> int:
        found = await connection.execute(
            select(func.count()).select_from(ledger).where(ledger.c.state == RunState.DEAD)
        )
        return int(found.scalar_one())

    @transaction
    async def recent(self, connection: AsyncConnection, limit: int) -> list[LedgerRow]:
        rows: list[LedgerRow] = []
        for state in CLOSED:
            found = await connection.execute(
                select(ledger)
                .where(ledger.c.state == state)
                .order_by(ledger.c.finished_at.desc())
                .limit(limit)
            )
            rows += ledger_rows_of(found)
        return sorted(rows, key=lambda row: row.finished_at or 0.0, reverse=True)[:limit]

    @transaction
    async def rows(self, connection: AsyncConnection, node_id: str) -> list[LedgerRow]:
        found = await connection.execute(
            select(ledger)
            .where(ledger.c.node_id == node_id)
            .order_by(ledger.c.deadline, ledger.c.version)
        )
        return ledger_rows_of(found)


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
