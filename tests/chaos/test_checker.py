"""The checker finds each violation when it is planted, and nothing in a good history."""

import json
from dataclasses import replace
from typing import Any

import pytest
from nt_faults import named

from node_timeout.domain.run import LedgerRow, RunState
from tests.chaos.history import Event, Kind, Outage, check, read
from tests.support import run


def event(
    kind: Kind, at: float, node_id: str = "a", version: str = "v1", process: str = "p", **more: Any
) -> Event:
    return Event(kind=kind, at=at, process=process, run=run(node_id, version), **more)


def outcome(at: float, state: RunState, process: str = "p") -> Event:
    return event(Kind.OUTCOME, at, process=process, state=state)


def taken(at: float, until: float, process: str = "p") -> list[Event]:
    """Asked for and given."""
    return [
        event(Kind.TAKING, at - 0.01, process=process),
        event(Kind.TAKEN, at, process=process, until=until),
    ]


def row(
    state: RunState = RunState.HANDLED, deadline: float = 10.0, version: str = "v1"
) -> LedgerRow:
    return LedgerRow(
        node_id="a",
        version=version,
        root_pipeline_id="root",
        action="chaos",
        state=state,
        started_at=0.0,
        deadline=deadline,
        attempts=1,
        finished_at=11.0,
        message="",
    )


ARMED = [event(Kind.ARMING, 0.0, seconds=10.0), event(Kind.ARMED, 0.1)]
FIRED = [event(Kind.TAKING, 10.05), event(Kind.CALLED, 10.06), event(Kind.EFFECT, 10.07)]
LEFT = [event(Kind.DISARMING, 5.0), event(Kind.DISARMED, 5.1)]
# Called at 10.1 by p, with a lease until 13, and back at 10.9.
CALLED = [*taken(10.05, 13.0), event(Kind.CALLED, 10.1), event(Kind.RETURNED, 10.9)]


def held(kind: Kind, at: float, **more: Any) -> Event:
    """A change that was answered, and was asked for just before."""
    return event(kind, at, since=at - 0.1, **more)


PAUSED = [*ARMED, event(Kind.PAUSING, 3.9), held(Kind.PAUSED, 4.0)]
RESUMED = [event(Kind.RESUMING, 8.0), event(Kind.RESUMED, 8.1)]


def called_by_another(at: float) -> list[Event]:
    return [
        *taken(at - 0.01, at + 3, process="q"),
        event(Kind.CALLED, at, process="q"),
        event(Kind.EFFECT, at + 0.01),
        event(Kind.RETURNED, at + 0.02, process="q"),
    ]


