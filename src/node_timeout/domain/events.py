"""The events that an engine sends: a node entered RUNNING, a node left it.

If an event does not name its root pipeline, the only root pipeline that has the node is meant: see
`node_timeout.arming.roots`.
"""

from __future__ import annotations

from typing import Any, Union

from node_timeout.domain.run import Node, NodeRun
from node_timeout.domain.timeout_config import TimeoutConfig
from node_timeout.older_python import Self, dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class _OfNode:
    """The fields that both events have."""

    node_id: str
    root_pipeline_id: str | None = None
    happened_at: float | None = None
    """When it happened, by the engine's clock; deadlines count from the start. None: now."""

    @property
    def node(self) -> Node:
        """The node. Raises ValueError until its root pipeline is known."""
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
    """The config for this run if none is stored for the node."""
    seen_at: float | None = None
    """When the run was last seen running, if that is later than its start."""
    trace: str | None = None
    """The W3C ``traceparent`` that the start belongs to, if the engine traces."""

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
        """The run that started. Raises ValueError until its root pipeline is known."""
        return self._run(self.version)

    def started_at(self, now: float) -> float:
        """When the run started, by the engine's clock, so that events can be ordered."""
        return now if self.happened_at is None else self.happened_at

    def counts_from(self, now: float) -> float:
        """The instant from which the deadline counts: never in the future, whatever the engine's
        clock says.
        """
        return min(self.started_at(now), now)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeLeft(_OfNode):
    """A node left RUNNING. ``version`` is the one that left, or its successor version."""

    version: str | None = None
    trust_ledger: bool = False
    """If the ledger cancels nothing, do not touch the pool: the event then costs one read."""
    is_pause: bool = False
    """The engine has suspended the node: its run is paused, not cancelled. Older versions are not
    changed."""
    remember: bool = False
    """If the ledger does not know the run, store this event: the start may come later."""

    @classmethod
    def of(cls, run: NodeRun, **more: Any) -> Self:
        """The event that this run left RUNNING."""
        return cls(
            node_id=run.node_id,
            version=run.version,
            root_pipeline_id=run.root_pipeline_id,
            **more,
        )

    @property
    def run(self) -> NodeRun | None:
        """The run that the event names, or None. Raises ValueError until its root is known."""
        return None if self.version is None else self._run(self.version)

    def left_at(self, now: float) -> float:
        """When the node left, by the engine's clock."""
        return now if self.happened_at is None else self.happened_at


Event = Union[NodeStarted, NodeLeft]
