"""On every database, and in memory, the ledger does exactly what the pure rules of the domain say.

Its faster ways, a statement for a whole batch, are held to the same.
"""

import itertools
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import insert

from node_timeout.domain import leaving, lifecycle
from node_timeout.domain.changes import OPEN, Discard, Verdict
from node_timeout.domain.events import NodeLeft
from node_timeout.domain.orders import judge
from node_timeout.domain.run import DueRun, LedgerRow, NodeRun, Outcome, RunState
from node_timeout.domain.taking import Dropped, GivenUp, Later, Lease, Taken
from node_timeout.ports.ledger import Ledger
from node_timeout.stores.ledger_rows import values_of
from node_timeout.stores.memory.ledger import MemoryLedger
from node_timeout.stores.sql.ledger import SqlLedger
from node_timeout.stores.sql.tables import runs
from tests.lives import INSTANTS, config_of, leavings, orders, outcomes, rows, starts

NUMBERS = itertools.count()
"""Each example has nodes of its own, so that nothing has to be deleted between them."""
each_way = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture
def ledger(any_store: Ledger) -> Ledger:
    return any_store


def several(data: st.DataObject, most: int = 4) -> list[LedgerRow]:
    """Rows of nodes that nobody else has."""
    count = data.draw(st.integers(min_value=1, max_value=most))
    return [data.draw(rows(f"n{next(NUMBERS)}")) for _ in range(count)]


async def stored(ledger: Ledger, chosen: Sequence[LedgerRow]) -> None:
    if isinstance(ledger, MemoryLedger):
        ledger.put(chosen)
        return
    assert isinstance(ledger, SqlLedger)
    async with ledger.engine.begin() as connection:
        await connection.execute(insert(runs), [values_of(row) for row in chosen])


async def found(ledger: Ledger, chosen: Sequence[LedgerRow]) -> list[LedgerRow]:
    return [
        row
        for each in chosen
        for row in await ledger.rows(each.node_id)
        if row.version == each.version
    ]


@each_way
@given(data=st.data(), now=INSTANTS, ahead=st.sampled_from([0.0, 1.0]))
async def test_taking(ledger: Ledger, data: st.DataObject, now: float, ahead: float) -> None:
    before = several(data)
    await stored(ledger, before)
    lease = Lease(owner=data.draw(st.sampled_from(["me", "new"])), until=now + 5.0)
    taking = await ledger.take(
        [DueRun(run_id=row.run_id, due_at=now) for row in before],
        now=now,
        lease_seconds=5.0,
        max_attempts=3,
        ahead_seconds=ahead,
        owner=lease.owner,
    )
    verdicts = {
        row.run: lifecycle.take(row, lease, now, max_attempts=3, ahead_seconds=ahead)
        for row in before
    }
    expected = []
    for row in before:
        match verdicts[row.run]:
            case Taken(new) | GivenUp(new):
                expected.append(new)
            case _:
                expected.append(row)
    assert await found(ledger, before) == expected
    by_kind: dict[type, set[NodeRun]] = {}
    for run, verdict in verdicts.items():
        by_kind.setdefault(type(verdict), set()).add(run)
    assert {node.run for node in taking.taken} == by_kind.get(Taken, set())
    assert {node.run: node.revision for node in taking.taken} == {
        row.run: row.revision for row in before if row.run in by_kind.get(Taken, set())
    }
    assert {due.run_id for due in taking.later} == {run.run_id for run in by_kind.get(Later, set())}
    assert {each.node.run for each in taking.given_up} == by_kind.get(GivenUp, set())
    assert sum(taking.dropped.values()) == len(by_kind.get(Dropped, set()))


