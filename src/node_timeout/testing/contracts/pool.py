"""What every executing pool must do: a pytest suite. Provide an empty one as fixture ``pool``.

from node_timeout.testing.contracts.pool import *
"""

from dataclasses import replace

import pytest

from node_timeout.domain.run import DueRun
from node_timeout.ports.pool import Behind, Pool
from node_timeout.testing.words import id_of, wait_until

PAST, FUTURE = -5.0, 100.0


async def due(pool: Pool, seconds: float, *node_ids: str) -> list[DueRun]:
    now = await pool.now()
    return [DueRun(run_id=id_of(node_id), due_at=now + seconds) for node_id in node_ids]


async def test_arming_adds_only_what_is_absent_and_never_moves_a_deadline(pool: Pool) -> None:
    assert await pool.arm(await due(pool, PAST, "a")) == 1
    assert await pool.arm(await due(pool, FUTURE, "a", "b")) == 1
    claim = await pool.shards[0].claim(10, 5)
    assert [each.member for each in claim.members] == [id_of("a")]


async def test_lowering_moves_to_an_earlier_instant_only(pool: Pool) -> None:
    later, sooner = await due(pool, FUTURE, "a", "b"), await due(pool, PAST, "a", "c")
    await pool.arm(later)
    assert await pool.lower(sooner) == 2
    assert await pool.lower(later) == 0
    claim = await pool.shards[0].claim(10, 5)
    assert {each.member for each in claim.members} == {id_of("a"), id_of("c")}


async def test_what_is_put_back_leaves_the_lease_of_its_message(pool: Pool) -> None:
    await pool.arm(await due(pool, PAST, "later", "sooner", "gone"))
    claim = await pool.shards[0].claim(10, 50)
    await pool.disarm([id_of("gone")])
    far = [replace(each, lease=claim.lease) for each in await due(pool, 2 * FUTURE, "later")]
    near = [replace(each, lease=claim.lease) for each in await due(pool, PAST, "sooner", "gone")]
    await pool.put_back([*far, *near])
    members = [id_of(each) for each in ("later", "sooner", "gone")]
    assert await pool.shards[0].finish(members, claim.lease) == 0
    again = await pool.shards[0].claim(10, 50)
    assert {each.member for each in again.members} == {id_of("sooner"), id_of("gone")}
    assert (await pool.counts()).armed == 3


async def test_what_is_put_back_does_not_undo_a_move_to_an_earlier_instant(pool: Pool) -> None:
    """A worker reads the old instant, and then a change writes an earlier one."""
    await pool.arm(await due(pool, PAST, "a"))
    claim = await pool.shards[0].claim(10, 50)
    await pool.shards[0].finish([id_of("a")], claim.lease)
    old = [replace(each, lease=claim.lease) for each in await due(pool, 20, "a")]
    new = await due(pool, 10, "a")
    await pool.lower(new)
    await pool.put_back(old)
    again = await pool.shards[0].claim(10, 50, ahead_seconds=FUTURE)
    assert [each.deadline for each in again.members] == [pytest.approx(new[0].due_at)]
    for unknown in (None, claim.lease):
        await pool.put_back([replace(each, lease=unknown) for each in await due(pool, 70, "a")])
        late = await pool.shards[0].claim(10, 50, ahead_seconds=60)
        assert [each.deadline for each in late.members] == [again.lease], "another message's lease"
        again = late


async def test_a_claim_takes_the_oldest_first_and_says_what_comes_next(pool: Pool) -> None:
    await pool.arm(await due(pool, -1, "young"))
    await pool.arm(await due(pool, -9, "old"))
    later = await due(pool, FUTURE, "later")
    await pool.arm(later)
    first = await pool.shards[0].claim(1, 50)
    second = await pool.shards[0].claim(10, 50)
    third = await pool.shards[0].claim(10, 50)
    assert [each.member for each in first.members] == [id_of("old")]
    assert [each.member for each in second.members] == [id_of("young")]
    assert third.members == ()
    assert third.next_due_at == pytest.approx(first.lease)
    assert first.lease > first.now + 49


async def test_a_claim_may_look_ahead(pool: Pool) -> None:
    await pool.arm(await due(pool, FUTURE, "soon"))
    await pool.arm(await due(pool, 2 * FUTURE, "later"))
    assert (await pool.shards[0].claim(10, 50, FUTURE / 2)).members == ()
    ahead = await pool.shards[0].claim(10, 50, FUTURE + 1)
    assert [each.member for each in ahead.members] == [id_of("soon")]
    assert ahead.lease == pytest.approx(ahead.now + 50)


async def test_a_claimed_member_is_nobody_elses_until_its_lease_expires(pool: Pool) -> None:
    await pool.arm(await due(pool, PAST, "a"))
    first = await pool.shards[0].claim(10, 0.05)
    assert (await pool.shards[0].claim(10, 0.05)).members == ()

    second = first

    async def again() -> bool:
        nonlocal second
        second = await pool.shards[0].claim(10, 5)
        return bool(second.members)

    await wait_until(again)
    assert second.lease != first.lease
    assert await pool.shards[0].finish([id_of("a")], first.lease) == 0, "the first lease is over"
    assert await pool.shards[0].finish([id_of("a")], second.lease) == 1
    assert (await pool.counts()).armed == 0


