"""The directory: how people and programs read runs. It changes nothing."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

from node_timeout.domain.errors import InvalidInputError
from node_timeout.domain.hints import shown
from node_timeout.domain.history import HistoryEntry
from node_timeout.domain.run import LedgerRow, Node, RunState
from node_timeout.domain.run_id import is_run_id
from node_timeout.domain.timeout_config import TimeoutConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerCounts:
    """How many rows are open or dead, and the outcomes of the last hour by state."""

    armed: int
    overdue: int
    oldest_overdue_seconds: float
    """How long the oldest overdue run has waited for a worker: since its deadline, since its next
    attempt was due, or since a worker's lease ended."""
    executing: int
    paused: int
    dead: int
    last_hour: Mapping[RunState, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFilter:
    """Selects runs: a run matches if every given field holds for it."""

    state: RunState | None = None
    root_pipeline_id: str | None = None
    node_id: str | None = None
    version: str | None = None
    action: str | None = None
    due_by: float | None = None
    """Armed, and due by this instant."""

    finished_by: float | None = None
    """Closed by this instant."""

    @property
    def is_for_all(self) -> bool:
        """True if no root pipeline and no node is named; canaries are then left out."""
        return self.root_pipeline_id is None and self.node_id is None

    def in_state(self, state: RunState) -> "RunFilter":
        """The same filter, restricted to this state."""
        return replace(self, state=state)


MAX_PAGE = 1000
"""The most runs on a page."""
MAX_NAMES = 100
"""The most ids of each kind."""


class Cursor(NamedTuple):
    """The last run of a page; the next page begins after it."""

    instant: float
    run_id: str

    def __str__(self) -> str:
        return f"{self.instant!r}/{self.run_id}"

    @classmethod
    def parse(cls, text: str) -> "Cursor":
        """Read the text that `str` returns. Raises `InvalidInputError`."""
        instant, _, run_id = text.partition("/")
        try:
            cursor = cls(float(instant), run_id)
        except ValueError:
            cursor = cls(math.nan, run_id)
        if math.isfinite(cursor.instant) and is_run_id(run_id):
            return cursor
        raise InvalidInputError(f"{shown(text)} is not where a page has ended")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPage:
    """Runs, oldest first: armed runs by when they are due, paused runs by when they were paused,
    executing runs by the end of their lease, closed runs by when they were closed. Without a state,
    runs are ordered by their deadline.
    """

    rows: tuple[LedgerRow, ...]
    after: Cursor | None
    """Where the next page begins; None after the last one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """Ids of runs, each once, in byte order."""

    nodes: tuple[str, ...]
    root_pipelines: tuple[str, ...]


class Directory(Protocol):
    """The read side of the ledger."""

    async def find(self, wanted: RunFilter, limit: int, after: Cursor | None = None) -> RunPage:
        """At most ``limit`` runs, those after ``after``.

        If a state or a root is given, the cost grows with the rows returned, not with the rows
        stored. For a node, all its runs are sorted. ``action`` is compared in each row that the
        other conditions leave.
        """
        ...

    async def counts(self, now: float, most: int | None = None) -> LedgerCounts:
        """Count the rows. With ``most``, each count stops at that number, so that the cost is
        bounded.
        """
        ...

    async def count(self, states: Sequence[RunState]) -> dict[RunState, int]:
        """How many rows are in each of these states. The cost grows with the rows counted."""
        ...

    async def recent(self, limit: int, states: Sequence[RunState] = ...) -> list[LedgerRow]:
        """The rows closed last, newest first, in any closed state or in these states."""
        ...

    async def find_configs(
        self,
        limit: int,
        *,
        root_pipeline_id: str | None = None,
        node_id: str | None = None,
        after: Node | None = None,
    ) -> list[TimeoutConfig]:
        """At most ``limit`` configs in order of (root, node), those after ``after``."""
        ...

    async def names(self, prefix: str, limit: int) -> Names:
        """Node ids and root pipeline ids that begin with ``prefix``, at most ``limit`` of each.

        Costs one index lookup per name, however many runs have it.
        """
        ...

    async def history(self, run_ids: Sequence[str]) -> list[HistoryEntry]:
        """The histories of these runs, each in order of time."""
        ...

    async def recent_history(self, run_id: str, limit: int) -> list[HistoryEntry]:
        """The newest entries of one run's history, in order of time."""
        ...

    async def rows(self, node_id: str, root_pipeline_id: str | None = None) -> list[LedgerRow]:
        """Every row of a node, in all root pipelines or in the given one, in order of deadline."""
        ...

    async def rows_of(self, run_ids: Sequence[str]) -> list[LedgerRow]:
        """The rows of these runs; unknown ones are left out."""
        ...
