"""What an engine says of its nodes: one entered RUNNING, one left it."""

from dataclasses import dataclass

from node_timeout.domain.run import NodeRun
from node_timeout.domain.timeout_config import TimeoutConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStarted:
    """A node entered RUNNING."""

    run: NodeRun
    happened_at: float | None = None
    """When, by the engine's clock; the deadline counts from then. None: now."""
    config: TimeoutConfig | None = None
    """Counts for this run if no config is stored for the node."""
    seen_at: float | None = None
    """When the run was last known to be running, if that is later than its start."""

    @property
    def node_id(self) -> str:
        return self.run.node_id

    def started_at(self, now: float) -> float:
        """By the engine's clock, so that its events can be put in order."""
        return now if self.happened_at is None else self.happened_at

    def counts_from(self, now: float) -> float:
        """Where the deadline counts from: not in the future, whatever the engine's clock says."""
        return min(self.started_at(now), now)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeLeft:
    """A node left RUNNING; with its version, or with the one that the engine gave it next."""

    node_id: str
    version: str | None = None
    happened_at: float | None = None
    """When, by the engine's clock. None: now."""
    trust_ledger: bool = False
    """Leave the pool alone if the ledger has cancelled nothing: one read is all it costs then."""
    only_version: bool = False
    """Older versions are left alone: someone cancels exactly this one."""
    remember: bool = False
    """Keep it in mind if the ledger does not know the run: its start may come later."""
    actor: str | None = None
    reason: str | None = None
    """Who cancels it, and why, if it is not the engine: for the history."""

    @property
    def run(self) -> NodeRun | None:
        """The run that it names, if it names one."""
        if self.version is None:
            return None
        return NodeRun(node_id=self.node_id, version=self.version)

    def left_at(self, now: float) -> float:
        """By the engine's clock."""
        return now if self.happened_at is None else self.happened_at


Event = NodeStarted | NodeLeft
