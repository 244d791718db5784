"""Reading the ledger in memory: pages of runs, one run with its history, counts."""

from collections import Counter
from collections.abc import Iterable, Sequence

from node_timeout.domain import canary
from node_timeout.domain.history import HistoryEntry
from node_timeout.domain.run import CLOSED, LedgerRow, Node, RunState
from node_timeout.domain.timeout_config import TimeoutConfig
from node_timeout.ports.directory import Cursor, LedgerCounts, Names, RunFilter, RunPage
from node_timeout.stores.memory.ledger_configs import OPEN, MemoryConfigs

HOUR = 3600.0


class MemoryDirectory(MemoryConfigs):
    """See `node_timeout.ports.directory.Directory` for the contract."""

    async def find(self, wanted: RunFilter, limit: int, after: Cursor | None = None) -> RunPage:
        found = self._found(wanted, after)[:limit]
        return RunPage(
            rows=tuple(row for _, row in found),
            after=found[-1][0] if len(found) == limit else None,
        )

    def _found(self, wanted: RunFilter, after: Cursor | None) -> list[tuple[Cursor, LedgerRow]]:
        """The matching runs, oldest first, from behind ``after``."""
        found = {
            Cursor(at, row.run_id): row
            for row in self._rows.values()
            if (at := _instant(row, wanted)) is not None and _is_wanted(row, wanted)
        }
        return [(key, found[key]) for key in sorted(found) if after is None or key > after]

    async def find_configs(
        self,
        limit: int,
        *,
        root_pipeline_id: str | None = None,
        node_id: str | None = None,
        after: Node | None = None,
    ) -> list[TimeoutConfig]:
        found = [
            config
            for node, (config, _) in sorted(self._configs.items())
            if root_pipeline_id in (None, node[0])
            and node_id in (None, node[1])
            and (after is None or node > after)
        ]
        return found[:limit]

    async def counts(self, now: float, most: int | None = None) -> LedgerCounts:
        del most
        states = Counter(row.state for row in self._rows.values())
        wants = {
            row.run_id: at
            for row in self._rows.values()
            if row.state in OPEN
            and (at := row.lease_until if row.next_at is None else row.next_at) is not None
            and at <= now
        }
        recent = Counter(
            row.state
            for row in self._rows.values()
            if row.state in CLOSED and finished_at(row) > now - HOUR
        )
        return LedgerCounts(
            armed=states[RunState.ARMED],
            overdue=sum(self._rows[run_id].state is RunState.ARMED for run_id in wants),
            oldest_overdue_seconds=max((now - at for at in wants.values()), default=0.0),
            executing=states[RunState.EXECUTING],
            paused=states[RunState.PAUSED],
            dead=states[RunState.DEAD],
            last_hour=dict(recent),
        )

    async def count(self, states: Sequence[RunState]) -> dict[RunState, int]:
        found = Counter(row.state for row in self._rows.values())
        return {state: found[state] for state in states}

    async def recent(self, limit: int, states: Sequence[RunState] = CLOSED) -> list[LedgerRow]:
        closed = [
            row
            for row in self._rows.values()
            if row.state in states and row.root_pipeline_id != canary.ROOT
        ]
        return sorted(closed, key=finished_at, reverse=True)[:limit]

    async def names(self, prefix: str, limit: int) -> Names:
        def beginning_so(found: Iterable[str]) -> tuple[str, ...]:
            names = {each for each in found if each.startswith(prefix)}
            return tuple(sorted(names, key=str.encode)[:limit])

        rows = self._rows.values()
        return Names(
            nodes=beginning_so(row.node_id for row in rows),
            root_pipelines=beginning_so(row.root_pipeline_id for row in rows),
        )

    async def history(self, run_ids: Sequence[str]) -> list[HistoryEntry]:
        return [entry for run_id in sorted(set(run_ids)) for entry in self._history.get(run_id, [])]

    async def recent_history(self, run_id: str, limit: int) -> list[HistoryEntry]:
        return self._history.get(run_id, [])[-limit:]

    async def rows(self, node_id: str, root_pipeline_id: str | None = None) -> list[LedgerRow]:
        found = [
            row
            for row in self._rows.values()
            if row.node_id == node_id and root_pipeline_id in (None, row.root_pipeline_id)
        ]
        return sorted(
            found, key=lambda row: (row.root_pipeline_id, row.deadline or 0.0, row.version)
        )

    async def rows_of(self, run_ids: Sequence[str]) -> list[LedgerRow]:
        return self._known(dict.fromkeys(run_ids))


def finished_at(row: LedgerRow) -> float:
    """When a closed run ended."""
    return 0.0 if row.finished_at is None else row.finished_at


def _instant(row: LedgerRow, wanted: RunFilter) -> float | None:
    """The instant by which runs are ordered; None if this run has none."""
    match RunState.ARMED if wanted.due_by is not None else wanted.state:
        case None:
            return row.finished_at if row.deadline is None else row.deadline
        case RunState.ARMED:
            return row.next_at
        case RunState.EXECUTING:
            return row.lease_until
        case RunState.PAUSED:
            return row.paused_at
        case _:
            return row.finished_at


def _is_wanted(row: LedgerRow, wanted: RunFilter) -> bool:
    names = ("state", "root_pipeline_id", "node_id", "version", "action")
    equal = {name: value for name in names if (value := getattr(wanted, name)) is not None}
    if any(getattr(row, name) != value for name, value in equal.items()):
        return False
    if wanted.is_for_all and row.root_pipeline_id == canary.ROOT:
        return False
    if wanted.finished_by is not None and not (
        row.finished_at is not None and row.finished_at <= wanted.finished_by
    ):
        return False
    if wanted.due_by is None:
        return True
    return row.state is RunState.ARMED and (row.next_at or 0.0) <= wanted.due_by
