"""The ledger: configs and one row per node run, in SQL. It is the truth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from node_timeout.domain.run import DueRun, NodeRun, Outcome, RunState, TimedOutNode
from node_timeout.domain.timeout_config import TimeoutConfig
from node_timeout.wire.events import NodeLeft, NodeStarted


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

    async def mark_seen(self, runs: Sequence[NodeRun], now: float) -> list[NodeRun]:
        """Set ``due_at`` of overdue open runs to now; return those whose was not their deadline.

        These have been marked as seen, tried or put back before.
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
