"""Changes of running deadlines: every ledger follows `domain.changes`."""

import pytest

from node_timeout.domain.changes import (
    Cancel,
    Change,
    Discard,
    Extend,
    Fire,
    Pause,
    Reconfigure,
    Replay,
    Resume,
    Verdict,
)
from node_timeout.domain.history import HistoryKind
from node_timeout.domain.run import RunState, StoppedBy
from node_timeout.ports.ledger import Ledger, Retention
from node_timeout.testing.contracts.ledger.acts import (
    NOW,
    A,
    armed,
    change,
    purge,
    record,
    row_of,
    states,
    take,
)
from node_timeout.testing.words import config, configure, gone, id_of, run, started


async def test_an_extension_moves_the_deadline(ledger: Ledger) -> None:
    await armed(ledger, "a")
    judged = await change(ledger, Extend(by=50), A, reason="slow today")
    row = await row_of(ledger)
    assert judged.verdict is Verdict.DONE
    assert judged.row == row
    assert (row.deadline, row.next_at, row.extended) == (NOW + 150, NOW + 150, 50)
    assert row.revision == 1
    (entry,) = await ledger.history([A.run_id])
    assert (entry.kind, entry.actor) == (HistoryKind.EXTENDED, "ann")
    assert entry.detail is not None
    assert entry.detail.startswith("by 50 s")
    assert entry.detail.endswith("slow today")
    await change(ledger, Extend(until=NOW + 120), A)
    row = await row_of(ledger)
    assert row.deadline == pytest.approx(NOW + 120)
    assert row.extended == pytest.approx(20)
    await change(ledger, Extend(by=-500), A, now=NOW + 30)
    row = await row_of(ledger)
    assert row.next_at == row.deadline == pytest.approx(NOW + 30), "not in the past, but now"
    assert row.revision == 3


async def test_no_run_gets_more_time_than_is_allowed(ledger: Ledger) -> None:
    await armed(ledger, "a")
    judged = await change(ledger, Extend(by=950), A)
    assert judged.verdict is Verdict.OVER_CAP
    assert (await change(ledger, Extend(by=900), A)).verdict is Verdict.DONE
    assert (await change(ledger, Extend(by=1), A)).verdict is Verdict.OVER_CAP
    assert (await change(ledger, Extend(by=-100), A)).verdict is Verdict.DONE
    assert (await change(ledger, Extend(by=100), A)).verdict is Verdict.DONE
    assert len(await ledger.history([A.run_id])) == 3


async def test_the_newest_of_a_run_s_history_comes_in_order(ledger: Ledger) -> None:
    await armed(ledger, "a", "b")
    for by in range(5):
        await change(ledger, Extend(by=by), A, reason=f"reason {by}")
        await change(ledger, Extend(by=by), run("b"))
    whole = await ledger.history([A.run_id])
    for limit in (1, 3, 5, 9):
        assert await ledger.recent_history(A.run_id, limit) == whole[-limit:]
    assert await ledger.recent_history(id_of("c"), 3) == []


async def test_an_order_of_one_key_is_carried_out_once(ledger: Ledger) -> None:
    await armed(ledger, "a", "b")
    for _ in range(2):
        judged = await change(ledger, Extend(by=10), A, idempotency_key="k1")
        assert judged.verdict is Verdict.DONE
    assert (await row_of(ledger)).deadline == NOW + 110
    await change(ledger, Extend(by=10), A, run("b"), idempotency_key="k1")
    assert (await row_of(ledger, "b")).deadline == NOW + 110, "it is another run's first"
    await change(ledger, Extend(by=10), A, idempotency_key="k2")
    assert (await row_of(ledger)).deadline == NOW + 120


async def test_a_change_is_refused_if_another_came_first(ledger: Ledger) -> None:
    await armed(ledger, "a")
    assert (await change(ledger, Fire(), A, if_revision=0)).verdict is Verdict.DONE
    judged = await change(ledger, Extend(by=10), A, if_revision=0)
    assert judged.verdict is Verdict.REVISION
    assert judged.row == await row_of(ledger)
    assert (await change(ledger, Extend(by=10), A, if_revision=1)).verdict is Verdict.DONE


