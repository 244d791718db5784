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
    """What became of the runs that a worker asked for."""

    taken: tuple[TimedOutNode, ...]
    """Now ``executing``, this worker's; some ahead of their deadline."""
    owner: str
    """The token of their leases."""
    lease_until: float
    later: tuple[DueRun, ...]
    """Not due yet, or in another live worker's hands: to be looked at again at ``due_at``."""
    dropped: Mapping[RunState, int]
    """Closed already, by state."""
    given_up: tuple[Outcome, ...]
    """Recorded as ``dead`` by this call: out of attempts."""
    stolen: int
    """How many of the taken came from a worker whose lease ran out."""
    unknown: tuple[DueRun, ...] = ()
    """The ledger has no such run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Adoption:
    """What became of runs that an engine has put into the pool itself."""

    due: Mapping[ForeignRun, DueRun]
    """They have a row now, or had one."""
    refused: Mapping[ForeignRun, str]
    """Their node has no config, or is in several root pipelines; the reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How long closed rows stay, in seconds."""

    handled_seconds: float
    """Of handled and stale rows."""
    cancelled_seconds: float
    """Of those that left; what somebody has cancelled stays as long as dead rows."""
    dead_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Disarming:
    """What became of the armed runs of nodes that left."""

    cancelled: tuple[NodeRun, ...]
    kept: tuple[NodeRun, ...]
    """Open still: they started after the node left, so that event came late."""
    paused: tuple[NodeRun, ...] = ()


class Ledger(Directory, Protocol):
    """One row per node run: the truth. Each method is one transaction, all or nothing."""

    async def save_configs(
        self, configs: Sequence[TimeoutConfig], disabled: Sequence[Node]
    ) -> None:
        """Insert or update configs, which then have no end; delete those of disabled nodes."""
        ...

    async def end_root(self, root_pipeline_id: str, expires_at: float) -> int:
        """Let the configs of a root pipeline expire then, unless they do so already; how many."""
        ...

    async def forget_root(
        self, root_pipeline_id: str, node_ids: Sequence[str] | None = None
    ) -> int:
        """Delete the configs of a root pipeline, or of some of its nodes; return how many there
        were.
        """
        ...

    async def purge_configs(self, now: float, limit: int) -> int:
        """Delete at most ``limit`` configs that have expired; return how many."""
        ...

    async def add_configs(self, configs: Sequence[TimeoutConfig]) -> int:
        """Insert configs of any roots whose nodes have none; return how many were inserted."""
        ...

    async def configs(self, nodes: Sequence[Node]) -> dict[Node, TimeoutConfig]:
        """The stored configs; nodes without one are left out."""
        ...

    async def roots(
        self, node_ids: Sequence[str], *, of_open_runs: bool = False
    ) -> dict[str, tuple[str, ...]]:
        """The root pipelines in which each node has a config: one, or the first and the last of
        several. With ``of_open_runs`` also those in which it is armed or executing. One that has
        ended counts only if there is no other. Nodes without any are left out. One read.
        """
        ...

    async def configured(self, after: Node | None, limit: int) -> list[Node]:
        """Nodes that have a config, in key order, those after ``after``.

        Those of root pipelines that have ended are left out.
        """
        ...

    async def arm(self, events: Sequence[NodeStarted], now: float) -> list[DueRun]:
        """Open a row for each run whose node has a config; return those that are armed.

        A run armed before keeps its deadline. One cancelled or found stale before it was seen
        running goes on with the time it had left then. One in any other state, or closed since it
        was seen, stays as it is and is not returned. Costs one read if no node has a config. The
        root of each event is known, as in `disarm`.
        """
        ...

    async def disarm(self, events: Sequence[NodeLeft], now: float) -> Disarming:
        """Cancel every open version of the nodes that started before they left, or pause exactly
        the version that the engine has suspended.

        Also one that a worker has taken ahead of its deadline.
        """
        ...

    async def untracked(self, runs: Sequence[NodeRun]) -> list[NodeRun]:
        """The runs that have no row, or one that is stale, or that its engine let leave or paused.

        Not those that a person or a program has cancelled or paused.
        """
        ...

    async def actions(self, run_ids: Sequence[str]) -> dict[str, str]:
        """The action of each run that has one."""
        ...

    async def adopt(self, foreign: Sequence[ForeignRun]) -> Adoption:
        """Give runs a row that an engine has put into the pool itself, unless they have one."""
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
        """Take due runs, as `node_timeout.domain.lifecycle.take` has it; one attempt is used up.

        Repeated with the same ``owner`` it returns the same runs; without one,
        each call is a taking of its own.
        """
        ...

    async def owners(self, run_ids: Sequence[str]) -> dict[str, str]:
        """The owners of the leases under which runs are executing; others are left out."""
        ...

    async def renew(self, run_ids: Sequence[str], owners: Sequence[str], until: float) -> set[str]:
        """Make the leases of these owners last until then; return the runs that are theirs."""
        ...

    async def record(self, outcomes: Sequence[Outcome], *, owner: str, now: float) -> int:
        """Write outcomes of runs that are still this owner's; return how many were.

        See `node_timeout.domain.lifecycle.conclude`. The others are in the history as late.
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
        after ``after``; with the end of the lease.
        """
        ...

    async def purgeable(self, now: float, retention: Retention, limit: int) -> list[str]:
        """Ids of closed runs that are past their retention, at most ``limit`` of each kind."""
        ...

    async def purge(self, run_ids: Sequence[str], now: float, retention: Retention) -> int:
        """Delete the rows of these runs that are past their retention still, with their history;
        return how many.
        """
        ...

    async def change(self, order: Order, run_ids: Sequence[str], now: float) -> dict[str, Judged]:
        """Carry out what somebody orders, as `node_timeout.domain.orders.judge` has it; return
        what became of each run.

        Each row is judged once nobody else is changing it, and if the order asks for them, by the
        configs that are stored then. Discarded runs are deleted, with their history.
        """
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
