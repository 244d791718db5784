"""What an engine says of its nodes: one entered RUNNING, one left it.

An event that does not name its root pipeline means the only one that has the node: see
`node_timeout.arming.roots`.
"""

from __future__ import annotations

from typing import Any, Union

from node_timeout.domain.run import Node, NodeRun
from node_timeout.domain.timeout_config import TimeoutConfig
from node_timeout.older_python import Self, dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class _OfNode:
    """What both events say of the node."""

    node_id: str
    root_pipeline_id: str | None = None
    happened_at: float | None = None
    """When, by the engine's clock; the deadline counts from a start. None: now."""

    @property
    def node(self) -> Node:
        """Raises ValueError until its root is known."""
        if self.root_pipeline_id is None:
            raise ValueError("the root pipeline of this event has not been looked up")
        return self.root_pipeline_id, self.node_id

    def _run(self, version: str) -> NodeRun:
        root, node_id = self.node
        return NodeRun(root_pipeline_id=root, node_id=node_id, version=version)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStarted(_OfNode):
    """A node entered RUNNING."""

    version: str
    config: TimeoutConfig | None = None
    """Counts for this run if no config is stored for the node."""
    seen_at: float | None = None
    """When the run was last known to be running, if that is later than its start."""
    trace: str | None = None
    """The W3C ``traceparent`` of what it is a part of, if the engine traces."""

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
        return self._run(self.version)

    def started_at(self, now: float) -> float:
        """By the engine's clock, so that its events can be put in order."""
        return now if self.happened_at is None else self.happened_at

    def counts_from(self, now: float) -> float:
        """Where the deadline counts from: not in the future, whatever the engine's clock says."""
        return min(self.started_at(now), now)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeLeft(_OfNode):
    """A node left RUNNING; with its version, or with the one that the engine gave it next."""

    version: str | None = None
    trust_ledger: bool = False
    """Leave the pool alone if the ledger has cancelled nothing: one read is all it costs then."""
    is_pause: bool = False
    """The engine has suspended the node: its run is paused, not cancelled. Older versions are left
    alone."""
    remember: bool = False
    """Keep it in mind if the ledger does not know the run: its start may come later."""

    @classmethod
    def of(cls, run: NodeRun, **more: Any) -> Self:
        """The leaving of this run."""
        return cls(
            node_id=run.node_id,
            version=run.version,
            root_pipeline_id=run.root_pipeline_id,
            **more,
        )

    @property
    def run(self) -> NodeRun | None:
        """The run that it names, if it names one; once its root is known."""
        return None if self.version is None else self._run(self.version)

    def left_at(self, now: float) -> float:
        """By the engine's clock."""
        return now if self.happened_at is None else self.happened_at


Event = Union[NodeStarted, NodeLeft]