async def test_a_pause_keeps_the_time_left_for_as_long_as_it_lasts(ledger: Ledger) -> None:
    await armed(ledger, "a")
    await change(ledger, Pause(), A, now=NOW + 40)
    row = await row_of(ledger)
    assert (row.state, row.next_at) == (RunState.PAUSED, None)
    assert (row.paused_at, row.stopped_by) == (NOW + 40, StoppedBy.OPERATOR)
    assert (await take(ledger, A, now=NOW + 999)).dropped == {RunState.PAUSED: 1}
    judged = await change(ledger, Pause(), A, now=NOW + 50)
    assert (judged.verdict, judged.entry) == (Verdict.DONE, None), "a second one changes nothing"
    assert await ledger.open_runs(None, 10) == []
    await change(ledger, Extend(by=5), A, now=NOW + 60)
    await change(ledger, Resume(), A, now=NOW + 9040)
    row = await row_of(ledger)
    assert row.state is RunState.ARMED
    assert row.deadline == row.next_at == pytest.approx(NOW + 9040 + 65)
    assert (row.paused_at, row.stopped_by) == (None, None)
    assert (await change(ledger, Resume(), A)).verdict is Verdict.NOT_PAUSED
    kinds = [entry.kind for entry in await ledger.history([A.run_id])]
    assert kinds == [HistoryKind.PAUSED, HistoryKind.EXTENDED, HistoryKind.RESUMED]


async def test_a_hundred_pauses_add_up(ledger: Ledger) -> None:
    await armed(ledger, "a")
    now = NOW
    for _ in range(100):
        await change(ledger, Pause(), A, now=now + 0.5)
        await change(ledger, Resume(), A, now=now + 9)
        now += 9
    assert (await row_of(ledger)).deadline == pytest.approx(NOW + 100 + 100 * 8.5)


async def test_the_engines_pause_ends_with_its_word_and_an_operators_does_not(
    ledger: Ledger,
) -> None:
    await armed(ledger, "a", "b")
    both = [gone(each, "v1", happened_at=NOW + 40, is_pause=True) for each in "ab"]
    disarming = await ledger.disarm(both, NOW + 41)
    assert set(disarming.paused) == {A, run("b")}
    row = await row_of(ledger)
    assert (row.state, row.stopped_by) == (RunState.PAUSED, StoppedBy.ENGINE)
    assert row.paused_at == NOW + 40
    assert (await ledger.disarm(both, NOW + 45)).paused == (), "twice is once"
    await change(ledger, Pause(), run("b"), now=NOW + 50)
    assert await ledger.untracked([A, run("b")]) == [A], "the surveyor resumes the engine's alone"
    assert await ledger.arm(started([A], happened_at=NOW + 39), NOW + 60) == [], "it came late"
    (due,) = await ledger.arm(started([A, run("b")], happened_at=NOW + 90), NOW + 91)
    assert due.run_id == A.run_id
    assert due.due_at == pytest.approx(NOW + 150)
    assert await states(ledger, "b") == {"v1": RunState.PAUSED}


async def test_a_pause_is_of_one_version(ledger: Ledger) -> None:
    await configure(ledger, config("a", 100))
    await ledger.arm(started([A, run("a", "v2")]), NOW)
    await ledger.disarm([gone("a", "v2", is_pause=True)], NOW + 1)
    assert await states(ledger, "a") == {"v1": RunState.ARMED, "v2": RunState.PAUSED}


async def test_a_pause_that_comes_before_its_start_is_remembered(ledger: Ledger) -> None:
    await configure(ledger, config("a", 100))
    event = gone("a", "v1", happened_at=NOW + 5, is_pause=True, remember=True)
    await ledger.disarm([event], NOW + 6)
    assert await ledger.arm(started([A], happened_at=NOW + 1), NOW + 7) == []
    (due,) = await ledger.arm(started([A], happened_at=NOW + 20), NOW + 21)
    assert due.run_id == A.run_id


