"""The changes that a person or a program can order for runs, from extend to discard.

Pure, as `lifecycle`: order + row + now → a verdict, the new row, the history entry.

    armed, paused   may be extended, reconfigured, paused or resumed, fired, cancelled
    executing       is refused: a worker holds the row, so a change and an attempt never cross; so
                    is a run that the engine paused while a worker held it, until the lease ends
    dead            may be replayed or discarded
    other           is closed: no change opens it again

The answer ``done`` is binding: nothing deals with the run before the new instant.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import field, replace
from typing import ClassVar, Optional

from node_timeout.domain.history import HistoryKind
from node_timeout.domain.instants import instant_text
from node_timeout.domain.leaving import paused_row
from node_timeout.domain.moving import (
    armed_until,
    clock_of,
    not_past,
    not_waiting,
    time_left,
    with_deadline,
)
from node_timeout.domain.run import LedgerRow, Node, RunState, StoppedBy
from node_timeout.domain.timeout_config import TimeoutConfig
from node_timeout.older_python import StrEnum, dataclass


class Verdict(StrEnum):
    """What became of an order for one run."""

    DONE = "done"
    EXECUTING = "executing"
    """Refused: a worker holds the row."""
    CLOSED = "closed"
    """Refused: the run has ended."""
    MISSING = "missing"
    """The ledger has no such run."""
    NOT_PAUSED = "not_paused"
    NOT_DEAD = "not_dead"
    REVISION = "revision"
    """Refused: the run was changed after the caller read it."""
    OVER_CAP = "over_cap"
    """Refused: the run's total time would exceed ``max_seconds``."""
    NO_CONFIG = "no_config"
    """Refused: its node has no stored config."""
    UNCHANGED = "unchanged"
    """There was nothing to change: the run already follows that config."""
    KEY_USED = "key_used"
    """Refused: this run had another change under the same idempotency key."""


OPEN = (RunState.ARMED, RunState.PAUSED)

Changed = Optional[tuple[LedgerRow, str]]
"""The new row, before its revision is incremented, and the history text; None: no change."""


class Change(ABC):
    """One change that can be made to a run."""

    kind: ClassVar[HistoryKind]
    """The kind under which the history records it."""
    applies_to: ClassVar[tuple[RunState, ...]] = OPEN
    sought: ClassVar[tuple[RunState, ...]] = OPEN
    """The states in which runs are selected if the caller's filter names no state."""

    def refusal(self, row: LedgerRow, now: float, max_seconds: float) -> Verdict | None:
        """Why a run in one of the `applies_to` states is refused all the same; else None."""
        del row, now, max_seconds
        return None

    @abstractmethod
    def apply(self, row: LedgerRow, now: float) -> Changed:
        """The result for a run in one of the `applies_to` states."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extend(Change):
    """Move the deadline ``by`` seconds, which may be negative, or ``until`` an instant.

    Set one of the two. If the run is overdue, added time counts from now. A deadline never moves
    back past now. For a paused run the time left changes.
    """

    kind = HistoryKind.EXTENDED

    by: float | None = None
    until: float | None = None

    def refusal(self, row: LedgerRow, now: float, max_seconds: float) -> Verdict | None:
        return _over_cap(row, self._moved(row, now), max_seconds)

    def apply(self, row: LedgerRow, now: float) -> Changed:
        moved = self._moved(row, now)
        new, left = with_deadline(row, (row.deadline or 0.0) + moved)
        new = replace(new, extended=(row.extended or 0.0) + moved)
        return new, f"by {moved:.15g} s, {left}"

    def _moved(self, row: LedgerRow, now: float) -> float:
        """By how many seconds the deadline moves."""
        clock = clock_of(row, now)
        deadline = clock if row.deadline is None else row.deadline
        if self.by is not None:
            wanted = max(deadline, clock) + self.by
        else:
            wanted = clock + (0.0 if self.until is None else self.until - now)
        return not_past(row, wanted, now) - deadline


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconfigure(Change):
    """Follow the node's config as it is stored now, not as it was when the run started.

    The run takes the config's action, payload and seconds. The new seconds count from the same
    instant as the old ones: the deadline moves by their difference, and time added by other changes
    stays. A deadline that would move into the past becomes now; the surplus counts as added time.
    A run that already follows the config stays as it is.
    """

    kind = HistoryKind.RECONFIGURED

    configs: Mapping[Node, TimeoutConfig] = field(default_factory=dict)
    """The configs stored now. The code that judges the order reads them; see `Order.told`."""

    def refusal(self, row: LedgerRow, now: float, max_seconds: float) -> Verdict | None:
        config = self.configs.get(row.node)
        if config is None:
            return Verdict.NO_CONFIG
        if follows(row, config):
            return Verdict.UNCHANGED
        moved = self._deadline(row, config, now) - (row.deadline or 0.0)
        return _over_cap(row, moved, max_seconds)

    def apply(self, row: LedgerRow, now: float) -> Changed:
        config = self.configs[row.node]
        deadline = self._deadline(row, config, now)
        new, left = with_deadline(row, deadline)
        more = deadline - self._wanted(row, config)
        new = replace(
            new,
            action=config.action,
            timeout=config.timeout,
            payload_json=config.payload_json,
            extended=(row.extended or 0.0) + more if more else row.extended,
        )
        return new, f"{config.action} after {config.timeout:.15g} s, {left}"

    def _deadline(self, row: LedgerRow, config: TimeoutConfig, now: float) -> float:
        wanted = self._wanted(row, config)
        moves_back = wanted < (row.deadline or 0.0)
        return not_past(row, wanted, now) if moves_back else wanted

    def _wanted(self, row: LedgerRow, config: TimeoutConfig) -> float:
        return (row.deadline or 0.0) + config.timeout - (row.timeout or 0.0)


def follows(row: LedgerRow, config: TimeoutConfig) -> bool:
    """Whether a run has the action, seconds and payload of this config."""
    said = (config.action, config.timeout, config.payload_json)
    return (row.action, row.timeout, row.payload_json) == said


class Pause(Change):
    """Stop the run's time until someone resumes the run."""

    kind = HistoryKind.PAUSED
    sought = (RunState.ARMED,)

    def apply(self, row: LedgerRow, now: float) -> Changed:
        if row.stopped_by is StoppedBy.OPERATOR:
            return None
        since = now if row.paused_at is None else row.paused_at
        return paused_row(row, StoppedBy.OPERATOR, since), ""