GOOD = {
    "fired": (ARMED + FIRED, [row()]),
    "left in time": (ARMED + LEFT, [row(RunState.CANCELLED)]),
    "a crash behind the effect": (ARMED + FIRED, [row(RunState.STALE)]),
    "left while its call was under way": (
        [*ARMED, *FIRED[:2], event(Kind.DISARMING, 10.06), event(Kind.DISARMED, 10.2), FIRED[2]][
            :-1
        ],
        [row(RunState.STALE)],
    ),
    "taken after it left, and dropped": (
        [*ARMED, *LEFT, event(Kind.TAKING, 10.05)],
        [row(RunState.CANCELLED)],
    ),
    "arming was never acknowledged": (ARMED[:1], []),
    "left and armed again": (
        [*ARMED, *LEFT, event(Kind.ARMING, 6.0, seconds=4.0), *FIRED],
        [row()],
    ),
    "called again when the first call had ended": (
        [*ARMED, *CALLED, *called_by_another(10.95)],
        [row()],
    ),
    "called by another one while the first was killed": (
        [*ARMED, *CALLED[:-1], *called_by_another(10.5)],
        [row()],
    ),
    "called by another one when the first one's lease was over, frozen in its call": (
        [*ARMED, *taken(10.02, 10.3), *CALLED[2:], *called_by_another(10.5)],
        [row()],
    ),
    "asked for before its outcome was recorded, told late": (
        [*ARMED, *FIRED, *taken(10.3, 13.0, process="q"), outcome(10.295, RunState.HANDLED)],
        [row()],
    ),
    "found stale, resumed, and taken again": (
        [
            *ARMED,
            *LEFT,
            outcome(5.5, RunState.STALE),
            event(Kind.ARMING, 6.0, seconds=4.0),
            *taken(10.05, 13.0),
            *FIRED[1:],
            outcome(10.1, RunState.HANDLED),
        ],
        [row()],
    ),
    # Its worker died, or lost the database; disarming leaves what a worker has taken to it.
    "taken, left, its lease ran out in an outage, taken again and found stale": (
        [
            *ARMED,
            *taken(10.05, 13.0),
            event(Kind.DISARMING, 11.0),
            event(Kind.DISARMED, 11.1),
            *taken(20.0, 23.0, process="q"),
            outcome(20.1, RunState.STALE, process="q"),
        ],
        [row(RunState.STALE)],
    ),
    "taken, left, put back, and taken again": (
        [
            *ARMED,
            *taken(10.05, 13.0),
            event(Kind.DISARMING, 10.5),
            event(Kind.DISARMED, 10.6),
            outcome(10.7, RunState.ARMED),
            *taken(12.0, 15.0, process="q"),
        ],
        [row(RunState.STALE)],
    ),
    "an effect whose answer was lost, put back, and left": (
        [
            *ARMED,
            *FIRED,
            outcome(10.5, RunState.ARMED),
            event(Kind.DISARMING, 10.6),
            event(Kind.DISARMED, 10.7),
        ],
        [row(RunState.CANCELLED)],
    ),
    "moved on to its next version": (
        [
            *ARMED,
            *LEFT,
            event(Kind.ARMING, 5.2, version="v2", seconds=4.0),
            event(Kind.ARMED, 5.3, version="v2"),
            event(Kind.EFFECT, 9.3, version="v2"),
        ],
        [row(RunState.CANCELLED), row(deadline=9.25, version="v2")],
    ),
    "paused and resumed": (
        [*PAUSED, *RESUMED, event(Kind.EFFECT, 14.05)],
        [row(deadline=14.0)],
    ),
    "paused while someone resumed it": (
        [*ARMED, event(Kind.RESUMING, 3.95), held(Kind.PAUSED, 4.0), event(Kind.EFFECT, 10.05)],
        [row()],
    ),
    "paused, left and started again": (
        [*PAUSED, *LEFT, event(Kind.ARMING, 6.0, seconds=4.0), *FIRED],
        [row()],
    ),
    "cancelled": (
        [*ARMED, event(Kind.CANCELLING, 3.9), held(Kind.CANCELLED, 4.0)],
        [row(RunState.CANCELLED)],
    ),
    "extended": (
        [*ARMED, held(Kind.EXTENDED, 4.0, until=20.0), event(Kind.EFFECT, 20.05)],
        [row(deadline=20.0)],
    ),
    "extended when a call had failed that had its effect": (
        [*ARMED, *FIRED, held(Kind.EXTENDED, 10.2, until=10.5)],
        [row(deadline=10.5)],
    ),
    "extended, and taken ahead of its deadline": (
        [
            *ARMED,
            held(Kind.EXTENDED, 4.0, until=20.0),
            *taken(19.95, 23.0),
            event(Kind.CALLED, 20.01),
            event(Kind.EFFECT, 20.05),
        ],
        [row(deadline=20.0)],
    ),
    "given more time by a config, and less by the next one": (
        [
            *ARMED,
            held(Kind.RECONFIGURED, 4.0, until=30.0),
            held(Kind.RECONFIGURED, 6.0, until=20.0),
            event(Kind.EFFECT, 20.05),
        ],
        [row(deadline=20.0)],
    ),
    "fired, behind an extension": (
        [
            *ARMED,
            held(Kind.EXTENDED, 4.0, until=20.0),
            event(Kind.FIRING, 5.0),
            event(Kind.FIRED, 5.1),
            event(Kind.EFFECT, 5.2),
        ],
        [row(deadline=5.05)],
    ),
}