async def test_a_node_that_leaves_while_it_is_paused_is_cancelled(ledger: Ledger) -> None:
    await armed(ledger, "a")
    await change(ledger, Pause(), A)
    assert (await ledger.disarm([gone("a")], NOW + 5)).cancelled == (A,)
    row = await row_of(ledger)
    assert (row.state, row.paused_at) == (RunState.CANCELLED, None)
    assert row.stopped_by is StoppedBy.ENGINE
    (due,) = await ledger.arm(started([A], happened_at=NOW + 7), NOW + 7)
    assert due.due_at == pytest.approx(NOW + 107), "neither the pause nor its absence took time"


async def test_what_is_paused_and_started_anew_is_not_taken_for_what_left_before(
    ledger: Ledger,
) -> None:
    await configure(ledger, config("a", 100))
    await ledger.arm(started([A], happened_at=NOW), NOW)
    await change(ledger, Pause(), A, now=NOW + 1)
    await ledger.arm(started([A], happened_at=NOW + 30), NOW + 31)
    disarming = await ledger.disarm([gone("a", happened_at=NOW + 20)], NOW + 32)
    assert disarming.kept == (A,)
    assert await states(ledger, "a") == {"v1": RunState.PAUSED}


@pytest.mark.parametrize("pause", ["before", "after", "never"])
async def test_no_word_of_the_engine_arms_what_somebody_has_cancelled(
    ledger: Ledger, pause: str
) -> None:
    await armed(ledger, "a")
    if pause == "before":
        await ledger.disarm([gone("a", "v1", happened_at=NOW + 1, is_pause=True)], NOW + 1)
    await change(ledger, Cancel(), A, now=NOW + 2)
    if pause == "after":
        await ledger.disarm([gone("a", "v1", happened_at=NOW + 3, is_pause=True)], NOW + 3)
    await ledger.disarm([gone("a", "v1", happened_at=NOW + 4)], NOW + 4)
    assert await ledger.arm(started([A], happened_at=NOW + 5), NOW + 5) == []
    assert await ledger.arm(started([A]), NOW + 6) == []
    assert await ledger.untracked([A]) == []
    assert (await row_of(ledger)).stopped_by is StoppedBy.OPERATOR


async def test_what_somebody_has_cancelled_stays_as_long_as_what_is_dead(ledger: Ledger) -> None:
    await armed(ledger, "a", "b")
    await change(ledger, Cancel(), A)
    await ledger.disarm([gone("b")], NOW)
    retention = Retention(handled_seconds=1, cancelled_seconds=1, dead_seconds=100)
    assert await purge(ledger, NOW + 50, retention) == 1
    assert await states(ledger, "a") == {"v1": RunState.CANCELLED}
    assert await purge(ledger, NOW + 102, retention) == 1


async def test_a_change_waits_for_a_worker_under_whose_hands_its_engine_paused_the_run(
    ledger: Ledger,
) -> None:
    await armed(ledger, "a")
    taking = await take(ledger, A, now=NOW + 99, ahead_seconds=2.0)
    assert len(taking.taken) == 1
    await ledger.disarm([gone("a", "v1", happened_at=NOW + 99, is_pause=True)], NOW + 99)
    assert await states(ledger, "a") == {"v1": RunState.PAUSED}
    for order in (Pause(), Cancel(), Extend(by=60), Reconfigure(), Resume(), Fire()):
        assert (await change(ledger, order, A, now=NOW + 99.5)).verdict is Verdict.EXECUTING
    later = taking.lease_until + 1
    assert (await change(ledger, Pause(), A, now=later)).verdict is Verdict.DONE


async def test_a_key_names_one_change(ledger: Ledger) -> None:
    await armed(ledger, "a")
    await change(ledger, Extend(by=5), A, idempotency_key="k")
    judged = await change(ledger, Cancel(), A, idempotency_key="k")
    assert judged.verdict is Verdict.KEY_USED
    assert await states(ledger, "a") == {"v1": RunState.ARMED}


