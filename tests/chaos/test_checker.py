"""The checker finds each violation when it is planted, and nothing in a good history."""

from dataclasses import replace

import pytest

from node_timeout.node import RunState
from node_timeout.ports import LedgerRow
from tests.chaos.history import Event, Kind, Outage, check
from tests.support import run


def event(kind: Kind, at: float, node_id: str = "a", version: str = "v1", **more: float) -> Event:
    return Event(kind=kind, at=at, process="p", run=run(node_id, version), **more)


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
        due_at=None,
        attempts=1,
        finished_at=11.0,
        message="",
    )


ARMED = [event(Kind.ARMING, 0.0, seconds=10.0), event(Kind.ARMED, 0.1)]
FIRED = [event(Kind.TAKING, 10.05), event(Kind.CALLED, 10.06), event(Kind.EFFECT, 10.07)]
LEFT = [event(Kind.DISARMING, 5.0), event(Kind.DISARMED, 5.1)]

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
}

BAD = {
    "I1 no effect": (ARMED, [row(RunState.DEAD)]),
    "I1 no effect after it was armed again": (
        [*ARMED, *LEFT, event(Kind.ARMING, 6.0, seconds=4.0), event(Kind.ARMED, 6.1)],
        [row(RunState.CANCELLED)],
    ),
    "I1 two effects": ([*ARMED, *FIRED, event(Kind.EFFECT, 12.0)], [row()]),
    "I2 effect early": ([*ARMED, event(Kind.EFFECT, 9.998)], [row(deadline=9.998)]),
    "I2 called before the ledger's deadline": (
        [*ARMED, event(Kind.CALLED, 9.9), FIRED[2]],
        [row()],
    ),
    "I2 a deadline that is too early": (ARMED + FIRED, [row(deadline=9.9)]),
    "I3 a version that nobody armed": (
        [*ARMED, *FIRED, event(Kind.EFFECT, 11, version="v2")],
        [row()],
    ),
    "I4 taken after an acknowledged disarm": (
        [*ARMED, *LEFT, event(Kind.TAKING, 10.05)],
        [row(RunState.STALE)],
    ),
    "I4 effect after an acknowledged disarm": (
        [*ARMED, *LEFT, event(Kind.EFFECT, 10.05)],
        [row()],
    ),
    "I5 no row": (ARMED + FIRED, []),
    "I5 handled without an effect": (ARMED + LEFT, [row()]),
    "I5 an effect, but cancelled": (ARMED + FIRED, [row(RunState.CANCELLED)]),
    "I5 stale without a reason": (ARMED, [row(RunState.STALE)]),
    "I5 left open": (ARMED + FIRED, [row(RunState.EXECUTING)]),
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


def test_what_was_counted() -> None:
    history = [*ARMED, *FIRED, event(Kind.CALLED, 10.5)]
    verdict = check(history, [replace(row(), attempts=2)], late_seconds=1.0)
    assert (verdict.armed, verdict.due, verdict.effects, verdict.repeated_calls) == (1, 1, 1, 1)
