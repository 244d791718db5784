"""What a worker asks for, and what becomes of each run that it asks for: see `lifecycle.take`."""

from __future__ import annotations

from node_timeout.domain.run import LedgerRow, RunState
from node_timeout.older_python import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """A worker's claim on rows."""

    owner: str
    """Its token: no other taking has the same, and it stays when the lease is renewed."""
    until: float


@dataclass(frozen=True, slots=True)
class Taken:
    """The run is the worker's."""

    row: LedgerRow
    was_abandoned: bool = False
    """Another worker's lease on it had run out."""
    is_repeated: bool = False
    """It was this taking's before: the transaction was committed, and its answer lost."""


@dataclass(frozen=True, slots=True)
class Later:
    """Not for now: it is to be looked at again at this instant."""

    at: float


@dataclass(frozen=True, slots=True)
class Dropped:
    """Closed already."""

    state: RunState


@dataclass(frozen=True, slots=True)
class GivenUp:
    """It cannot be tried any more: dead."""

    row: LedgerRow