async def test_more_time_for_what_is_overdue_counts_from_now(ledger: Ledger) -> None:
    await armed(ledger, "a")
    await change(ledger, Extend(by=60), A, now=NOW + 400)
    assert (await row_of(ledger)).next_at == pytest.approx(NOW + 460)


async def test_what_is_paused_is_never_purged_nor_lost(ledger: Ledger) -> None:
    await armed(ledger, "a")
    await change(ledger, Pause(), A)
    counts = await ledger.counts(NOW + 9_999_999)
    assert (counts.paused, counts.armed, counts.oldest_overdue_seconds) == (1, 0, 0.0)
    assert await ledger.roots(["a"], of_open_runs=True) == {"a": ("root",)}


async def test_firing_makes_a_run_due_now(ledger: Ledger) -> None:
    await armed(ledger, "a", "b")
    await change(ledger, Pause(), run("b"))
    await change(ledger, Fire(), A, run("b"), now=NOW + 5)
    for node_id in "ab":
        row = await row_of(ledger, node_id)
        assert (row.state, row.deadline, row.next_at) == (RunState.ARMED, NOW + 5, NOW + 5)
    taking = await take(ledger, A, run("b"), now=NOW + 5)
    assert len(taking.taken) == 2


@pytest.mark.parametrize("what", [Extend(by=1), Reconfigure(), Pause(), Fire(), Cancel(), Resume()])
async def test_what_a_worker_has_is_not_changed(ledger: Ledger, what: Change) -> None:
    await armed(ledger, "a", seconds=2)
    taking = await take(ledger, A)
    before = await row_of(ledger)
    assert (await change(ledger, what, A)).verdict is Verdict.EXECUTING
    assert await row_of(ledger) == before
    await record(ledger, taking, RunState.HANDLED)
    assert (await change(ledger, what, A)).verdict is Verdict.CLOSED
    assert (await change(ledger, Replay(), A)).verdict is Verdict.NOT_DEAD
    assert (await change(ledger, what, run("never"))).verdict is Verdict.MISSING


async def test_between_two_tries_a_change_gives_all_attempts_back(ledger: Ledger) -> None:
    await armed(ledger, "a", seconds=2)
    await record(ledger, await take(ledger, A), RunState.ARMED, due_at=NOW + 60)
    await change(ledger, Extend(by=100), A, now=NOW + 20)
    row = await row_of(ledger)
    assert row.attempts == 0
    assert row.next_at == pytest.approx(NOW + 102)


async def test_a_cancelled_run_stays_so_whatever_the_engine_shows(ledger: Ledger) -> None:
    await armed(ledger, "a")
    await change(ledger, Cancel(), A, reason="a test")
    assert await states(ledger, "a") == {"v1": RunState.CANCELLED}
    assert await ledger.untracked([A]) == []
    assert await take(ledger, A, now=NOW + 999) is not None
    assert (await change(ledger, Cancel(), A)).verdict is Verdict.CLOSED


async def test_dead_runs_are_replayed_or_discarded(ledger: Ledger) -> None:
    await armed(ledger, "a", "b", seconds=2)
    for node_id in "ab":
        await record(ledger, await take(ledger, run(node_id)), RunState.DEAD)
    assert (await change(ledger, Extend(by=9), A)).verdict is Verdict.CLOSED
    await change(ledger, Replay(), A, now=NOW + 20)
    row = await row_of(ledger)
    assert (row.state, row.next_at, row.attempts) == (RunState.ARMED, NOW + 20, 0)
    taking = await take(ledger, A, now=NOW + 21)
    assert [node.attempt for node in taking.taken] == [1]
    for what in (Replay(), Discard()):
        assert (await change(ledger, what, A)).verdict is Verdict.NOT_DEAD
    assert (await change(ledger, Discard(), run("b"))).verdict is Verdict.DONE
    assert (await ledger.rows("b"), await ledger.history([id_of("b")])) == ([], [])
    assert (await change(ledger, Discard(), run("b"))).verdict is Verdict.MISSING
