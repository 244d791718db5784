"""The terms of the domain: node runs, deadlines, row states, outcomes."""

from __future__ import annotations

import json
from typing import Any

from node_timeout.domain.errors import InvalidNodeRunError
from node_timeout.domain.hints import shown
from node_timeout.domain.ids import check_ids
from node_timeout.domain.run_id import run_id
from node_timeout.older_python import Self, StrEnum, dataclass

Node = tuple[str, str]
"""(root_pipeline_id, node_id): a node id is unique within its root pipeline only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRun:
    """One attempt at a node. A retry of the node is a new version."""

    root_pipeline_id: str
    node_id: str
    version: str

    @property
    def run_id(self) -> str:
        """The key in SQL, in the executing pool and in messages."""
        return run_id(self.root_pipeline_id, self.node_id, self.version)

    @property
    def node(self) -> Node:
        return self.root_pipeline_id, self.node_id


@dataclass(frozen=True, slots=True, kw_only=True)
class DueRun:
    """A run and the instant (Unix seconds, Redis's clock) at which it is due."""

    run_id: str
    due_at: float
    lease: float | None = None
    """The lease under which it was claimed, if a message says so; see `ports.pool.Claim`."""
    trace: str | None = None
    """The W3C ``traceparent`` of the message that brought it, if it has one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignRun:
    """A run that an engine has put into the pool itself, as bamboo's own app does.

    Its root pipeline has to be looked up.
    """

    node_id: str
    version: str
    due_at: float

    @property
    def member(self) -> str:
        return foreign_member(self.node_id, self.version)

    @classmethod
    def of(cls, node_id: object, version: object, due_at: float) -> Self:
        """Check and build. Raises `InvalidNodeRunError`."""
        check_ids(node_id, version)
        return cls(node_id=str(node_id), version=str(version), due_at=due_at)

    @classmethod
    def parse(cls, member: str, due_at: float) -> Self:
        """Read a pool member, split at its last underscore. Raises `InvalidNodeRunError`."""
        node_id, underscore, version = member.rpartition("_")
        if not underscore:
            raise InvalidNodeRunError(
                f"pool member {shown(member)} is neither a run id nor <node_id>_<version>"
            )
        return cls.of(node_id, version, due_at)


def foreign_member(node_id: str, version: str) -> str:
    """The pool member that bamboo's own app adds for a run."""
    return f"{node_id}_{version}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedOutNode:
    """The argument of a strategy: a node run whose deadline has passed."""

    node_id: str
    version: str
    root_pipeline_id: str
    action: str
    deadline: float
    """Unix seconds, UTC, by the clock of Redis."""
    attempt: int
    """1 for the first call, up to ``max_attempts``."""
    revision: int = 0
    """The run's revision when it was taken."""
    started_at: float | None = None
    """When it entered RUNNING, by the engine's clock; None: an engine has put it into the pool."""
    seconds: float | None = None
    """The timeout of its config when it started, or when it was last reconfigured."""
    extended: float | None = None
    """Seconds by which changes have moved the deadline since."""
    payload_json: str | None = None
    trace: str | None = None
    """The W3C ``traceparent`` of the start that armed it, if that was traced."""

    @classmethod
    def of(cls, row: LedgerRow) -> Self:
        """The node of a row that was taken, or is given up."""
        return cls(
            node_id=row.node_id,
            version=row.version,
            root_pipeline_id=row.root_pipeline_id,
            action=row.action or "",
            deadline=row.deadline or 0.0,
            attempt=row.attempts,
            revision=row.revision,
            started_at=row.started_at,
            seconds=row.timeout,
            extended=row.extended,
            payload_json=row.payload_json,
            trace=row.trace,
        )

    @property
    def payload(self) -> Any:
        """The config's ``payload``, parsed again on each call; None if there is none."""
        return None if self.payload_json is None else json.loads(self.payload_json)

    @property
    def run(self) -> NodeRun:
        return NodeRun(
            root_pipeline_id=self.root_pipeline_id, node_id=self.node_id, version=self.version
        )

    @property
    def run_id(self) -> str:
        return run_id(self.root_pipeline_id, self.node_id, self.version)


class RunState(StrEnum):
    """The state of a ledger row."""

    ARMED = "armed"
    """It waits for its deadline, or for the next attempt."""
    PAUSED = "paused"
    """Its time stands still while the pause lasts."""
    EXECUTING = "executing"
    """A worker holds it under a lease."""
    HANDLED = "handled"
    """The strategy was applied."""
    STALE = "stale"
    """The engine said: no longer running at this version."""
    CANCELLED = "cancelled"
    """The node left RUNNING before its deadline."""
    DEAD = "dead"
    """Given up, with the error, until someone replays it."""


CLOSED = (RunState.HANDLED, RunState.STALE, RunState.CANCELLED, RunState.DEAD)


class StoppedBy(StrEnum):
    """Who has paused or cancelled a run: an engine cannot undo what an operator has done."""

    ENGINE = "engine"
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How one strategy call ended, as the ledger records it."""

    node: TimedOutNode
    state: RunState
    message: str = ""
    due_at: float | None = None
    """The next attempt's instant; set if and only if ``state`` is ``armed``."""
    called: bool = True
    """False if the node was put back before its strategy was called: no attempt is used up."""
    extend_by: float | None = None
    """Seconds by which the strategy moves the deadline: the run is armed until then, with all its
    attempts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerRow:
    """One node run as the ledger knows it. Each field means one thing."""

    root_pipeline_id: str
    node_id: str
    version: str
    action: str | None = None
    """The config's action when the run started, or was last reconfigured. None: so far it is only
    known that the run left.
    """
    timeout: float | None = None
    """Seconds; like the action."""
    payload_json: str | None = None
    """Like the action; None: the config had none."""
    trace: str | None = None
    """The W3C ``traceparent`` of the start that armed it last, if that was traced."""
    state: RunState
    started_at: float | None = None
    """When it entered RUNNING, by the engine's clock; None: an engine has put it into the pool."""
    deadline: float | None = None
    extended: float | None = None
    """Seconds by which changes have moved the deadline in total; pauses do not count."""
    next_at: float | None = None
    """Armed: when it is due, at its deadline or for the next attempt. Else None."""
    paused_at: float | None = None
    """Paused: since when. The time that was left to the deadline at that instant stays."""
    stopped_by: StoppedBy | None = None
    """Who has paused or cancelled the run. Else None."""
    lease_until: float | None = None
    lease_owner: str | None = None
    """The token of the lease; also for a run that was cancelled while a worker held it."""
    attempts: int = 0
    revision: int = 0
    """Incremented by each change, and by a start while a worker holds the run."""
    finished_at: float | None = None
    message: str | None = None
    """What the strategy, the engine or the last error said."""

    @property
    def run(self) -> NodeRun:
        return NodeRun(
            root_pipeline_id=self.root_pipeline_id, node_id=self.node_id, version=self.version
        )

    @property
    def node(self) -> Node:
        return self.root_pipeline_id, self.node_id

    @property
    def run_id(self) -> str:
        return run_id(self.root_pipeline_id, self.node_id, self.version)
