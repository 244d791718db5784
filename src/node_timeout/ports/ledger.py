"""The ledger: configs and one row per node run, in SQL. It is the truth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from node_timeout.domain.events import NodeLeft, NodeStarted
from node_timeout.domain.orders import Judged, Order
from node_timeout.domain.run import (
    DueRun,
    ForeignRun,
    Node,
    NodeRun,
    Outcome,
    RunState,
    TimedOutNode,
)
from node_timeout.domain.timeout_config import TimeoutConfig
from node_timeout.ports.directory import Directory


@dataclass(frozen=True, slots=True, kw_only=True)
class Taking:
    """The result of `Ledger.take` for the runs that a worker asked for."""

    taken: tuple[TimedOutNode, ...]
    """Now ``executing``, held by this worker; some ahead of their deadline."""
    owner: str
    """The token of their leases."""
    lease_until: float
    later: tuple[DueRun, ...]
    """Not due yet, or leased to another worker: to be examined again at ``due_at``."""
    dropped: Mapping[RunState, int]
    """Runs that are not armed, mostly closed already, by state."""
    given_up: tuple[Outcome, ...]
    """Recorded as ``dead`` by this call: they had no attempts left."""
    stolen: int
    """How many of ``taken`` came from a worker whose lease ran out."""
    unknown: tuple[DueRun, ...] = ()
    """Runs that the ledger does not have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Adoption:
    """The result of `Ledger.adopt`, for runs that an engine has put into the pool itself."""

    due: Mapping[ForeignRun, DueRun]
    """Runs that have a row now, or had one already."""
    refused: Mapping[ForeignRun, str]
    """Runs whose node has no config or is in several root pipelines, with the reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How long closed rows are kept, in seconds."""

    handled_seconds: float
    """For handled and stale rows."""
    cancelled_seconds: float
    """For runs that left; rows that somebody has cancelled are kept as long as dead rows."""
    dead_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Disarming:
    """The result of `Ledger.disarm` for the open runs of nodes that left."""

    cancelled: tuple[NodeRun, ...]
    kept: tuple[NodeRun, ...]
    """Still open: they started after the node left, so the event came late."""
    paused: tuple[NodeRun, ...] = ()


class Ledger(Directory, Protocol):
    """One row per node run: the truth. Each method is one transaction, all or nothing."""

    async def save_configs(
        self, configs: Sequence[TimeoutConfig], disabled: Sequence[Node]
    ) -> None:
        """Insert or update configs, without an expiry; delete the configs of disabled nodes."""
        ...

    async def end_root(self, root_pipeline_id: str, expires_at: float) -> int:
        """Let a root pipeline's configs expire at ``expires_at``, except those that expire already;
        return how many were changed.
        """
        ...

    async def forget_root(
        self, root_pipeline_id: str, node_ids: Sequence[str] | None = None
    ) -> int:
        """Delete the configs of a root pipeline, or of some of its nodes; return how many were
        deleted.
        """
        ...

    async def purge_configs(self, now: float, limit: int) -> int:
        """Delete at most ``limit`` configs that have expired; return how many."""
        ...

    async def add_configs(self, configs: Sequence[TimeoutConfig]) -> int:
        """Insert the configs whose nodes have none, of any roots; return how many were inserted."""
        ...

    async def configs(self, nodes: Sequence[Node]) -> dict[Node, TimeoutConfig]:
        """The stored configs; nodes without one are left out."""
        ...

    async def roots(
        self, node_ids: Sequence[str], *, of_open_runs: bool = False
    ) -> dict[str, tuple[str, ...]]:
        """The root pipelines in which each node has a config: one, or the first and the last of
        several. With ``of_open_runs`` also those in which it is armed or executing. An ended root
        counts only if there is no live one. Nodes without any root are left out. Costs one read.
        """
        ...

    async def configured(self, after: Node | None, limit: int) -> list[Node]:
        """Nodes that have a config, in key order, those after ``after``.

        Nodes of root pipelines that have ended are left out.
        """
        ...

    async def arm(self, events: Sequence[NodeStarted], now: float) -> list[DueRun]:
        """Open a row for each run whose node has a config; return the runs that are armed.

        A run that is already armed keeps its deadline. A run that was cancelled or found stale
        before it was seen running continues with the time it had left then. A run in any other
        state, or closed after it was seen, is unchanged and not returned. Costs one read if no node
        has a config. The root of each event must be known, as in `disarm`.
        """
        ...

    async def disarm(self, events: Sequence[NodeLeft], now: float) -> Disarming:
        """Cancel every open version that started before its node left, or pause exactly the version
        that the engine has suspended.

        This includes a version that a worker has taken ahead of its deadline.
        """
        ...

    async def untracked(self, runs: Sequence[NodeRun]) -> list[NodeRun]:
        """The runs that have no row, or one that is stale, or that the engine cancelled or paused.

        Runs that a person or a program has cancelled or paused are left out.
        """
        ...

    async def actions(self, run_ids: Sequence[str]) -> dict[str, str]:
        """The action of each run that has one."""
        ...

    async def adopt(self, foreign: Sequence[ForeignRun]) -> Adoption:
        """Create rows for runs that an engine has put into the pool itself and that have none."""
        ...

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
        """Take due runs by the rules of `node_timeout.domain.lifecycle.take`; uses one attempt.

        A repeated call with the same ``owner`` returns the same runs. Without an ``owner``, each
        call has a token of its own.
        """
        ...

    async def owners(self, run_ids: Sequence[str]) -> dict[str, str]:
        """The lease owners of the runs that are executing; other runs are left out."""
        ...

    async def renew(self, run_ids: Sequence[str], owners: Sequence[str], until: float) -> set[str]:
        """Extend the leases of these owners to ``until``; return the runs that they hold."""
        ...

    async def record(self, outcomes: Sequence[Outcome], *, owner: str, now: float) -> int:
        """Write the outcomes of runs that this owner still holds; return how many were written.

        See `node_timeout.domain.lifecycle.conclude`. The history records the others as late.
        """
        ...

    async def open_runs(
        self, after: DueRun | None, limit: int, until: float | None = None
    ) -> list[DueRun]:
        """Armed runs in order of (due_at, run_id), those after ``after``.

        Only those due by ``until``, if that is given.
        """
        ...

    async def expired_runs(
        self, before: float, limit: int, after: DueRun | None = None
    ) -> list[DueRun]:
        """Executing runs whose lease ran out before ``before``, in order of (lease, run_id), those
        after ``after``; ``due_at`` is the end of the lease.
        """
        ...

    async def purgeable(self, now: float, retention: Retention, limit: int) -> list[str]:
        """Ids of closed runs that are past their retention, at most ``limit`` of each kind."""
        ...

    async def purge(self, run_ids: Sequence[str], now: float, retention: Retention) -> int:
        """Delete those of these rows that are still past their retention, with their history;
        return how many.
        """
        ...

    async def change(self, order: Order, run_ids: Sequence[str], now: float) -> dict[str, Judged]:
        """Carry out an order by the rules of `node_timeout.domain.orders.judge`; return the result
        for each run.

        Each row is judged when no other transaction is changing it. If the order needs configs,
        those stored at that instant count. Discarded runs are deleted with their history.
        """
        ...

    async def settings(self) -> dict[str, str]:
        """The settings that `declare` stored last, by name."""
        ...

    async def declare(self, settings: Mapping[str, str]) -> dict[str, str]:
        """Store settings; return those stored before, and ``ledger_id``, which never changes."""
        ...

    async def probe(self) -> None:
        """Write, read and delete like the services, and leave nothing behind.

        Raises `LedgerError` that names the missing right.
        """
        ...
