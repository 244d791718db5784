"""The directory: how people and programs look at runs. It changes nothing."""

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
    """How many rows want attention, and the outcomes of the last hour by state."""

    armed: int
    overdue: int
    oldest_overdue_seconds: float
    """How long the oldest overdue run has waited for a worker: since its deadline, its next try, or
    the end of a worker's lease."""
    executing: int
    paused: int
    dead: int
    last_hour: Mapping[RunState, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFilter:
    """Which runs are meant: those for which all that is given holds."""

    state: RunState | None = None
    root_pipeline_id: str | None = None
    node_id: str | None = None
    version: str | None = None
    action: str | None = None
    due_by: float | None = None
    """Armed, and wanting attention by then."""

    finished_by: float | None = None
    """Closed by then."""

    @property
    def is_for_all(self) -> bool:
        """No root pipeline and no node is named; so canaries are not meant."""
        return self.root_pipeline_id is None and self.node_id is None

    def in_state(self, state: RunState) -> "RunFilter":
        """Those of them that are in this state."""
        return replace(self, state=state)


MAX_PAGE = 1000
"""Runs of a page, at most."""
MAX_NAMES = 100
"""Ids of a kind, at most."""


class Cursor(NamedTuple):
    """The last run of a page, behind which the next one begins."""

    instant: float
    run_id: str

    def __str__(self) -> str:
        return f"{self.instant!r}/{self.run_id}"

    @classmethod
    def parse(cls, text: str) -> "Cursor":
        """Read what `str` has made. Raises `InvalidInputError`."""
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
    """Runs, oldest first: armed ones by when they want attention, paused ones by when that was,
    executing ones by the end of their lease, closed ones by when they were closed; those of any
    state by their deadline.
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
        """At most ``limit`` runs, those behind ``after``.

        Costs what it returns, not what there is, if a state or a root is given. Of a node all runs
        are sorted, and ``action`` is looked for among those that the rest leaves.
        """
        ...

    async def counts(self, now: float, most: int | None = None) -> LedgerCounts:
        """How many want attention. With ``most`` no number is counted further, and what it costs
        is bounded.
        """
        ...

    async def count(self, states: Sequence[RunState]) -> dict[RunState, int]:
        """How many rows are in each of these states. Costs what it counts."""
        ...

    async def recent(self, limit: int, states: Sequence[RunState] = ...) -> list[LedgerRow]:
        """The rows closed last, newest first, in any closed state or in these."""
        ...

    async def find_configs(
        self,
        limit: int,
        *,
        root_pipeline_id: str | None = None,
        node_id: str | None = None,
        after: Node | None = None,
    ) -> list[TimeoutConfig]:
        """At most ``limit`` configs in order of (root, node), those behind ``after``."""
        ...

    async def names(self, prefix: str, limit: int) -> Names:
        """Node ids and root pipeline ids that begin so, at most ``limit`` of each.

        Costs a look into an index for each name, however many runs have it.
        """
        ...

    async def history(self, run_ids: Sequence[str]) -> list[HistoryEntry]:
        """What happened to these runs beyond their plain course, each in order."""
        ...

    async def recent_history(self, run_id: str, limit: int) -> list[HistoryEntry]:
        """The newest entries of one run's history, in order."""
        ...

    async def rows(self, node_id: str, root_pipeline_id: str | None = None) -> list[LedgerRow]:
        """Every row of a node, in all root pipelines or in this one, in order of deadline."""
        ...

    async def rows_of(self, run_ids: Sequence[str]) -> list[LedgerRow]:
        """The rows of these runs; unknown ones are left out."""
        ...
