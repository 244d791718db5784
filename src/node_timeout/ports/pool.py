"""The executing pool: an index of deadlines in Redis, and the clock that rules."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from node_timeout.domain.run import DueRun

OVERDUE_SECONDS = (1, 10, 60, 600)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedMember:
    """A pool member as it stands there: a run id, or whatever else somebody has put there."""

    member: str
    deadline: float
    """Its score before the claim."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Due members, leased to the caller until ``lease``."""

    members: tuple[ClaimedMember, ...]
    lease: float
    """Expiry of the lease, and its token: no later claim has the same."""
    now: float
    next_due_at: float | None
    """Score of the earliest member left in the pool, leased ones included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolCounts:
    """How full the pool is."""

    armed: int
    overdue: int
    oldest_overdue_seconds: float
    overdue_for: Mapping[int, int]
    """Of each of `OVERDUE_SECONDS`, how many have been overdue for so long or longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Behind:
    """Ids of runs that the pool will not hand out in time."""

    absent: frozenset[str]
    late: frozenset[str]
    """They stand later than at their own instant, and than now: no lease lasts so long."""


class Shard(Protocol):
    """A part of the executing pool that a scanner serves."""

    async def claim(self, limit: int, lease_seconds: float, ahead_seconds: float = 0.0) -> Claim:
        """Lease at most ``limit`` members that are due within ``ahead_seconds``, atomically: the
        oldest, oldest first.

        If more are due, a quarter of the ``limit`` are the newest, so that in a backlog what falls
        due now is not behind all that is overdue.
        Repeating a claim whose answer was lost returns other members; the lost ones come back
        when their lease expires.
        """
        ...

    async def finish(self, members: Sequence[str], lease: float) -> int:
        """Remove the members that still stand under this lease; return how many did."""
        ...

    async def release(self, members: Sequence[ClaimedMember], lease: float) -> int:
        """Give members that still stand under this lease their deadline back; how many did."""
        ...

    async def wait(self, seconds: float) -> None:
        """Return after ``seconds``, or as soon as an earlier deadline is armed. Does not raise."""
        ...


class Pool(Protocol):
    """The executing pool: an index of deadlines, ordered by instant, with the clock that rules."""

    @property
    def shards(self) -> Sequence[Shard]:
        """Its parts, one or many; each run is in one of them. Each wants a scanner."""
        ...

    @property
    def homes(self) -> int:
        """How many shards the runs are spread over: the first so many of `shards`."""
        ...

    def home(self, run_id: str) -> int:
        """The number of the shard in which a run is armed."""
        ...

    async def now(self) -> float:
        """The pool's clock. Does not raise: without a connection it estimates."""
        ...

    async def passed(self) -> float | None:
        """An instant by the pool's clock that has come, surely; None if that was never reached.

        Behind `now` by less than a call takes. Does not raise.
        """
        ...

    async def arm(self, due: Sequence[DueRun]) -> int:
        """Add runs that are absent, leave present ones alone; return how many were added.

        Wakes waiting scanners if the earliest deadline moved forward. Not atomic over batches.
        """
        ...

    async def lower(self, due: Sequence[DueRun]) -> int:
        """As `arm`, but also moves runs that are present to an earlier instant, never to a later
        one; return how many were added or moved.
        """
        ...

    async def put_back(self, due: Sequence[DueRun]) -> None:
        """As `lower`, but a run that still stands under the lease of its message is moved to its
        instant, be that earlier or later.

        So nothing that a change has moved to an earlier instant meanwhile is moved away from it.
        """
        ...

    async def disarm(self, members: Sequence[str]) -> int:
        """Remove members, run ids or foreign ones; return how many were there."""
        ...

    async def behind(self, due: Sequence[DueRun], slack_seconds: float) -> Behind:
        """Those that are not in the pool, and those that stand there too late by more than
        ``slack_seconds``.
        """
        ...

    async def give_back(self, members: Mapping[str, float]) -> None:
        """Put foreign members, with their deadlines, where an engine puts its own."""
        ...

    async def counts(self) -> PoolCounts: ...

    async def lead(self, role: str, leader: str, seconds: float) -> bool:
        """Take or renew the lead in a role for ``seconds``; False if another holds it."""
        ...

    async def resign(self, role: str, leader: str) -> None:
        """Give the lead up, if it is this leader's."""
        ...

    async def may_have_lost_data(self) -> bool:
        """True from a restart or a loss of data until `mark_reconciled`."""
        ...

    async def mark_reconciled(self) -> None: ...

    async def ledger_id(self) -> str | None:
        """The ledger that the scanners of this pool serve; None if no scanner has marked it."""
        ...

    async def mark_ledger(self, ledger_id: str) -> None:
        """Say which ledger it is; `mark_reconciled` says it again, after a loss of data."""
        ...

    async def probe(self) -> None:
        """Do what services do, with members of its own, and leave nothing behind.

        Raises `PoolUnavailableError` that names the right that is missing.
        """
        ...
