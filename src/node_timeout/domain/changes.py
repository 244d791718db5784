"""What a person or a program asks of runs, from extend to discard.

Pure, as `lifecycle`: order + row + now → a verdict, what the row becomes, what its history says.

    armed, paused   may be extended, reconfigured, paused or resumed, fired, cancelled
    executing       is refused: a worker holds the row, so a change and an attempt never cross; so
                    is what its engine has paused under a worker's hands, until the lease is over
    dead            may be replayed or discarded
    other           is closed: nothing opens it again

What was answered with ``done`` holds: nothing is done about the run before that instant.
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
    """Refused: the run was changed since the caller looked at it."""
    OVER_CAP = "over_cap"
    """Refused: its time would be longer than ``max_seconds``."""
    NO_CONFIG = "no_config"
    """Refused: there is no config that it could follow."""
    UNCHANGED = "unchanged"
    """There was nothing to change: it follows that config already."""
    KEY_USED = "key_used"
    """Refused: this run had another change under the same idempotency key."""


OPEN = (RunState.ARMED, RunState.PAUSED)

Changed = Optional[tuple[LedgerRow, str]]
"""The new row, its revision not counted up yet, and what the history says; None: as it is."""


class Change(ABC):
    """What is to be done with a run."""

    kind: ClassVar[HistoryKind]
    """What the history calls it."""
    applies_to: ClassVar[tuple[RunState, ...]] = OPEN
    sought: ClassVar[tuple[RunState, ...]] = OPEN
    """Of these states are the runs that it is about, if none is named."""

    def refusal(self, row: LedgerRow, now: float, max_seconds: float) -> Verdict | None:
        """Why a run in one of these states is left alone all the same."""
        del row, now, max_seconds
        return None

    @abstractmethod
    def apply(self, row: LedgerRow, now: float) -> Changed:
        """What becomes of a run in one of these states."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extend(Change):
    """Move the deadline: ``by`` seconds, also fewer than none, or ``until`` an instant.

    One of the two. Of a run that is overdue more time counts from now. A deadline moves back to now
    at most. Of a paused run the time left is changed.
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

    Its action and its payload, and its seconds, counted from where those of before were counted: so
    the deadline moves by their difference, and what changes have added stays. A deadline that would
    move into the past is now, and what that is more counts as added. A run that follows it already
    is left alone.
    """

    kind = HistoryKind.RECONFIGURED

    configs: Mapping[Node, TimeoutConfig] = field(default_factory=dict)
    """As they are stored now; whoever judges reads them, see `Order.told`."""

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
    """Whether a run does what this config of its node says."""
    said = (config.action, config.timeout, config.payload_json)
    return (row.action, row.timeout, row.payload_json) == said


class Pause(Change):
    """Let the time stand still until someone resumes the run."""

    kind = HistoryKind.PAUSED
    sought = (RunState.ARMED,)

    def apply(self, row: LedgerRow, now: float) -> Changed:
        if row.stopped_by is StoppedBy.OPERATOR:
            return None
        since = now if row.paused_at is None else row.paused_at
        return paused_row(row, StoppedBy.OPERATOR, since), ""


class Resume(Change):
    """Let a paused run go on, with the time it had left, whoever has paused it."""

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
    """Nothing shall be done about the run any more."""

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
    """Arm a dead run again, due now, with all its attempts."""

    kind = HistoryKind.REPLAYED
    applies_to = sought = (RunState.DEAD,)

    def apply(self, row: LedgerRow, now: float) -> Changed:
        new = replace(row, state=RunState.ARMED, next_at=now, attempts=0, finished_at=None)
        return new, ""


class Discard(Change):
    """Delete a dead run, with its history: the caller does that to what is ``done``."""

    applies_to = sought = (RunState.DEAD,)

    def apply(self, row: LedgerRow, now: float) -> Changed:
        del row, now
        return None


def _over_cap(row: LedgerRow, moved: float, max_seconds: float) -> Verdict | None:
    """Whether the time of a run becomes too long if its deadline moves by so many seconds."""
    total = (row.timeout or 0.0) + (row.extended or 0.0) + moved
    return Verdict.OVER_CAP if moved > 0 and total > max_seconds else None