class Resume(Change):
    """Continue a paused run with the time it had left, whoever paused it."""

    kind = HistoryKind.RESUMED
    sought = (RunState.PAUSED,)

    def refusal(self, row: LedgerRow, now: float, max_seconds: float) -> Verdict | None:
        del now, max_seconds
        return None if row.state is RunState.PAUSED else Verdict.NOT_PAUSED

    def apply(self, row: LedgerRow, now: float) -> Changed:
        new = armed_until(row, now + time_left(row, now))
        return new, f"the deadline is {instant_text(new.deadline)}"


class Fire(Change):
    """Make the run due now."""

    kind = HistoryKind.FIRED

    def apply(self, row: LedgerRow, now: float) -> Changed:
        extended = (row.extended or 0.0) - time_left(row, now)
        was = f"the deadline was {instant_text(row.deadline)}"
        return replace(armed_until(row, now), extended=extended), was


class Cancel(Change):
    """Close the run: nothing deals with it any more."""

    kind = HistoryKind.CANCELLED

    def apply(self, row: LedgerRow, now: float) -> Changed:
        new = replace(
            not_waiting(row),
            state=RunState.CANCELLED,
            stopped_by=StoppedBy.OPERATOR,
            finished_at=now,
        )
        return new, ""


class Replay(Change):
    """Arm a dead run again: it is due now and has all its attempts."""

    kind = HistoryKind.REPLAYED
    applies_to = sought = (RunState.DEAD,)

    def apply(self, row: LedgerRow, now: float) -> Changed:
        new = replace(row, state=RunState.ARMED, next_at=now, attempts=0, finished_at=None)
        return new, ""


class Discard(Change):
    """Delete a dead run and its history; the caller deletes the runs whose verdict is ``done``."""

    applies_to = sought = (RunState.DEAD,)

    def apply(self, row: LedgerRow, now: float) -> Changed:
        del row, now
        return None


def _over_cap(row: LedgerRow, moved: float, max_seconds: float) -> Verdict | None:
    """`Verdict.OVER_CAP` if the run's time becomes too long when its deadline moves; else None."""
    total = (row.timeout or 0.0) + (row.extended or 0.0) + moved
    return Verdict.OVER_CAP if moved > 0 and total > max_seconds else None
