"""The history of a chaos run, and the checker that reads it.

Everybody appends to one list in a Redis that no fault touches, and that stamps each event with its
clock: the load (armed, disarmed, paused and so on), the faults planted in each process (claimed,
published, taken, outcome), the engine (effect, refused) and the strategy (called, returned). The
checker knows nothing of the code that is under test: it compares what was asked for with what was
done.
"""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from node_timeout.domain.run import LedgerRow, NodeRun, RunState

EARLY_SECONDS = 0.001


class Kind(StrEnum):
    ARMING = "arming"
    """About to be armed; ``seconds`` is its timeout."""
    ARMED = "armed"
    """Arming was acknowledged."""
    DISARMING = "disarming"
    DISARMED = "disarmed"
    """Disarming was acknowledged; the engine had moved on before."""
    PAUSING = "pausing"
    """An operator is about to pause it."""
    PAUSED = "paused"
    """That was acknowledged; it was asked for at ``since``."""
    RESUMING = "resuming"
    RESUMED = "resumed"
    FIRING = "firing"
    FIRED = "fired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"
    """An operator has cancelled it, for good."""
    EXTENDED = "extended"
    """Acknowledged: the deadline is ``until``; it was asked for at ``since``."""
    RECONFIGURED = "reconfigured"
    """Acknowledged: it follows another config, and the deadline is ``until``, perhaps earlier."""
    CLAIMED = "claimed"
    PUBLISHED = "published"
    TAKING = "taking"
    """A worker asks the ledger for the run."""
    TAKEN = "taken"
    """The ledger gave it to this worker, until ``until``; told behind the commit."""
    RENEWED = "renewed"
    """The ledger made this worker's lease last until ``until``."""
    CALLED = "called"
    """The strategy was called."""
    RETURNED = "returned"
    """The call ended: it returned, raised, or ran out of time."""
    OUTCOME = "outcome"
    """The ledger has recorded ``state``, under this worker's lease; told behind the commit."""
    EFFECT = "effect"
    """The engine did what it was asked to."""
    REFUSED = "refused"
    """The engine was asked to act on a run that it does not run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One line of the history."""

    kind: Kind
    at: float
    """Unix seconds by the history's own clock."""
    process: str
    run: NodeRun
    seconds: float = 0.0
    until: float = 0.0
    """Of a taking: when its lease ends; of a move: the deadline."""
    since: float = 0.0
    """Of an acknowledged change: when it was asked for."""
    state: RunState | None = None
    """Of an outcome."""

    @classmethod
    def of(cls, raw: dict[str, Any], run: NodeRun) -> "Event":
        return cls(
            kind=Kind(raw["kind"]),
            at=float(raw["at"]),
            process=str(raw["process"]),
            run=run,
            seconds=float(raw.get("seconds", 0.0)),
            until=float(raw.get("until", 0.0)),
            since=float(raw.get("since", 0.0)),
            state=RunState(raw["state"]) if "state" in raw else None,
        )


def read(lines: Iterable[str | bytes]) -> list[Event]:
    """The events of a history, whose lines have the run's id, and the names that it is made of.

    A line that has the id alone is about the run that another line names. If none does, nobody
    armed it, acted on it or took it: it is left out.
    """
    raw = [json.loads(line) for line in lines]
    runs = {
        each["run_id"]: NodeRun(
            root_pipeline_id=each["root_pipeline_id"],
            node_id=each["node_id"],
            version=each["version"],
        )
        for each in raw
        if "node_id" in each
    }
    return [Event.of(each, runs[each["run_id"]]) for each in raw if each["run_id"] in runs]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """Between these instants nothing is promised to be in time."""

    begin: float
    end: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """A promise that was broken."""

    invariant: str
    run: NodeRun
    what: str


