"""The ledger in a SQL database, by SQLAlchemy Core: PostgreSQL, MySQL/MariaDB, SQLite."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Select,
    and_,
    case,
    delete,
    func,
    or_,
    select,
    tuple_,
)
from sqlalchemy import update as sql_update
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from node_timeout.adapters.database import create_engine, dispose, transaction
from node_timeout.adapters.tables import HEAD_REVISION, ledger, versions
from node_timeout.adapters.tables import configs as config_table
from node_timeout.errors import SchemaError
from node_timeout.events import NodeLeft, NodeStarted
from node_timeout.node import DueRun, NodeRun, Outcome, RunState, TimedOutNode
from node_timeout.ports import (
    Disarming,
    LedgerCounts,
    LedgerRow,
    ReplayOrder,
    Retention,
    Taking,
)
from node_timeout.timeout_config import TimeoutConfig

KEYS_PER_STATEMENT = 500
HOUR = 3600.0
CLOSED = (RunState.HANDLED, RunState.STALE, RunState.CANCELLED, RunState.DEAD)
UNKNOWN = ""
"""Root pipeline and action of a node run that has no config."""

_WITH_CONFIG = select(
    *(column for column in ledger.c if column.name not in ("action", "root_pipeline_id")),
    func.coalesce(config_table.c.action, ledger.c.action).label("action"),
    func.coalesce(config_table.c.root_pipeline_id, ledger.c.root_pipeline_id).label(
        "root_pipeline_id"
    ),
).select_from(ledger.outerjoin(config_table, config_table.c.node_id == ledger.c.node_id))

_RUN_COLUMNS = (
    ledger.c.version,
    ledger.c.state,
    ledger.c.started_at,
    ledger.c.deadline,
    ledger.c.due_at,
    ledger.c.finished_at,
    ledger.c.action.label("run_action"),
)


class SqlLedger:
    """See `node_timeout.ports.Ledger` for the contract."""

    def __init__(self, url: str) -> None:
        self.engine = create_engine(url)

        self._is_mysql = self.engine.dialect.name in ("mysql", "mariadb")

    async def close(self) -> None:
        await dispose(self.engine)

    @transaction
    async def check_schema(self, connection: AsyncConnection) -> str:
        """Return the revision of the tables. Raises `SchemaError` unless it is this version's."""
        found = (await connection.execute(select(versions.c.version_num))).scalar_one_or_none()
        if found != HEAD_REVISION:
            raise SchemaError(
                f"the database is at revision {found or 'none'}, this version needs "
                f"{HEAD_REVISION}; run: node-timeout migrate"
            )
        return HEAD_REVISION

    @transaction
    async def save_configs(
        self,
        connection: AsyncConnection,
        root_pipeline_id: str,
        configs: Sequence[TimeoutConfig],
        disabled: Sequence[str],
    ) -> None:
        rows = [config.as_dict() for config in sorted(configs, key=lambda each: each.node_id)]
        columns = ("root_pipeline_id", "action", "timeout")
        for chunk in _chunks(rows):
            await connection.execute(self._insert(config_table, replace=columns), list(chunk))
        for nodes in _chunks(sorted(disabled)):
            await connection.execute(
                delete(config_table).where(
                    config_table.c.node_id.in_(nodes),
                    config_table.c.root_pipeline_id == root_pipeline_id,
                )
            )

    @transaction
    async def add_configs(
        self, connection: AsyncConnection, configs: Sequence[TimeoutConfig]
    ) -> int:
        there = await self._configs(connection, (config.node_id for config in configs))
        new = {config.node_id: config.as_dict() for config in configs}
        rows = [new[node_id] for node_id in sorted(new) if node_id not in there]
        for chunk in _chunks(rows):
            await connection.execute(self._insert(config_table), list(chunk))
        return len(rows)

    @transaction
    async def configs(
        self, connection: AsyncConnection, node_ids: Sequence[str]
    ) -> dict[str, TimeoutConfig]:
        return await self._configs(connection, node_ids)

    async def _configs(
        self, connection: AsyncConnection, node_ids: Iterable[str]
    ) -> dict[str, TimeoutConfig]:
        found: dict[str, TimeoutConfig] = {}
        for chunk in _chunks(sorted(set(node_ids))):
            rows = await connection.execute(
                select(config_table).where(config_table.c.node_id.in_(chunk))
            )
            found |= {row.node_id: _config(row) for row in rows}
        return found

    @transaction
    async def configured(self, connection: AsyncConnection, after: str, limit: int) -> list[str]:
        found = await connection.execute(
            select(config_table.c.node_id)
            .where(config_table.c.node_id > after)
            .order_by(config_table.c.node_id)
            .limit(limit)
        )
        return list(found.scalars())

    @transaction
    async def arm(
        self, connection: AsyncConnection, events: Sequence[NodeStarted], now: float
    ) -> list[DueRun]:
        first: dict[NodeRun, NodeStarted] = {}
        for event in events:
            first.setdefault(event.run, event)
        armed: list[DueRun] = []
        for chunk in _chunks([first[run] for run in _in_order(first)]):
            configs, rows = await self._known(connection, chunk)
            fresh: list[dict[str, Any]] = []
            for event in chunk:
                row = rows.get(event.run)
                config = configs.get(event.run.node_id, event.config)
                if row is None:
                    if config is not None:
                        fresh.append(_started_row(event, config, now))
                elif row.state == RunState.ARMED:
                    await self._started_again(connection, row, event, now)
                    armed.append(_due(row))
                elif row.state in (RunState.CANCELLED, RunState.STALE):
                    armed += await self._resume(connection, row, event, config, now)
            if fresh:
                armed += await self._open(connection, fresh)
        return armed

    async def _known(
        self, connection: AsyncConnection, events: Sequence[NodeStarted]
    ) -> tuple[dict[str, TimeoutConfig], dict[NodeRun, Any]]:
        """The configs and the rows of what started: one read, and one for configs of their own."""
        of_same_version = and_(
            ledger.c.node_id == config_table.c.node_id,
            ledger.c.version.in_(sorted({event.run.version for event in events})),
        )
        node_ids = sorted({event.run.node_id for event in events})
        found = await connection.execute(
            select(config_table, *_RUN_COLUMNS)
            .select_from(config_table.outerjoin(ledger, of_same_version))
            .where(config_table.c.node_id.in_(node_ids))
        )
        configs: dict[str, TimeoutConfig] = {}
        rows: dict[NodeRun, Any] = {}
        for row in found:
            configs[row.node_id] = _config(row)
            if row.version is not None:
                rows[NodeRun(node_id=row.node_id, version=row.version)] = row
        carried = [e.run for e in events if e.config is not None and e.run.node_id not in configs]
        if carried:
            found = await connection.execute(
                select(ledger.c.node_id, *_RUN_COLUMNS).where(_keys(carried))
            )
            rows |= {NodeRun(node_id=row.node_id, version=row.version): row for row in found}
        return configs, rows

    async def _open(
        self, connection: AsyncConnection, rows: Sequence[dict[str, Any]]
    ) -> list[DueRun]:
        """Insert armed rows; those that another has just inserted are as that one left them."""
        result = await connection.execute(self._insert(ledger), list(rows))
        if len(rows) == 1 and result.rowcount == 1 and not self._is_mysql:
            return [_due_of(row) for row in rows]
        # Else drivers do not tell which rows were inserted.
        runs = [_due_of(row).run for row in rows]
        found = await connection.execute(
            select(ledger.c.node_id, *_RUN_COLUMNS).where(
                _keys(runs), ledger.c.state == RunState.ARMED
            )
        )
        return [_due(row) for row in found]

    async def _started_again(
        self, connection: AsyncConnection, row: Any, event: NodeStarted, now: float
    ) -> None:
        """Keep the latest start of an armed run: a leaving before it has come late."""
        started_at = event.started_at(now)
        if event.happened_at is not None and (row.started_at or 0.0) < started_at:
            await connection.execute(
                sql_update(ledger)
                .where(_keys([event.run]), ledger.c.state == RunState.ARMED)
                .values(started_at=started_at)
            )

    async def _resume(
        self,
        connection: AsyncConnection,
        row: Any,
        event: NodeStarted,
        config: TimeoutConfig | None,
        now: float,
    ) -> list[DueRun]:
        """Arm a cancelled or stale run with the time it had left, unless it was closed since."""
        seen_at = event.started_at(now) if event.seen_at is None else event.seen_at
        if seen_at < row.finished_at:
            return []
        deadline = row.deadline + (seen_at - row.finished_at)
        words: dict[str, str] = {}
        if row.run_action == UNKNOWN:  # only its leaving was known of so far
            if config is None:
                return []
            deadline = event.counts_from(now) + config.seconds
            words = {"action": config.action, "root_pipeline_id": config.root_pipeline_id}
        result = await connection.execute(
            sql_update(ledger)
            .where(
                _keys([event.run]),
                ledger.c.state == row.state,
                ledger.c.finished_at == row.finished_at,
            )
            .values(
                state=RunState.ARMED,
                started_at=seen_at,
                deadline=deadline,
                due_at=deadline,
                finished_at=None,
                attempts=0,
                **words,
            )
        )
        return [DueRun(run=event.run, due_at=deadline)] if result.rowcount else []

    @transaction
    async def disarm(
        self, connection: AsyncConnection, events: Sequence[NodeLeft], now: float
    ) -> Disarming:
        left: dict[str, NodeLeft] = {}
        for event in sorted(events, key=lambda event: event.left_at(now)):
            left[event.node_id] = event
        cancelled: list[NodeRun] = []
        kept: list[NodeRun] = []
        for chunk in _chunks(sorted(left)):
            named = [_run_of(left[node_id]) for node_id in chunk]
            found = await connection.execute(
                select(ledger.c.node_id, ledger.c.version, ledger.c.state, ledger.c.started_at)
                .where(
                    ledger.c.node_id.in_(chunk),
                    or_(
                        ledger.c.state == RunState.ARMED,
                        ledger.c.version.in_({run.version for run in named if run}),
                    ),
                )
                .order_by(ledger.c.node_id, ledger.c.version)
                .with_for_update()
            )
            rows = {NodeRun(node_id=row.node_id, version=row.version): row for row in found}
            leaving: dict[float, list[NodeRun]] = {}
            for run, row in rows.items():
                event = left[run.node_id]
                if row.state != RunState.ARMED:
                    continue
                if _is_over(row, event, rows.get(_run_of(event) or run), now):
                    leaving.setdefault(event.left_at(now), []).append(run)
                else:
                    kept.append(run)
            for instant, runs in leaving.items():
                await connection.execute(
                    sql_update(ledger)
                    .where(_keys(runs))
                    .values(state=RunState.CANCELLED, due_at=None, finished_at=instant)
                )
                cancelled += runs
            unknown = [
                _left_row(run, left[run.node_id].left_at(now))
                for run in named
                if run and run not in rows and left[run.node_id].remember
            ]
            if unknown:
                await connection.execute(self._insert(ledger), unknown)
        return Disarming(cancelled=tuple(cancelled), kept=tuple(kept))

    @transaction
    async def untracked(
        self, connection: AsyncConnection, runs: Sequence[NodeRun]
    ) -> list[NodeRun]:
        tracked: set[NodeRun] = set()
        for chunk in _chunks(_in_order(runs)):
            found = await connection.execute(
                select(ledger.c.node_id, ledger.c.version).where(
                    _keys(chunk), ledger.c.state.not_in((RunState.CANCELLED, RunState.STALE))
                )
            )
            tracked |= {NodeRun(node_id=row.node_id, version=row.version) for row in found}
        return [run for run in _in_order(runs) if run not in tracked]

    @transaction
    async def actions(
        self, connection: AsyncConnection, runs: Sequence[NodeRun]
    ) -> dict[NodeRun, str]:
        configs = await self._configs(connection, (run.node_id for run in runs))
        found = {run: configs[run.node_id].action for run in runs if run.node_id in configs}
        for chunk in _chunks(_in_order(run for run in runs if run not in found)):
            rows = await connection.execute(
                select(ledger.c.node_id, ledger.c.version, ledger.c.action).where(
                    _keys(chunk), ledger.c.action != UNKNOWN
                )
            )
            found |= {NodeRun(node_id=r.node_id, version=r.version): r.action for r in rows}
        return found

    @transaction
    async def take(
        self,
        connection: AsyncConnection,
        due: Sequence[DueRun],
        *,
        now: float,
        lease_seconds: float,
        max_attempts: int,
    ) -> Taking:
        lease = now + lease_seconds
        rows = await self._lock(connection, (each.run for each in due))
        missing = [each for each in due if each.run not in rows]
        if missing:
            await self._adopt(connection, missing, now)
            rows |= await self._lock(connection, (each.run for each in missing))
        sorter = _Sorter(now, lease, max_attempts)
        for run, row in rows.items():
            sorter.sort(run, row)
        for chunk in _chunks([node.run for node in sorter.taken]):
            await connection.execute(
                sql_update(ledger)
                .where(_keys(chunk))
                .values(state=RunState.EXECUTING, due_at=lease, attempts=ledger.c.attempts + 1)
            )
        for outcome in sorter.given_up:
            await connection.execute(
                sql_update(ledger)
                .where(_keys([outcome.node.run]))
                .values(state=RunState.DEAD, due_at=None, finished_at=now, message=outcome.message)
            )
        return Taking(
            taken=(*sorter.taken, *sorter.mine),
            lease=lease,
            later=tuple(sorter.later),
            dropped=sorter.dropped,
            given_up=tuple(sorter.given_up),
            stolen=sorter.stolen,
        )

    async def _lock(
        self, connection: AsyncConnection, runs: Iterable[NodeRun]
    ) -> dict[NodeRun, LedgerRow]:
        """Lock the rows in key order, so that two workers do not wait for each other.

        Action and root pipeline are those of the config of the moment, if there is one.
        """
        locked: dict[NodeRun, LedgerRow] = {}
        for chunk in _chunks(_in_order(runs)):
            found = await connection.execute(
                _WITH_CONFIG.where(_keys(chunk))
                .order_by(ledger.c.node_id, ledger.c.version)
                .with_for_update(of=None if self._is_mysql else ledger)
            )
            for row in found:
                locked[NodeRun(node_id=row.node_id, version=row.version)] = _ledger_row(row)
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
            _row(each.run, configs.get(each.run.node_id), None, min(each.due_at, now))
            for each in sorted(missing, key=lambda each: each.run.member)
        ]
        for chunk in _chunks(rows):
            await connection.execute(self._insert(ledger), list(chunk))

    @transaction
    async def record(
        self,
        connection: AsyncConnection,
        outcomes: Sequence[Outcome],
        *,
        lease: float,
        now: float,
    ) -> int:
        alike: dict[tuple[RunState, str, float | None, bool], list[NodeRun]] = {}
        for each in sorted(outcomes, key=lambda outcome: outcome.node.run.member):
            key = (each.state, each.message, each.due_at, each.called)
            alike.setdefault(key, []).append(each.node.run)
        recorded = 0
        for (state, message, due_at, called), runs in alike.items():
            for chunk in _chunks(runs):
                result = await connection.execute(
                    sql_update(ledger)
                    .where(
                        # The lease is the token: no run in another state, and none of another
                        # worker, is due at this very instant.
                        _keys(chunk),
                        ledger.c.due_at == lease,
                    )
                    .values(
                        state=state,
                        message=message,
                        due_at=due_at,
                        finished_at=None if state is RunState.ARMED else now,
                        attempts=ledger.c.attempts - (0 if called else 1),
                    )
                )
                recorded += result.rowcount
        return recorded

    @transaction
    async def open_runs(
        self, connection: AsyncConnection, after: DueRun | None, limit: int
    ) -> list[DueRun]:
        query = _due_runs(limit).where(ledger.c.state == RunState.ARMED)
        if after is not None:
            query = query.where(ledger.c.due_at >= after.due_at, _is_after(after))
        return [_due(row) for row in await connection.execute(query)]

    @transaction
    async def expired_runs(
        self, connection: AsyncConnection, before: float, limit: int
    ) -> list[DueRun]:
        query = _due_runs(limit).where(
            ledger.c.state == RunState.EXECUTING, ledger.c.due_at < before
        )
        return [_due(row) for row in await connection.execute(query)]

    @transaction
    async def postpone(
        self, connection: AsyncConnection, runs: Sequence[NodeRun], now: float
    ) -> None:
        for chunk in _chunks(_in_order(runs)):
            await connection.execute(
                sql_update(ledger).where(_keys(chunk), ledger.c.due_at <= now).values(due_at=now)
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
            for chunk in _chunks(_in_order(runs)):
                result = await connection.execute(delete(ledger).where(_keys(chunk), expired))
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
        for chunk in _chunks(runs):
            await connection.execute(
                sql_update(ledger)
                .where(_keys(chunk))
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
            rows += map(_ledger_row, found)
        return sorted(rows, key=lambda row: row.finished_at or 0.0, reverse=True)[:limit]

    @transaction
    async def rows(self, connection: AsyncConnection, node_id: str) -> list[LedgerRow]:
        found = await connection.execute(
            select(ledger)
            .where(ledger.c.node_id == node_id)
            .order_by(ledger.c.deadline, ledger.c.version)
        )
        return [_ledger_row(row) for row in found]

    def _insert(self, table: Any, replace: Sequence[str] = ()) -> Any:
        """INSERT that leaves a row of the same key alone, but for the columns to ``replace``."""
        if self._is_mysql:
            insert = mysql.insert(table)
            first = next(iter(table.primary_key))
            updates = [(name, insert.inserted[name]) for name in replace]
            return insert.on_duplicate_key_update(updates or [(first.name, first)])
        if self.engine.dialect.name == "postgresql":
            other: Any = postgresql.insert(table)
        else:
            other = sqlite.insert(table)
        keys = list(table.primary_key)
        if not replace:
            return other.on_conflict_do_nothing(index_elements=keys)
        return other.on_conflict_do_update(
            index_elements=keys, set_={name: other.excluded[name] for name in replace}
        )


class _Sorter:
    """Decides for each locked row what becomes of it."""

    def __init__(self, now: float, lease: float, max_attempts: int) -> None:
        self._now = now
        self._lease = lease
        self._max_attempts = max_attempts
        self.taken: list[TimedOutNode] = []
        self.mine: list[TimedOutNode] = []
        self.later: list[DueRun] = []
        self.given_up: list[Outcome] = []
        self.dropped: Counter[RunState] = Counter()
        self.stolen = 0

    def sort(self, run: NodeRun, row: LedgerRow) -> None:
        if row.due_at is None:
            self.dropped[row.state] += 1
        elif row.state is RunState.EXECUTING and row.due_at == self._lease:
            # Our own: the transaction was committed, and its answer lost.
            self.mine.append(self._node(row, row.attempts))
        elif row.due_at > self._now:
            self.later.append(DueRun(run=run, due_at=row.due_at))
        elif not row.action:
            self._give_up(row, f"no timeout config for node {row.node_id!r}")
        elif row.state is RunState.EXECUTING and row.attempts >= self._max_attempts:
            self._give_up(row, f"gave up after {row.attempts} attempts: the last worker vanished")
        else:
            self.stolen += row.state is RunState.EXECUTING
            self.taken.append(self._node(row, row.attempts + 1))

    def _give_up(self, row: LedgerRow, why: str) -> None:
        node = self._node(row, row.attempts)
        self.given_up.append(Outcome(node=node, state=RunState.DEAD, message=why))

    def _node(self, row: LedgerRow, attempt: int) -> TimedOutNode:
        return TimedOutNode(
            node_id=row.node_id,
            version=row.version,
            root_pipeline_id=row.root_pipeline_id,
            action=row.action,
            deadline=row.deadline,
            attempt=attempt,
        )


def _row(
    run: NodeRun, config: TimeoutConfig | None, started_at: float | None, deadline: float
) -> dict[str, Any]:
    """An armed row."""
    return {
        "node_id": run.node_id,
        "version": run.version,
        "root_pipeline_id": config.root_pipeline_id if config else UNKNOWN,
        "action": config.action if config else UNKNOWN,
        "state": RunState.ARMED,
        "started_at": started_at,
        "deadline": deadline,
        "due_at": deadline,
        "attempts": 0,
        "finished_at": None,
        "message": "",
    }


def _started_row(event: NodeStarted, config: TimeoutConfig, now: float) -> dict[str, Any]:
    deadline = event.counts_from(now) + config.seconds
    return _row(event.run, config, event.started_at(now), deadline)


def _left_row(run: NodeRun, left_at: float) -> dict[str, Any]:
    """A cancelled row of a run whose start is not known of: it may come later."""
    row = _row(run, None, None, left_at)
    return {**row, "state": RunState.CANCELLED, "due_at": None, "finished_at": left_at}


def _run_of(event: NodeLeft) -> NodeRun | None:
    """The run that an event names, if it names one."""
    return (event.version and NodeRun(node_id=event.node_id, version=event.version)) or None


def _is_over(row: Any, event: NodeLeft, named: Any, now: float) -> bool:
    """Whether an armed row is what left, or older; ``named`` is the row that the event names."""
    if row.started_at is None:
        return True
    if event.version in (None, row.version):
        return bool(row.started_at <= event.left_at(now))
    if named is not None and named.version == event.version and named.started_at is not None:
        return bool(row.started_at < named.started_at)
    return bool(row.started_at < event.left_at(now))


def _config(row: Any) -> TimeoutConfig:
    return TimeoutConfig(
        node_id=row.node_id,
        root_pipeline_id=row.root_pipeline_id,
        action=row.action,
        seconds=row.timeout,
    )


def _ledger_row(row: Any) -> LedgerRow:
    values = dict(row._mapping)  # noqa: SLF001 - SQLAlchemy's public accessor
    return LedgerRow(**{**values, "state": RunState(values["state"])})


def _due_of(row: dict[str, Any]) -> DueRun:
    return DueRun(run=NodeRun(node_id=row["node_id"], version=row["version"]), due_at=row["due_at"])


def _due(row: Any) -> DueRun:
    return DueRun(run=NodeRun(node_id=row.node_id, version=row.version), due_at=row.due_at)


def _due_runs(limit: int) -> Select[Any]:
    return (
        select(ledger.c.node_id, ledger.c.version, ledger.c.due_at)
        .order_by(ledger.c.due_at, ledger.c.node_id, ledger.c.version)
        .limit(limit)
    )


def _is_after(cursor: DueRun) -> ColumnElement[bool]:
    """(due_at, node_id, version) > cursor, in the form that every planner reads well."""
    run = cursor.run
    return or_(
        ledger.c.due_at > cursor.due_at,
        ledger.c.node_id > run.node_id,
        and_(ledger.c.node_id == run.node_id, ledger.c.version > run.version),
    )


def _keys(runs: Sequence[NodeRun]) -> ColumnElement[bool]:
    """The rows of these runs."""
    if len(runs) == 1:  # the usual case when deadlines come one by one
        (run,) = runs
        return and_(ledger.c.node_id == run.node_id, ledger.c.version == run.version)
    return and_(
        # For planners that cannot use the second half.
        ledger.c.node_id.in_({run.node_id for run in runs}),
        tuple_(ledger.c.node_id, ledger.c.version).in_(
            [(run.node_id, run.version) for run in runs]
        ),
    )


def _in_order(runs: Iterable[NodeRun]) -> list[NodeRun]:
    return sorted(set(runs), key=lambda run: (run.node_id, run.version))


def _chunks(items: Sequence[Any]) -> list[Sequence[Any]]:
    return [items[i : i + KEYS_PER_STATEMENT] for i in range(0, len(items), KEYS_PER_STATEMENT)]
