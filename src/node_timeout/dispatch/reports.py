"""Reports of one pass of a scanner or of a reconciler."""

from dataclasses import dataclass


@dataclass(slots=True, kw_only=True)
class ScanReport:
    """What one pass did, in node runs."""

    claimed: int = 0
    published: int = 0
    finished: int = 0
    unreadable: int = 0
    unconfirmed: int = 0
    more: bool = False
    """Whether more may be due right now."""
    crowded: bool = False
    """Nothing was claimed: enough messages wait in the queue."""
    seconds_to_next: float | None = None
    """Time to the earliest deadline left in the pool, counted from ``claimed_at``."""
    claimed_at: float = 0.0
    """When the last claim was answered, by the event loop's clock."""
    error: Exception | None = None
    """The last failure of Redis or RabbitMQ in this pass."""


@dataclass(slots=True, kw_only=True)
class ReconcileReport:
    """What one pass did, in node runs."""

    leading: bool = True
    data_lost: bool = False
    """This pass is part of a sweep after Redis has lost data."""
    checked: int = 0
    rearmed: int = 0
    rescued: int = 0
    """Rows with an expired lease that were checked."""
    purged: int = 0
    purged_configs: int = 0
    swept: bool = False
    """The end of the ledger was reached."""
    more: bool = False
    """A page was full: there is more to do right now."""
