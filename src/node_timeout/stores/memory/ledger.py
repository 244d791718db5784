"""The ledger inside one process, for tests and simulations: a dict of rows, by the domain's rules.

No method awaits anything, so each is a transaction. Nothing is kept on disk.
"""

import dataclasses
import uuid
from collections.abc import Iterable, Mapping, Sequence

from node_timeout.domain import history, lifecycle
from node_timeout.domain.batches import by_node, first_starts, judge
from node_timeout.domain.errors import AmbiguousNodeError
from node_timeout.domain.events import NodeLeft, NodeStarted
from node_timeout.domain.leaving import is_open, leave, remembered
from node_timeout.domain.roots import no_config, only_root
from node_timeout.domain.run import (
    DueRun,
    ForeignRun,
    LedgerRow,
    NodeRun,
    Outcome,
    RunState,
    TimedOutNode,
)
from node_timeout.domain.taking import Lease
from node_timeout.ports.ledger import Adoption, Disarming, Taking
from node_timeout.stores.memory.ledger_keeping import MemoryKeeping
from node_timeout.stores.memory.ledger_tokens import MemoryTokens

LEDGER_ID = "ledger_id"


class MemoryLedger(MemoryKeeping, MemoryTokens):
    """See `node_timeout.ports.ledger.Ledger` for the contract."""

    async def close(self) -> None:
        """Nothing is open."""

    async def arm(self, events: Sequence[NodeStarted], now: float) -> list[DueRun]:
        armed: list[DueRun] = []
        for run, event in first_starts(events, now).items():
            config = self._config(event.node) or event.config
            if config is None:  # no config, so the run is not looked up
                continue
            before = self._rows.get(run.run_id)
            after = lifecycle.start(before, event, config, now)
            if after is not None:
                self._store([after])
                if before is not None:
                    self._note(filter(None, [history.of_start(before, after, now)]))
            row = after or before
            if row is not None and row.state is RunState.ARMED and row.next_at is not None:
                armed.append(DueRun(run_id=row.run_id, due_at=row.next_at))
        return armed

    async def disarm(self, events: Sequence[NodeLeft], now: float) -> Disarming:
        cancelled: list[NodeRun] = []
        kept: list[NodeRun] = []
        paused: list[NodeRun] = []
        for node, left in sorted(by_node(events).items()):
            named = {event.run for event in left}
            rows = {
                row.run: row
                for row in self._rows.values()
                if row.run.node == node and (row.run in named or is_open(row, now))
            }
            new = remembered(left, rows, now)
            leaving = leave(rows | {row.run: row for row in new}, left, now)
            self._store([*new, *leaving.changed])
            self._note(history.of_pauses(leaving.paused, now))
            cancelled += leaving.cancelled
            kept += leaving.kept
            paused += leaving.paused
        return Disarming(cancelled=tuple(cancelled), kept=tuple(kept), paused=tuple(paused))

    async def untracked(self, runs: Sequence[NodeRun]) -> list[NodeRun]:
        return [run for run in dict.fromkeys(runs) if not self._is_tracked(run.run_id)]

    def _is_tracked(self, run_id: str) -> bool:
        row = self._rows.get(run_id)
        return row is not None and not lifecycle.may_start_again(row.state, row.stopped_by)

    async def actions(self, run_ids: Sequence[str]) -> dict[str, str]:
        return {row.run_id: row.action for row in self._known(run_ids) if row.action is not None}

    async def adopt(self, foreign: Sequence[ForeignRun]) -> Adoption:
        roots = await self.roots([each.node_id for each in foreign])
        due: dict[ForeignRun, DueRun] = {}
        refused: dict[ForeignRun, str] = {}
        for each in foreign:
            try:
                root = only_root(each.node_id, roots.get(each.node_id, ()))
            except AmbiguousNodeError as error:
                refused[each] = str(error)
                continue
            config = None if root is None else self._config((root, each.node_id))
            if config is None:
                refused[each] = no_config(each.node_id)
                continue
            row = lifecycle.adopt(each, config)
            self._rows.setdefault(row.run_id, row)
            due[each] = DueRun(run_id=row.run_id, due_at=each.due_at)
        return Adoption(due=due, refused=refused)

    async def take(
        self,
        due: Sequence[DueRun],
        *,
        now: float,
        lease_seconds: float,
        max_attempts: int,
        ahead_seconds: float = 0.0,
        owner: str | None = None,
    ) -> Taking:
        lease = Lease(owner=owner or uuid.uuid4().hex, until=now + lease_seconds)
        judged = judge(
            self._known(sorted({each.run_id for each in due})),
            lease,
            now,
            max_attempts=max_attempts,
            ahead_seconds=ahead_seconds,
        )
        self._store(each.row for each in judged.taken)
        self._store(judged.given_up)
        self._note(history.of_taking(judged.abandoned, judged.given_up, now))
        return Taking(
            taken=tuple(TimedOutNode.of(each.row) for each in judged.taken),
            owner=lease.owner,
            lease_until=lease.until,
            later=tuple(judged.later),
            dropped=judged.dropped,
            given_up=judged.deaths(),
            stolen=len(judged.abandoned),
            unknown=tuple(each for each in due if each.run_id not in self._rows),
        )

    async def owners(self, run_ids: Sequence[str]) -> dict[str, str]:
        return {
            row.run_id: row.lease_owner
            for row in self._known(run_ids)
            if row.state is RunState.EXECUTING and row.lease_owner is not None
        }

    async def renew(self, run_ids: Sequence[str], owners: Sequence[str], until: float) -> set[str]:
        mine = [row for row in self._known(run_ids) if row.lease_owner in owners]
        executing = [row for row in mine if row.state is RunState.EXECUTING]
        self._store(dataclasses.replace(row, lease_until=until) for row in executing)
        return {row.run_id for row in mine}

    async def record(self, outcomes: Sequence[Outcome], *, owner: str, now: float) -> int:
        recorded = 0
        for outcome in outcomes:
            row = self._rows.get(outcome.node.run_id)
            new = lifecycle.conclude(row, outcome, owner, now) if row else None
            if new is None:
                self._note([history.of_late_result(outcome, now)])
                continue
            recorded += 1
            self._store([new])
            self._note(filter(None, [history.of_outcome(outcome, now)]))
        return recorded

    async def settings(self) -> dict[str, str]:
        return dict(self._settings)

    async def declare(self, settings: Mapping[str, str]) -> dict[str, str]:
        self._settings.setdefault(LEDGER_ID, uuid.uuid4().hex)
        before = dict(self._settings)
        self._settings.update(settings)
        return before

    async def probe(self) -> None:
        """Do nothing: everything is allowed."""

    def put(self, rows: Iterable[LedgerRow]) -> None:
        """Store rows unchanged, for tests."""
        self._store(rows)
