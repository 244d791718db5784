"""The executing pool inside one process, for tests and simulations: scores in a dict, a clock."""

import asyncio
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from node_timeout.domain.run import DueRun
from node_timeout.ports.pool import OVERDUE_SECONDS, Behind, Claim, ClaimedMember, PoolCounts
from node_timeout.stores.memory.presence import MemoryPresence


class MemoryPool:
    """See `node_timeout.ports.pool.Pool` for the contract. It has one shard: itself."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        """``clock`` returns Unix seconds; it takes the place of Redis's clock."""
        self.scores: dict[str, float] = {}
        """The deadline of each member, or the end of its lease."""
        self.presence = MemoryPresence(clock)
        self._clock = clock
        self._last_lease = -math.inf
        self._earlier = asyncio.Event()
        """Set when an earlier deadline was armed."""
        self._leaders: dict[str, tuple[str, float]] = {}
        self._is_reconciled = False
        self._ledger_id: str | None = None
        self._marked: str | None = None

    @property
    def shards(self) -> Sequence["MemoryPool"]:
        return (self,)

    @property
    def homes(self) -> int:
        return 1

    def home(self, run_id: str) -> int:
        del run_id
        return 0

    async def close(self) -> None:
        """Nothing is open."""

    async def now(self) -> float:
        return self._clock()

    async def passed(self) -> float | None:
        return self._clock()

    async def arm(self, due: Sequence[DueRun]) -> int:
        new = {each.run_id: each.due_at for each in due if each.run_id not in self.scores}
        self._put(new)
        return len(new)

    async def lower(self, due: Sequence[DueRun]) -> int:
        moved = [each for each in due if each.due_at < self.scores.get(each.run_id, math.inf)]
        self._put({each.run_id: each.due_at for each in moved})
        return len(moved)

    async def put_back(self, due: Sequence[DueRun]) -> None:
        ours = {each.run_id for each in due if self.scores.get(each.run_id) == each.lease}
        self._put(
            {
                each.run_id: each.due_at if each.run_id in ours else self._lower_of(each)
                for each in due
            }
        )

    def _lower_of(self, due: DueRun) -> float:
        return min(due.due_at, self.scores.get(due.run_id, math.inf))

    def _put(self, scores: Mapping[str, float]) -> None:
        before = self._first()
        self.scores.update(scores)
        first = self._first()
        if first is not None and (before is None or first < before):
            self._earlier.set()

    def _first(self) -> float | None:
        return min(self.scores.values(), default=None)

    async def disarm(self, members: Sequence[str]) -> int:
        return self._remove(members)

    def _remove(self, members: Iterable[str]) -> int:
        return sum(self.scores.pop(member, None) is not None for member in members)

    async def behind(self, due: Sequence[DueRun], slack_seconds: float) -> Behind:
        now = self._clock()
        return Behind(
            absent=frozenset(each.run_id for each in due if each.run_id not in self.scores),
            late=frozenset(
                each.run_id
                for each in due
                if self.scores.get(each.run_id, 0.0) > max(each.due_at, now) + slack_seconds
            ),
        )

    async def give_back(self, members: Mapping[str, float]) -> None:
        self.scores.update(members)

    async def counts(self) -> PoolCounts:
        now = self._clock()
        overdue = [at for at in self.scores.values() if at <= now]
        return PoolCounts(
            armed=len(self.scores),
            overdue=len(overdue),
            oldest_overdue_seconds=max((now - at for at in overdue), default=0.0),
            overdue_for={
                seconds: sum(at <= now - seconds for at in overdue) for seconds in OVERDUE_SECONDS
            },
        )

    # Its one shard

    async def claim(self, limit: int, lease_seconds: float, ahead_seconds: float = 0.0) -> Claim:
        now = self._clock()
        lease = max(now + lease_seconds, math.nextafter(self._last_lease, math.inf))
        due = sorted(
            (at, member.encode("utf-8", "surrogateescape"), member)
            for member, at in self.scores.items()
            if at <= now + ahead_seconds
        )
        newest = limit // 4 if len(due) > limit else 0
        chosen = due[: limit - newest] + due[::-1][:newest]
        for _, _, member in chosen:
            self.scores[member] = lease
        if chosen:
            self._last_lease = lease
        return Claim(
            members=tuple(ClaimedMember(member=member, deadline=at) for at, _, member in chosen),
            lease=lease,
            now=now,
            next_due_at=self._first(),
        )

    async def finish(self, members: Sequence[str], lease: float) -> int:
        return self._remove([member for member in members if self.scores.get(member) == lease])

    async def release(self, members: Sequence[ClaimedMember], lease: float) -> int:
        mine = [each for each in members if self.scores.get(each.member) == lease]
        self.scores.update({each.member: each.deadline for each in mine})
        return len(mine)

    async def wait(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._earlier.wait(), seconds)
        except TimeoutError:
            return
        self._earlier.clear()

    # Roles, and a loss of data

    async def lead(self, role: str, leader: str, seconds: float) -> bool:
        holder, until = self._leaders.get(role, (leader, 0.0))
        if holder != leader and until > self._clock():
            return False
        self._leaders[role] = (leader, self._clock() + seconds)
        return True

    async def resign(self, role: str, leader: str) -> None:
        if self._leaders.get(role, ("", 0.0))[0] == leader:
            del self._leaders[role]

    async def may_have_lost_data(self) -> bool:
        return not self._is_reconciled

    async def mark_reconciled(self) -> None:
        self._is_reconciled = True
        if self._marked is not None:
            self._ledger_id = self._marked

    def lose_data(self) -> None:
        """Behave like a Redis that restarts without its data; for tests."""
        self.scores.clear()
        self._leaders.clear()
        self._is_reconciled = False
        self._ledger_id = None

    async def ledger_id(self) -> str | None:
        return self._ledger_id

    async def mark_ledger(self, ledger_id: str) -> None:
        self._ledger_id = self._marked = ledger_id

    async def probe(self) -> None:
        """Do nothing: everything is allowed."""
