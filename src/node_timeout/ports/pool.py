"""The executing pool: an index of deadlines in Redis, and the reference clock."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from node_timeout.domain.run import DueRun

OVERDUE_SECONDS = (1, 10, 60, 600)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedMember:
    """A pool member as it is stored: a run id, or anything else that somebody has put there."""

    member: str
    deadline: float
    """Its score before the claim."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Due members that are leased to the caller until ``lease``."""

    members: tuple[ClaimedMember, ...]
    lease: float
    """Expiry of the lease, and its token: no later claim has the same value."""
    now: float
    next_due_at: float | None
    """Score of the earliest member left in the pool, including leased members."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolCounts:
    """How full the pool is."""

    armed: int
    overdue: int
    oldest_overdue_seconds: float
    overdue_for: Mapping[int, int]
    """For each of `OVERDUE_SECONDS`: how many have been overdue for at least that long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Behind:
    """Ids of runs that the pool will not hand out in time."""

    absent: frozenset[str]
    late: frozenset[str]
    """Their score is later than their own instant and than now, by more than any lease lasts."""


class Shard(Protocol):
    """A part of the executing pool that a scanner serves."""

    async def claim(self, limit: int, lease_seconds: float, ahead_seconds: float = 0.0) -> Claim:
        """Lease at most ``limit`` members that are due within ``ahead_seconds``, atomically: the
        oldest, oldest first.

        If more are due, a quarter of the ``limit`` are the newest: in a backlog, runs that fall due
        now do not wait behind all overdue ones.
        If an answer is lost, a repeated claim returns other members; the lost ones come back when
        their lease expires.
        """
        ...

    async def finish(self, members: Sequence[str], lease: float) -> int:
        """Remove the members that are still under this lease; return how many were."""
        ...

    async def release(self, members: Sequence[ClaimedMember], lease: float) -> int:
        """Restore the deadlines of members still under this lease; return how many were."""
        ...

    async def wait(self, seconds: float) -> None:
        """Return after ``seconds``, or as soon as an earlier deadline is armed. Does not raise."""
        ...


class Pool(Protocol):
    """The executing pool: an index of deadlines, ordered by instant, and the reference clock."""

    @property
    def shards(self) -> Sequence[Shard]:
        """The parts of the pool, one or many; each run is in one of them. Each needs a scanner."""
        ...

    @property
    def homes(self) -> int:
        """The number of shards that runs are spread over; these are the first ones in `shards`."""
        ...

    def home(self, run_id: str) -> int:
        """The number of the shard in which a run is armed."""
        ...

    async def now(self) -> float:
        """The pool's time. Does not raise: without a connection it is an estimate."""
        ...

    async def passed(self) -> float | None:
        """A lower bound of the pool's time; None if the pool was never reached.

        It is behind `now` by less than the duration of one call. Does not raise.
        """
        ...

    async def arm(self, due: Sequence[DueRun]) -> int:
        """Add runs that are absent, leave present ones alone; return how many were added.

        Wakes waiting scanners if the earliest deadline moved forward. Not atomic over batches.
        """
        ...

    async def lower(self, due: Sequence[DueRun]) -> int:
        """Like `arm`, but also move present runs to an earlier instant, never to a later one;
        return how many were added or moved.
        """
        ...

    async def put_back(self, due: Sequence[DueRun]) -> None:
        """Like `lower`, but a run that is still under the lease of its message moves to its
        instant, whether that is earlier or later.

        So a run that a change has meanwhile moved to an earlier instant stays there.
        """
        ...

    async def disarm(self, members: Sequence[str]) -> int:
        """Remove members, run ids or foreign ones; return how many were removed."""
        ...

    async def behind(self, due: Sequence[DueRun], slack_seconds: float) -> Behind:
        """The runs that are not in the pool, and those whose score is too late by more than
        ``slack_seconds``.
        """
        ...

    async def give_back(self, members: Mapping[str, float]) -> None:
        """Put foreign members, with their deadlines, into the key where an engine puts its own."""
        ...

    async def counts(self) -> PoolCounts: ...

    async def lead(self, role: str, leader: str, seconds: float) -> bool:
        """Take or renew the leader lease of a role for ``seconds``; False if another holds it."""
        ...

    async def resign(self, role: str, leader: str) -> None:
        """Give up the leader lease, if this leader holds it."""
        ...

    async def may_have_lost_data(self) -> bool:
        """True after a restart or a loss of data, until `mark_reconciled`."""
        ...

    async def mark_reconciled(self) -> None: ...

    async def ledger_id(self) -> str | None:
        """The ledger that the scanners of this pool serve; None if no scanner has marked it."""
        ...

    async def mark_ledger(self, ledger_id: str) -> None:
        """Store the ledger's id in the pool; `mark_reconciled` repeats this after a data loss."""
        ...

    async def probe(self) -> None:
        """Do what the services do, with members of its own, and leave nothing behind.

        Raises `PoolUnavailableError` that names the missing right.
        """
        ...