async def test_releasing_gives_the_deadline_back(pool: Pool) -> None:
    await pool.arm(await due(pool, PAST, "a", "b"))
    claim = await pool.shards[0].claim(10, 50)
    await pool.disarm([id_of("b")])
    assert await pool.shards[0].release(claim.members, claim.lease) == 1
    again = await pool.shards[0].claim(10, 50)
    assert again.members == tuple(each for each in claim.members if each.member == id_of("a"))


async def test_disarming_removes_also_what_is_claimed(pool: Pool) -> None:
    await pool.arm(await due(pool, PAST, "a"))
    claim = await pool.shards[0].claim(10, 5)
    assert await pool.disarm([id_of("a"), id_of("never")]) == 1
    assert await pool.shards[0].finish([id_of("a")], claim.lease) == 0


async def test_what_is_absent_or_stands_too_late_is_behind(pool: Pool) -> None:
    await pool.arm(await due(pool, FUTURE, "a", "late"))
    await pool.arm(await due(pool, PAST, "leased"))
    await pool.shards[0].claim(10, 30)
    right = await due(pool, FUTURE, "a", "absent")
    sooner = await due(pool, PAST, "late", "leased")
    found = await pool.behind([*right, *sooner], 35)
    assert found == Behind(absent=frozenset({id_of("absent")}), late=frozenset({id_of("late")}))
    assert await pool.behind([], 35) == Behind(absent=frozenset(), late=frozenset())


async def test_batches_larger_than_a_call_work(pool: Pool) -> None:
    runs = [f"n{i}" for i in range(1203)]
    everything = await due(pool, PAST, *runs)
    assert await pool.arm(everything) == 1203
    claim = await pool.shards[0].claim(1000, 5)
    assert len(claim.members) == 1000
    assert await pool.shards[0].finish([each.member for each in claim.members], claim.lease) == 1000
    assert len((await pool.behind(everything, 60)).absent) == 1000
    assert await pool.disarm([each.run_id for each in everything]) == 203


async def test_counts(pool: Pool) -> None:
    await pool.arm(await due(pool, -60, "a"))
    await pool.arm(await due(pool, FUTURE, "b"))
    counts = await pool.counts()
    assert (counts.armed, counts.overdue) == (2, 1)
    assert counts.oldest_overdue_seconds == pytest.approx(60, abs=1)


async def test_one_leads_until_it_resigns_or_its_time_is_over(pool: Pool) -> None:
    assert await pool.lead("reconciler", "one", 60)
    assert await pool.lead("reconciler", "one", 60)
    assert not await pool.lead("reconciler", "two", 60)
    assert await pool.lead("surveyor", "two", 60), "another role"
    await pool.resign("reconciler", "two")
    assert not await pool.lead("reconciler", "two", 60)
    await pool.resign("reconciler", "one")
    assert await pool.lead("reconciler", "two", 0.05)
    await wait_until(lambda: pool.lead("reconciler", "one", 60))


async def test_in_a_backlog_a_quarter_of_a_claim_is_the_newest(pool: Pool) -> None:
    """So a run that becomes due now does not wait behind all overdue ones."""
    now = await pool.now()
    backlog = [DueRun(run_id=id_of(f"n{i:03}"), due_at=now - 1000 + i) for i in range(200)]
    await pool.arm(backlog)
    claim = await pool.shards[0].claim(40, 50)
    oldest = [id_of(f"n{i:03}") for i in range(30)]
    newest = [id_of(f"n{i:03}") for i in range(199, 189, -1)]
    assert [each.member for each in claim.members] == oldest + newest
    rest = [await pool.shards[0].claim(40, 50) for _ in range(5)]
    claimed = [each.member for each in claim.members]
    claimed += [each.member for some in rest for each in some.members]
    assert sorted(claimed) == sorted(due.run_id for due in backlog)


async def test_the_ledger_that_was_marked_is_told(pool: Pool) -> None:
    assert await pool.may_have_lost_data()
    assert await pool.ledger_id() is None
    await pool.mark_ledger("x")
    assert await pool.ledger_id() == "x"
    await pool.mark_reconciled()
    assert not await pool.may_have_lost_data()
    assert await pool.ledger_id() == "x"


async def test_what_is_overdue_is_counted_by_how_long(pool: Pool) -> None:
    now = await pool.now()
    ages = {"a": 0.5, "b": 5, "c": 30, "d": 500, "e": 5000}
    await pool.arm([DueRun(run_id=id_of(name), due_at=now - age) for name, age in ages.items()])
    await pool.arm(await due(pool, FUTURE, "f"))
    counts = await pool.counts()
    assert (counts.armed, counts.overdue) == (6, 5)
    assert counts.overdue_for == {1: 4, 10: 3, 60: 2, 600: 1}