@each_way
@given(data=st.data(), now=INSTANTS, alike=st.booleans())
async def test_recording(ledger: Ledger, data: st.DataObject, now: float, alike: bool) -> None:
    before = several(data)
    await stored(ledger, before)
    told: list[Outcome] = [data.draw(outcomes(row)) for row in before]
    if alike:  # the faster way
        told = [replace(each, state=RunState.HANDLED, due_at=None) for each in told]
    recorded = await ledger.record(told, owner="me", now=now)
    new = [
        lifecycle.conclude(row, outcome, "me", now)
        for row, outcome in zip(before, told, strict=True)
    ]
    assert recorded == sum(each is not None for each in new)
    expected = [after or row for after, row in zip(new, before, strict=True)]
    assert await found(ledger, before) == expected


@each_way
@given(data=st.data(), now=INSTANTS, configured=st.booleans(), known=st.booleans())
async def test_starting(
    ledger: Ledger, data: st.DataObject, now: float, configured: bool, known: bool
) -> None:
    before = several(data)
    config = {row.run: config_of(row.node_id, 5.0) if configured else None for row in before}
    if configured:
        await ledger.save_configs([each for each in config.values() if each], [])
    if known:
        await stored(ledger, before)
    events = [data.draw(starts(row.node_id)) for row in before]
    armed = await ledger.arm(events, now)
    expected = []
    for row, event in zip(before, events, strict=True):
        new = lifecycle.start(row if known else None, event, config[row.run], now)
        # Without a config of its node the ledger looks for no row: it would have none.
        old = row if known else None
        expected.append((new or old) if configured else old)
    assert await found(ledger, before) == [row for row in expected if row]
    if configured:
        assert {each.run_id: each.due_at for each in armed} == {
            row.run_id: row.next_at for row in expected if row and row.state is RunState.ARMED
        }
    else:
        assert armed == []


@each_way
@given(data=st.data(), now=INSTANTS)
async def test_leaving(ledger: Ledger, data: st.DataObject, now: float) -> None:
    node_ids = [f"n{next(NUMBERS)}" for _ in range(data.draw(st.integers(1, 2)))]
    before = [data.draw(rows(node_id, version)) for node_id in node_ids for version in ("v1", "v2")]
    await stored(ledger, before)
    events: list[NodeLeft] = [
        event
        for node_id in node_ids
        for event in data.draw(st.lists(leavings(node_id), min_size=1, max_size=3))
    ]
    disarming = await ledger.disarm(data.draw(st.permutations(events)), now)
    known = {row.run: row for row in before}
    known |= {row.run: row for row in leaving.remembered(events, known, now)}
    cancelled: set[NodeRun] = set()
    for node_id in node_ids:
        own = {run: row for run, row in known.items() if run.node_id == node_id}
        its = [event for event in events if event.node_id == node_id]
        # The ledger reads the rows that a leaving may concern; others tell nothing.
        named = {event.run for event in its}
        own = {
            run: row
            for run, row in own.items()
            if row.state in OPEN
            or (row.state is RunState.EXECUTING and (row.deadline or 0.0) > now)
            or run.version in {each.version for each in named if each}
        }
        found_here = leaving.leave(own, its, now)
        known |= {row.run: row for row in found_here.changed}
        cancelled |= set(found_here.cancelled)
    assert set(disarming.cancelled) == cancelled
    after = {row.run: row for node_id in node_ids for row in await ledger.rows(node_id)}
    assert after == known


@each_way
@given(data=st.data(), now=INSTANTS, twice=st.booleans())
async def test_changing(ledger: Ledger, data: st.DataObject, now: float, twice: bool) -> None:
    before = several(data)
    await stored(ledger, before)
    order = data.draw(orders())
    expected: list[LedgerRow] = []
    for row in before:
        judged = judge(order, row, now)
        if twice and judged.row is not None:
            had = order.change.kind if judged.entry and order.idempotency_key else None
            judged = judge(order, judged.row, now, had)
        is_gone = isinstance(order.change, Discard) and judged.verdict is Verdict.DONE
        if judged.row is not None and not is_gone:
            expected.append(judged.row)
    run_ids = [row.run_id for row in before]
    for _ in range(1 + twice):
        found_now = await ledger.change(order, run_ids, now)
    assert set(found_now) == set(run_ids)
    assert await found(ledger, before) == expected
