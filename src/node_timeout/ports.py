"""The ports of the core: what it asks of a pool, a ledger, an exchange and a workflow engine.

Every method may raise the ``TemporaryError`` of its port (`PoolUnavailableError`,
`LedgerUnavailableError`, `ExchangeUnavailableError`, `EngineUnavailableError`); after one, the
call may or may not have had its effect, and repeating it is safe unless its docstring says
otherwise. All times are Unix seconds by the clock of Redis unless said otherwise.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from node_timeout.events import NodeLeft, NodeStarted
from node_timeout.node import DueRun, NodeRun, Outcome, RunState, TimedOutNode
from node_timeout.timeout_config import TimeoutConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedMember:
    """A pool member as it stands there; it need not name a node run."""

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

    async def rearm(self, due: Sequence[DueRun]) -> None:
        """As `arm`, but also moves runs that are present, and so takes them out of any lease."""
        ...

    async def disarm(self, runs: Sequence[NodeRun]) -> int:
        """Remove runs; return how many were there."""
        ...

    async def absent(self, runs: Sequence[NodeRun]) -> list[NodeRun]:
        """The runs that are not in the pool."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Taking:
    """What became of the runs that a worker asked for."""

    taken: tuple[TimedOutNode, ...]
    """Now ``executing``, this worker's until ``lease``; some ahead of their deadline."""
    lease: float
    later: tuple[DueRun, ...]
    """Not due yet, or in another live worker's hands: to be looked at again at ``due_at``."""
    dropped: Mapping[RunState, int]
    """Closed already, by state."""
    given_up: tuple[Outcome, ...]
    """Recorded as ``dead`` by this call: without a config, or out of attempts."""
    stolen: int
    """How many of the taken came from a worker whose lease ran out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerRow:
    """One node run as the ledger knows it."""

    node_id: str
    version: str
    root_pipeline_id: str
    action: str
    state: RunState
    started_at: float | None
    """When it entered RUNNING; None if the engine put it into the pool itself."""
    deadline: float
    due_at: float | None
    """Next instant at which the run wants attention: armed, its deadline or next try; executing,
    the end of its lease, also if it was cancelled meanwhile; else None."""
    attempts: int
    finished_at: float | None
    message: str
    """What the strategy, the engine or the last error said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerCounts:
    """How many rows want attention, and the outcomes of the last hour by state."""

    armed: int
    overdue: int
    oldest_overdue_seconds: float
    """How long the oldest overdue run has waited for a worker: since its deadline, its next try, or
    the end of a worker's lease."""
    executing: int
    dead: int
    last_hour: Mapping[RunState, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How long closed rows stay, in seconds."""

    handled_seconds: float
    cancelled_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayOrder:
    """Which dead rows to arm again: of one node, of one root pipeline, or all.

    Only rows that died by ``until``, so that a replay ends even if they die again at once.
    """

    until: float
    node_id: str | None = None
    root_pipeline_id: str | None = None
    after: tuple[float, str, str] | None = None
    """(finished_at, node_id, version) of the last row of the page before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayPage:
    """What one call of `Ledger.replay` armed."""

    due: tuple[DueRun, ...]
    rest: ReplayOrder | None
    """The order for the next page; None after the last one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Disarming:
    """What became of the armed runs of nodes that left."""

    cancelled: tuple[NodeRun, ...]
    kept: tuple[NodeRun, ...]
    """Armed still: they started after the node left, so that event came late."""


class Ledger(Protocol):
    """One row per node run: the truth. Each method is one transaction, all or nothing."""

    async def save_configs(
        self, root_pipeline_id: str, configs: Sequence[TimeoutConfig], disabled: Sequence[str]
    ) -> None:
        """Insert or update configs by node id; delete this root's configs of disabled nodes."""
        ...

    async def add_configs(self, configs: Sequence[TimeoutConfig]) -> int:
        """Insert configs of any roots whose nodes have none; return how many were inserted."""
        ...

    async def configs(self, node_ids: Sequence[str]) -> dict[str, TimeoutConfig]:
        """The stored configs by node id; nodes without one are left out."""
        ...

    async def configured(self, after: str, limit: int) -> list[str]:
        """Ids of nodes that have a config, in key order, those after ``after``."""
        ...

    async def arm(self, events: Sequence[NodeStarted], now: float) -> list[DueRun]:
        """Open a row for each run whose node has a config; return those that are armed.

        A run armed before keeps its deadline. One cancelled or found stale before it was seen
        running goes on with the time it had left then. One in any other state, or closed since it
        was seen, stays as it is and is not returned. Costs one read if no node has a config.
        """
        ...

    async def disarm(self, events: Sequence[NodeLeft], now: float) -> Disarming:
        """Cancel every armed version of the nodes that started before they left.

        Also one that a worker has taken ahead of its deadline.
        """
        ...

    async def untracked(self, runs: Sequence[NodeRun]) -> list[NodeRun]:
        """The runs that have no row, or one that is cancelled or stale."""
        ...

    async def actions(self, runs: Sequence[NodeRun]) -> dict[NodeRun, str]:
        """The action of each run: of its node's config, else of its row; without either none."""
        ...

    async def take(
        self,
        due: Sequence[DueRun],
        *,
        now: float,
        lease_seconds: float,
        max_attempts: int,
        ahead_seconds: float = 0.0,
    ) -> Taking:
        """Move due runs to ``executing``, one attempt used up; also those whose deadline (not a
        later try) comes within ``ahead_seconds``.

        A run without a row gets one (the engine armed the pool itself), ``dead`` if its node has
        no config. A run whose last lease ran out on its last attempt is given up as ``dead``.
        """
        ...

    async def leases(self, runs: Sequence[NodeRun]) -> dict[NodeRun, float]:
        """The leases of those of the runs that are executing."""
        ...

    async def record(self, outcomes: Sequence[Outcome], *, lease: float, now: float) -> int:
        """Write outcomes of runs still executing under this lease; return how many were."""
        ...

    async def open_runs(
        self, after: DueRun | None, limit: int, until: float | None = None
    ) -> list[DueRun]:
        """Armed runs in order of (due_at, node_id, version), those after ``after``.

        Only those due by ``until``, if that is given.
        """
        ...

    async def expired_runs(self, before: float, limit: int) -> list[DueRun]:
        """Executing runs whose lease ran out before ``before``, oldest first."""
        ...

    async def postpone(self, runs: Sequence[NodeRun], now: float) -> list[NodeRun]:
        """Set ``due_at`` of overdue open runs to now; return those whose was not their deadline.

        These have been postponed, tried or put back before.
        """
        ...

    async def purgeable(self, now: float, retention: Retention, limit: int) -> list[NodeRun]:
        """Runs whose closed rows are past their retention, at most ``limit`` of each kind."""
        ...

    async def purge(self, runs: Sequence[NodeRun], now: float, retention: Retention) -> int:
        """Delete the rows of these runs that are past their retention still; how many."""
        ...

    async def replay(self, order: ReplayOrder, now: float, limit: int) -> ReplayPage:
        """Arm at most ``limit`` dead rows again, due now, with no attempt used up.

        The rows that died first come first. Going on with ``rest`` looks at each dead row once.
        """
        ...

    async def counts(self, now: float) -> LedgerCounts: ...

    async def recent(self, limit: int) -> list[LedgerRow]:
        """The rows closed last, newest first."""
        ...

    async def rows(self, node_id: str) -> list[LedgerRow]:
        """Every row of a node, in order of deadline."""
        ...

    async def settings(self) -> dict[str, str]:
        """What `declare` stored last, by name."""
        ...

    async def declare(self, settings: Mapping[str, str]) -> dict[str, str]:
        """Store settings; return what was stored before, and ``ledger_id``, which never changes."""
        ...

    async def probe(self) -> None:
        """Write, read and delete as services do, and keep nothing of it.

        Raises `LedgerError` that names the right that is missing.
        """
        ...


class Delivery(Protocol):
    """A message in a consumer's hands."""

    body: bytes
    queue: str

    async def ack(self) -> None:
        """It is dealt with. If the connection is gone this does nothing: it will come again."""
        ...

    async def requeue(self) -> None:
        """Give it back, for any consumer. If the connection is gone this does nothing."""
        ...


class Consumer(Protocol):
    async def get(self, limit: int, max_bytes: int | None = None) -> list[Delivery]:
        """Wait for a delivery; return it with those that are already here, ``limit`` at most, and
        all but the first within ``max_bytes`` together.

        None means that it is stopped and all are handed out. Being cancelled loses none.
        """
        ...

    async def resize(self, prefetch: Mapping[str, int]) -> None:
        """From now on have so many deliveries of each queue on the way or in hand.

        Those that are in hand already stay. Does nothing once it is stopped.
        """
        ...

    async def stop(self) -> None:
        """Ask for no more deliveries; those that have come can still be had."""
        ...

    async def give_back(self) -> None:
        """Give those back that have come and were not handed out: they will come again."""
        ...


class Exchange(Protocol):
    """The dispatch exchange: durable queues by name, at least once."""

    async def ensure(self) -> None:
        """Connect and declare what is to be declared, unless that is done already.

        Raises `QueueMismatchError` if a queue stands there with other arguments.
        """
        ...

    async def publish(self, queue: str, body: bytes, time_limit: float) -> None:
        """Return once the message is safe in ``queue``; else raise `ExchangeUnavailableError`."""
        ...

    async def dead_letter(self, body: bytes, reason: str) -> None:
        """Return once the message and its reason are safe in the dead-letter queue."""
        ...

    async def probe(self) -> None:
        """Publish and consume as services do, with a queue of its own; no message of others moves.

        Raises `ExchangeUnavailableError` that names the right that is missing.
        """
        ...

    def consume(self, prefetch: Mapping[str, int]) -> AbstractAsyncContextManager[Consumer]:
        """Consume queues, each with at most that many unacknowledged messages."""
        ...

    async def waiting(self, queue: str) -> int:
        """Messages ready in a queue, not those in consumers' hands; a cheap question."""
        ...

    async def depths(self) -> dict[str, int]:
        """Messages ready in each queue."""
        ...


class Engine(Protocol):
    """The workflow engine. Every call carries the version; the engine must refuse another.

    Besides `EngineUnavailableError` (try again later) a call may raise `NodeRunSupersededError`
    (no longer running at this version: ends ``stale``) and `StrategyRefusedError` (refused for
    good: ends ``dead``).
    """

    async def is_running(self, node: TimedOutNode) -> bool:
        """Is the node still RUNNING at this version?

        True as well if an earlier call for this very run got only half way: failed, not yet
        skipped. The strategy is then called again and finishes it.
        """
        ...

    async def forced_fail(self, node: TimedOutNode, reason: str) -> str:
        """Fail the node; return what was done, in words. Repeating it is safe."""
        ...

    async def forced_fail_and_skip(self, node: TimedOutNode, reason: str) -> str:
        """Fail the node and let its pipeline go on; return what was done, in words.

        Repeating it is safe, also when only the first half was done.
        """
        ...

    async def close(self) -> None: ...


@runtime_checkable
class CheckableEngine(Protocol):
    """An engine that can tell whether it would work, without touching a node."""

    async def check(self) -> str:
        """Say what was seen. Raises `EngineUnavailableError` if it would not work."""
        ...


@runtime_checkable
class SurveyableEngine(Protocol):
    """An engine that can also be asked which runs of given nodes it is running."""

    async def running(self, node_ids: Sequence[str]) -> list[NodeStarted]:
        """The runs of these nodes that `Engine.is_running` would confirm, and their starts."""
        ...