@dataclass(slots=True, kw_only=True)
class Verdict:
    """What the checker found."""

    armed: int = 0
    """Runs whose arming was acknowledged."""
    due: int = 0
    """Of these, those that were not disarmed before their deadline."""
    effects: int = 0
    lost: int = 0
    """Due, and without an effect."""
    twice: int = 0
    """With more than one effect, or dealt with by two workers."""
    repeated_calls: int = 0
    """Strategy calls beyond the first of a run, which the engine had to refuse or repeat."""
    lateness: list[float] = field(default_factory=list)
    """Of each effect, seconds after its deadline; sorted."""
    recovery_seconds: float = 0.0
    """From the end of an outage to the last effect that had waited for it; 0 without outages."""
    violations: list[Violation] = field(default_factory=list)

    def add(self, other: "Verdict") -> None:
        """Count another history in."""
        for name in ("armed", "due", "effects", "lost", "twice", "repeated_calls"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.violations += other.violations


def check(
    history: Iterable[Event],
    ledger: Sequence[LedgerRow],
    *,
    late_seconds: float | None = None,
    outages: Sequence[Outage] = (),
    shared_clock: bool = True,
) -> Verdict:
    """Verify a quiet system: nothing in the pool, nothing in a queue.

    ``late_seconds`` bounds how long a run may wait for its effect outside the outages: the time
    from its deadline to its effect, less what of it lies in outages that began before the effect.
    So a run that fell due in one outage may wait into the next one, if the gap between them was
    shorter than the bound; but the gaps of many outages add up, and what comes behind the effect
    excuses nothing. Its recovery is counted from the end of the last outage that it waited through.
    Without a ``shared_clock`` of history and pool, instants of the two are not compared.
    """
    of_run: dict[NodeRun, dict[Kind, list[Event]]] = defaultdict(lambda: defaultdict(list))
    for event in history:
        of_run[event.run][event.kind].append(event)
    rows = {row.run: row for row in ledger}
    verdict = Verdict()
    for run, events in of_run.items():
        judge = _Judge(run, events, rows.get(run), verdict)
        judge.effects_and_row()
        judge.one_worker_at_a_time(shared_clock=shared_clock)
        if shared_clock:
            judge.instants()
            judge.changes_hold()
            if late_seconds is not None:
                judge.in_time(late_seconds, outages)
    for run, row in rows.items():
        if row.state in (RunState.ARMED, RunState.EXECUTING, RunState.PAUSED):
            verdict.violations.append(
                Violation(invariant="I5", run=run, what=f"is {row.state} when all is quiet")
            )
    verdict.lateness.sort()
    return verdict


class _Judge:
    """Looks at one node run."""

    def __init__(
        self,
        run: NodeRun,
        events: dict[Kind, list[Event]],
        row: LedgerRow | None,
        verdict: Verdict,
    ) -> None:
        self._run = run
        self._events = events
        self._row = row
        self._verdict = verdict
        self._effects = events[Kind.EFFECT]
        self._is_twice = False
        verdict.armed += bool(events[Kind.ARMED])
        verdict.effects += len(self._effects)
        verdict.repeated_calls += max(0, len(events[Kind.CALLED]) - 1)

    def _break(self, invariant: str, what: str) -> None:
        self._verdict.violations.append(Violation(invariant=invariant, run=self._run, what=what))

    def effects_and_row(self) -> None:
        """I1, I3, I5: what was to happen did, once, and the ledger says so."""
        if len(self._effects) > 1:
            self._twice(f"{len(self._effects)} effects")
        if self._effects and not self._events[Kind.ARMING]:
            self._break("I3", "an effect on a version that nobody armed")
        if not self._events[Kind.ARMED]:
            return
        row = self._row
        if row is None:
            self._break("I5", "no ledger row")
            return
        if self._events[Kind.CANCELLING]:
            pass  # it may have been too late
        elif not self._events[Kind.DISARMING] or self._armed_again():
            self._verdict.due += 1
            if not self._effects:
                self._verdict.lost += 1
                self._break("I1", f"no effect; the ledger says {row.state}: {row.message}")
        self._row_agrees(row)

    def _row_agrees(self, row: LedgerRow) -> None:
        leaving = [*self._events[Kind.DISARMING], *self._events[Kind.CANCELLING]]
        if not self._effects:
            if row.state is RunState.HANDLED:
                self._break("I5", "handled in the ledger, but no effect in the engine")
            if row.state is RunState.STALE and not leaving:
                self._break("I5", "stale, but the engine ran it")
        elif row.state is RunState.DEAD:
            self._break("I5", f"an effect, but the ledger says dead: {row.message}")
        # A call that had its effect and failed all the same is to be repeated, until it leaves.
        elif row.state is RunState.CANCELLED and not any(
            event.at > self._effects[0].at for event in leaving
        ):
            self._break("I5", f"an effect, but the ledger says cancelled: {row.message}")
        for final in self._finals():
            if row.state is not final.state:
                self._break("I5", f"recorded as {final.state}, but the ledger says {row.state}")

    def _armed_again(self) -> bool:
        """It left, that was acknowledged, and then it was armed once more."""
        left, leaving = self._events[Kind.DISARMED], self._events[Kind.DISARMING]
        arming = self._events[Kind.ARMING][-1:]
        return bool(left and arming) and (
            len(left) == len(leaving) and arming[0].at > max(event.at for event in left)
        )

    def _twice(self, what: str) -> None:
        self._verdict.twice += not self._is_twice
        self._is_twice = True
        self._break("I1", what)

    def _finals(self) -> list[Event]:
        """Outcomes after which the run is over: a stale one may yet be resumed."""
        resumed = len(self._events[Kind.ARMING]) > 1
        over = (RunState.HANDLED, RunState.DEAD, *(() if resumed else (RunState.STALE,)))
        return [event for event in self._events[Kind.OUTCOME] if event.state in over]

    def _asked_at(self, taken: Event) -> float:
        """When the worker asked for what it was given."""
        asked = [
            event.at
            for event in self._events[Kind.TAKING]
            if event.process == taken.process and event.at <= taken.at
        ]
        return max(asked, default=taken.at)

    def one_worker_at_a_time(self, *, shared_clock: bool) -> None:
        """I1: nothing is taken when it is over, and no two workers call its strategy at once."""
        over = min((event.at for event in self._finals()), default=None)
        if over is not None:
            for taken in self._events[Kind.TAKEN]:
                if self._asked_at(taken) > over:
                    self._twice(f"taken by {taken.process} after its outcome was recorded")
        if not shared_clock:
            return  # leases end by the pool's clock
        for called, returned, lease_ends in self._calls():
            for other in self._events[Kind.CALLED]:
                if other.process != called.process and (
                    called.at < other.at < min(returned, lease_ends)
                ):
                    self._twice(f"called by {called.process} and {other.process} at once")

    def _calls(self) -> list[tuple[Event, float, float]]:
        """Each call that ended, with when it did, and when the lease ended that it was made under.

        A call without an end is that of a process that was killed.
        """
        calls = []
        for called in self._events[Kind.CALLED]:
            ends = [
                event.at
                for event in self._events[Kind.RETURNED]
                if event.process == called.process and event.at >= called.at
            ]
            leases = [
                event.until
                for event in self._events[Kind.TAKEN]
                if event.process == called.process and event.at <= called.at
            ]
            if ends and leases:
                renewed = [
                    event.until
                    for event in self._events[Kind.RENEWED]
                    if event.process == called.process and called.at <= event.at <= min(ends)
                ]
                calls.append((called, min(ends), max([leases[-1], *renewed])))
        return calls

    def instants(self) -> None:
        """I2, I4: nothing early, nothing after an acknowledged disarm."""
        arming, row = self._events[Kind.ARMING], self._row
        deadline = None
        if arming:
            first = min(arming, key=lambda event: event.at)
            deadline = first.at + first.seconds
            # Who makes it due shortens its time.
            deadline = min([deadline, *(event.at for event in self._events[Kind.FIRING])])
        told = row.deadline if row is not None else None
        if told is not None and deadline is not None and told < deadline - EARLY_SECONDS:
            self._break("I2", f"deadline {deadline - told:.6f} s before its time")
        for event in (*self._effects, *self._events[Kind.CALLED]):
            # One that failed, whatever its effect, waits for its next try; it may be extended then.
            moves = (*self._events[Kind.EXTENDED], *self._events[Kind.RECONFIGURED])
            is_moved_since = any(event.at < each.at for each in moves)
            due = max(deadline or 0.0, 0.0 if is_moved_since else told or 0.0)
            if event.at < due - EARLY_SECONDS:
                self._break("I2", f"{event.kind} {due - event.at:.6f} s early")
        for left in self._events[Kind.DISARMED][-1:]:
            if not any(event.at > left.at for event in arming):
                self._after_leaving(left)

    def _after_leaving(self, left: Event) -> None:
        for effect in self._effects:
            if effect.at > left.at:
                self._break("I4", f"effect {effect.at - left.at:.6f} s after disarming")
        if self._may_have_been_taken(left):
            return  # disarming leaves it alone; when its lease is over another looks at it
        for taken in self._events[Kind.TAKEN]:
            if self._asked_at(taken) > left.at:
                self._break("I4", f"taken {taken.at - left.at:.6f} s after disarming")

    def changes_hold(self) -> None:
        """I7: nothing is done about a run between the answer to a pause and the next word on it,
        nor before the deadline that an extension or a new config was answered with.
        """
        for paused in self._events[Kind.PAUSED]:
            released = self._next_word(paused, (Kind.RESUMING, Kind.FIRING, Kind.DISARMING))
            self._nothing_between(paused, released)
        for cancelled in self._events[Kind.CANCELLED]:
            self._nothing_between(cancelled, math.inf)
        anew = self._events[Kind.RECONFIGURED]
        for moved in (*self._events[Kind.EXTENDED], *anew):
            others = [each for each in anew if each is not moved and each.at > moved.since]
            fired = self._next_word(moved, (Kind.FIRING,))
            until = min([fired, moved.until - EARLY_SECONDS, *(each.since for each in others)])
            self._nothing_between(moved, until, may_be_taken=True)  # ahead of its deadline

    def _next_word(self, change: Event, kinds: Sequence[Kind]) -> float:
        """When the change was next contradicted; its own instant if that crossed with it."""
        answers = {
            Kind.RESUMING: Kind.RESUMED,
            Kind.FIRING: Kind.FIRED,
            Kind.DISARMING: Kind.DISARMED,
        }
        for kind in kinds:
            asked = sum(event.at < change.since for event in self._events[kind])
            answered = sum(event.at < change.since for event in self._events[answers[kind]])
            if asked != answered:
                return change.at
        words = [event.at for kind in kinds for event in self._events[kind]]
        crossing = [at for at in words if change.since <= at <= change.at]
        later = [at for at in words if at > change.at]
        return change.at if crossing else min(later, default=math.inf)

    def _nothing_between(self, change: Event, until: float, *, may_be_taken: bool = False) -> None:
        acts = [event.at for event in (*self._events[Kind.CALLED], *self._effects)]
        if not may_be_taken:
            acts += [self._asked_at(event) for event in self._events[Kind.TAKEN]]
        for at in acts:
            if change.at < at < until:
                self._break("I7", f"acted on {at - change.at:.6f} s after it was {change.kind}")

    def _may_have_been_taken(self, left: Event) -> bool:
        """A worker asked for it before this, and did not surely put it back."""
        asked = [event.at for event in self._events[Kind.TAKING] if event.at < left.at]
        leaving = max(
            (event.at for event in self._events[Kind.DISARMING] if event.at <= left.at),
            default=left.at,
        )
        put_back = [
            event.at
            for event in self._events[Kind.OUTCOME]
            if event.state is RunState.ARMED and event.at < leaving
        ]
        return bool(asked) and max(asked) > max(put_back, default=0.0)

    def in_time(self, late_seconds: float, outages: Sequence[Outage]) -> None:
        """I6: see `check`."""
        if self._row is None or self._row.deadline is None:
            return
        due = self._row.deadline
        for effect in self._effects[:1]:
            self._verdict.lateness.append(effect.at - due)
            waited = [each for each in outages if each.begin < effect.at and each.end > due]
            late = effect.at - due - _covered(due, effect.at, waited)
            if waited:
                recovery = effect.at - max(each.end for each in waited)
                self._verdict.recovery_seconds = max(self._verdict.recovery_seconds, recovery)
            if late > late_seconds:
                self._break("I6", f"{late:.3f} s late, outages not counted")


def _covered(begin: float, end: float, outages: Sequence[Outage]) -> float:
    """Seconds between two instants that lie in an outage."""
    seconds, reached = 0.0, begin
    for outage in sorted(outages, key=lambda outage: outage.begin):
        seconds += max(0.0, min(outage.end, end) - max(outage.begin, reached))
        reached = max(reached, outage.end)
    return seconds


def summary(violations: Sequence[Violation]) -> str:
    """The violations in a few lines."""
    counts = Counter(violation.invariant for violation in violations)
    shown = [f"  {each.invariant} {_name(each.run)}: {each.what}" for each in violations[:20]]
    return "\n".join([f"{len(violations)} violations {dict(counts)}", *shown])


def told(
    violations: Sequence[Violation], events: Sequence[Event], rows: Sequence[LedgerRow]
) -> str:
    """The violations, and all that is known of the first runs that they are about."""
    broken = list(dict.fromkeys(violation.run for violation in violations))[:4]
    history = [str(event) for event in events if event.run in broken]
    known = [str(row) for row in rows if row.run in broken]
    return "\n".join([summary(violations), *history, *known])


def _name(run: NodeRun) -> str:
    return f"{run.root_pipeline_id}/{run.node_id} {run.version}"
