"""What an engine says of its nodes: one entered RUNNING, one left it.

An event that does not name its root pipeline means the only one that has the node: see
`node_timeout.arming.roots`.
"""

from dataclasses import dataclass
from typing import Any, Self

from node_timeout.domain.run import Node, NodeRun
from node_timeout.domain.timeout_config import TimeoutConfig


def _known(root_pipeline_id: str | None) -> str:
    if root_pipeline_id is None:
        raise ValueError("the root pipeline of this event has not been looked up")
    return root_pipeline_id


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStarted:
    """A node entered RUNNING."""

    node_id: str
    version: str
    root_pipeline_id: str | None = None
    happened_at: float | None = None
    """When, by the engine's clock; the deadline counts from then. None: now."""
    config: TimeoutConfig | None = None
    """Counts for this run if no config is stored for the node."""
    seen_at: float | None = None
    """When the run was last known to be running, if that is later than its start."""

    @classmethod
    def of(cls, run: NodeRun, **more: Any) -> Self:
        """The start of this run."""
        return cls(
            node_id=run.node_id,
            version=run.version,
            root_pipeline_id=run.root_pipeline_id,
            **more,
        )

    @property
    def run(self) -> NodeRun:
        """Once its root is known."""
        return NodeRun(
            root_pipeline_id=_known(self.root_pipeline_id),
            node_id=self.node_id,
            version=self.version,
        )

    @property
    def node(self) -> Node:
        """Once its root is known."""
        return _known(self.root_pipeline_id), self.node_id

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
    root_pipeline_id: str | None = None
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
        """The run that it names, if it names one; once its root is known."""
        if self.version is None:
            return None
        return NodeRun(
            root_pipeline_id=_known(self.root_pipeline_id),
            node_id=self.node_id,
            version=self.version,
        )

    @property
    def node(self) -> Node:
        """Once its root is known."""
        return _known(self.root_pipeline_id), self.node_id

    def left_at(self, now: float) -> float:
        """By the engine's clock."""
        return now if self.happened_at is None else self.happened_at


Event = NodeStarted | NodeLeft