BAD = {
    "I1 no effect": (ARMED, [row(RunState.DEAD)]),
    "I1 no effect after it was armed again": (
        [*ARMED, *LEFT, event(Kind.ARMING, 6.0, seconds=4.0), event(Kind.ARMED, 6.1)],
        [row(RunState.CANCELLED)],
    ),
    "I1 two effects": ([*ARMED, *FIRED, event(Kind.EFFECT, 12.0)], [row()]),
    "I2 effect early": ([*ARMED, event(Kind.EFFECT, 9.998)], [row(deadline=9.998)]),
    "I2 effect before its first deadline, and extended then": (
        [*ARMED, event(Kind.EFFECT, 9.5), held(Kind.EXTENDED, 10.2, until=10.5)],
        [row(deadline=10.5)],
    ),
    "I2 called before the ledger's deadline": (
        [*ARMED, event(Kind.CALLED, 9.9), FIRED[2]],
        [row()],
    ),
    "I2 a deadline that is too early": (ARMED + FIRED, [row(deadline=9.9)]),
    "I3 a node of another root": (
        [*ARMED, *FIRED, replace(event(Kind.EFFECT, 11), run=run("a", root="other"))],
        [row()],
    ),
    "I3 a version that nobody armed": (
        [*ARMED, *FIRED, event(Kind.EFFECT, 11, version="v2")],
        [row()],
    ),
    "I1 taken after it was handled": (
        [*ARMED, *FIRED, outcome(10.1, RunState.HANDLED), *taken(10.5, 13.0, process="q")],
        [row()],
    ),
    "I1 taken after it was found stale": (
        [*ARMED, *LEFT, outcome(10.1, RunState.STALE), *taken(10.5, 13.0, process="q")],
        [row(RunState.STALE)],
    ),
    "I1 called by two at once": ([*ARMED, *CALLED, *called_by_another(10.5)], [row()]),
    "I4 taken after an acknowledged disarm": (
        [*ARMED, *LEFT, *taken(10.05, 13.0)],
        [row(RunState.STALE)],
    ),
    "I4 put back, left, and taken all the same": (
        [
            *ARMED,
            *taken(10.05, 13.0),
            outcome(10.4, RunState.ARMED),
            event(Kind.DISARMING, 10.5),
            event(Kind.DISARMED, 10.6),
            *taken(12.0, 15.0, process="q"),
        ],
        [row(RunState.STALE)],
    ),
    "I4 the old version acted on after it moved on": (
        [
            *ARMED,
            *LEFT,
            event(Kind.ARMING, 5.2, version="v2", seconds=4.0),
            event(Kind.ARMED, 5.3, version="v2"),
            event(Kind.EFFECT, 10.05),
        ],
        [row(), row(RunState.CANCELLED, version="v2")],
    ),
    "I4 effect after an acknowledged disarm": (
        [*ARMED, *LEFT, event(Kind.EFFECT, 10.05)],
        [row()],
    ),
    "I5 no row": (ARMED + FIRED, []),
    "I5 handled without an effect": (ARMED + LEFT, [row()]),
    "I5 an effect, but cancelled": (ARMED + FIRED, [row(RunState.CANCELLED)]),
    "I5 handled once, dead now": (
        [*ARMED, *FIRED, outcome(10.1, RunState.HANDLED)],
        [row(RunState.DEAD)],
    ),
    "I5 stale without a reason": (ARMED, [row(RunState.STALE)]),
    "I5 left open": (ARMED + FIRED, [row(RunState.EXECUTING)]),
    "I2 before it was fired": (
        [*ARMED, event(Kind.EFFECT, 4.9), event(Kind.FIRING, 5.0)],
        [row(deadline=4.9)],
    ),
    "I5 left paused": (PAUSED, [row(RunState.PAUSED)]),
    "I7 an effect on a paused run": (
        [*PAUSED, event(Kind.EFFECT, 7.0), *RESUMED],
        [row(deadline=7.0)],
    ),
    "I7 a paused run is taken": (
        [*PAUSED, *taken(7.0, 9.0), *RESUMED, event(Kind.EFFECT, 14.05)],
        [row(deadline=14.0)],
    ),
    "I7 an effect on a cancelled run that its engine has started again": (
        [
            *ARMED,
            event(Kind.CANCELLING, 3.9),
            held(Kind.CANCELLED, 4.0),
            *LEFT,
            event(Kind.ARMING, 6.0, seconds=4.0),
            *FIRED,
        ],
        [row()],
    ),
    "I7 an effect before the deadline that an extension promised": (
        [*ARMED, held(Kind.EXTENDED, 4.0, until=20.0), *FIRED],
        [row()],
    ),
    "I7 an effect before the deadline of the config that it was given": (
        [*ARMED, held(Kind.RECONFIGURED, 4.0, until=20.0), *FIRED],
        [row()],
    ),
    "I7 an effect before the deadline of the last config": (
        [
            *ARMED,
            held(Kind.RECONFIGURED, 4.0, until=12.0),
            held(Kind.RECONFIGURED, 6.0, until=20.0),
            event(Kind.EFFECT, 15.0),
        ],
        [row(deadline=15.0)],
    ),
    "I6 late": ([*ARMED, event(Kind.EFFECT, 12.5)], [row()]),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_good_history_passes(name: str) -> None:
    history, rows = GOOD[name]
    assert check(history, rows, late_seconds=1.0).violations == []


@pytest.mark.parametrize("name", BAD)
def test_a_planted_violation_is_found(name: str) -> None:
    history, rows = BAD[name]
    found = check(history, rows, late_seconds=1.0).violations
    assert name.split(maxsplit=1)[0] in {violation.invariant for violation in found}


@pytest.mark.parametrize(("at", "found"), [(20.9, []), (21.1, ["I6"])])
def test_after_an_outage_lateness_counts_from_its_end(at: float, found: list[str]) -> None:
    history = [*ARMED, event(Kind.EFFECT, at)]
    verdict = check(history, [row()], late_seconds=1.0, outages=[Outage(begin=9.0, end=20.0)])
    assert [violation.invariant for violation in verdict.violations] == found
    assert verdict.lateness == pytest.approx([at - 10.0])
    assert verdict.recovery_seconds == pytest.approx(at - 20.0)


def test_an_outage_excuses_nothing_that_was_due_before_or_after() -> None:
    history = [*ARMED, event(Kind.EFFECT, 15.0)]
    for outage in (Outage(begin=12.0, end=14.5), Outage(begin=5.0, end=9.0)):
        found = check(history, [row()], late_seconds=1.0, outages=[outage]).violations
        assert [violation.invariant for violation in found] == ["I6"]


RHYTHM = [Outage(begin=9.0 + 5.5 * i, end=13.0 + 5.5 * i) for i in range(120)]


def test_the_gaps_of_many_outages_add_up() -> None:
    history = [*ARMED, event(Kind.EFFECT, 600.0)]
    verdict = check(history, [row()], late_seconds=30.0, outages=RHYTHM)
    assert [violation.invariant for violation in verdict.violations] == ["I6"]


def test_what_fell_due_in_an_outage_may_wait_into_the_next_one() -> None:
    """The gap is shorter than the bound: nobody promised that it is served in there."""
    history = [*ARMED, event(Kind.EFFECT, 19.0)]
    verdict = check(history, [row()], late_seconds=3.0, outages=RHYTHM)
    assert verdict.violations == []
    assert verdict.recovery_seconds == pytest.approx(0.5)


def test_an_outage_behind_the_effect_excuses_nothing() -> None:
    outages = [Outage(begin=9.0, end=20.0), Outage(begin=27.0, end=40.0)]
    history = [*ARMED, event(Kind.EFFECT, 26.5)]
    verdict = check(history, [row()], late_seconds=6.0, outages=outages)
    assert [violation.invariant for violation in verdict.violations] == ["I6"]
    assert verdict.recovery_seconds == pytest.approx(6.5)


def test_what_was_late_outside_any_outage_did_not_recover() -> None:
    history = [*ARMED, event(Kind.EFFECT, 10.5)]
    outages = [Outage(begin=5.0, end=9.0), Outage(begin=11.0, end=12.0)]
    verdict = check(history, [row()], late_seconds=1.0, outages=outages)
    assert (verdict.violations, verdict.recovery_seconds) == ([], 0.0)


def test_what_two_workers_did_is_counted_once() -> None:
    history = [*ARMED, *CALLED, *called_by_another(10.5), event(Kind.EFFECT, 12.0)]
    verdict = check(history, [row()])
    assert (verdict.twice, len(verdict.violations)) == (1, 2)


def test_what_is_told_by_its_id_alone_is_about_the_run_that_is_named_elsewhere() -> None:
    lines = [
        json.dumps({"kind": kind, "at": at, "process": "p", **named(each)})
        for kind, at, each in (
            ("taking", 1.0, run("a").run_id),
            ("taken", 2.0, run("a")),
            ("taking", 3.0, run("nobody").run_id),
            ("effect", 4.0, run("a", root="other")),
        )
    ]
    assert read(lines) == [
        event(Kind.TAKING, 1.0),
        event(Kind.TAKEN, 2.0),
        replace(event(Kind.EFFECT, 4.0), run=run("a", root="other")),
    ]


def test_what_was_counted() -> None:
    history = [*ARMED, *FIRED, event(Kind.CALLED, 10.5)]
    verdict = check(history, [replace(row(), attempts=2)], late_seconds=1.0)
    assert (verdict.armed, verdict.due, verdict.effects, verdict.repeated_calls) == (1, 1, 1, 1)
