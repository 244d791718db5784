"""The lease that a worker asks for, and the result for each run: see `lifecycle.take`."""

from __future__ import annotations

from node_timeout.domain.run import LedgerRow, RunState
from node_timeout.older_python import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """A worker's lease on rows."""

    owner: str
    """Its token: unique to one call of take; a renewal of the lease keeps it."""
    until: float


@dataclass(frozen=True, slots=True)
class Taken:
    """The worker now holds the run."""

    row: LedgerRow
    was_abandoned: bool = False
    """Another worker's lease on it had run out."""
    is_repeated: bool = False
    """This lease had the run already: the transaction was committed, but its answer was lost."""


@dataclass(frozen=True, slots=True)
class Later:
    """Not due now: the run is to be examined again at this instant."""

    at: float


@dataclass(frozen=True, slots=True)
class Dropped:
    """The run is not armed; mostly it is closed already."""

    state: RunState


@dataclass(frozen=True, slots=True)
class GivenUp:
    """The run has no attempts left: it is dead."""

    row: LedgerRow
