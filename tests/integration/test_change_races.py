"""What a change of a running deadline may cross: one interleaving a test, on each database.

The order is not left to chance. Where two transactions want one row, the first has written and
commits only when the second waits for it, see `in_turn`; where they meet in Redis, one call is
delayed.

The races, and the tests of each. Those of this module, of `test_changing` and of the contracts run
on each database; the contract of the pool runs on each pool.

 1  A change and the deadline come at once.
    here: a_change_ahead_of_the_worker_holds, a_change_behind_the_worker_is_refused
    test_changing: a_verdict_is_what_happens_when_a_change_meets_a_worker, many times at random
 2  A message of the old instant is under way.
    test_changing: a_message_of_the_old_instant_is_put_back_to_the_new_one
 3  A move to a later instant, a pause or a cancellation is committed, and Redis misses it.
    here: a_pause_or_a_cancellation_needs_no_redis
    test_changing: a_move_to_a_later_instant_needs_no_redis
 4  A move to an earlier instant, a resumption or a replay is committed, and Redis misses it.
    here: a_run_that_goes_on_is_armed_though_redis_missed_it
    test_changing: a_move_to_an_earlier_instant_that_redis_missed_is_mended
 5  Two changes cross.
    here: two_moves_at_once, two_moves_reach_redis_in_the_wrong_order, a_replay_meets_a_discard
    test_changing: a_pause_and_its_end_that_cross_on_their_way_to_redis
 6  A worker puts back a later instant while a change writes an earlier one.
    here: a_put_back_does_not_raise_what_a_move_has_lowered
    test_changing: what_is_put_back_late_does_not_undo_a_move_forward,
    a_retry_that_is_put_back_does_not_undo_a_move_forward
    contracts.pool: what_is_put_back_does_not_undo_a_move_to_an_earlier_instant
 7  A run is paused while its member is leased, or in a message.
    here: an_old_claim_does_not_touch_what_was_resumed, a_pause_that_redis_missed_under_a_lease
    test_changing: a_run_paused_while_its_message_is_under_way_is_left_alone
 8  The engine's resumption is lost, and the surveyor sees the node running.
    here: an_operator_comes_before_the_surveyor_arms, a_resumption_meets_an_operators_pause
    test_changing: an_engine_that_still_runs_it_resumes_only_what_it_has_paused
 9  A node leaves while it is paused.
    here: a_node_leaves_while_it_is_resumed
    contracts.ledger: a_node_that_leaves_while_it_is_paused_is_cancelled
10  A change comes after the end. (There are no heartbeats that could.)
    contracts.ledger: what_a_worker_has_is_not_changed
11  A process ends between an attempt's effect and its record. (There are no steps before the last.)
    chaos.test_crashes: killed_at_each_step_of_the_protocol, on PostgreSQL
12  An attempt keeps failing. (There is no next step that it could delay.)
    contracts.ledger: between_two_tries_a_change_gives_all_attempts_back
13  A config is edited or deleted meanwhile. (There are no stored policies.)
    here: a_config_that_is_edited_while_an_order_is_under_way_is_the_one_followed
    contracts.ledger: a_run_keeps_the_action_that_it_started_with,
    a_run_follows_the_config_of_now
14  Redis has lost its data.
    here: a_change_crosses_the_sweep_that_arms_again
    test_changing: paused_runs_outlast_a_loss_of_redis_and_every_sweep
15  The database is restored from an old copy: what is overdue there is armed, as after 14.
    test_reconciler: after_a_loss_everything_open_is_armed_again, on SQLite
16  An older process works beside a newer one.
    chaos.test_upgrade: the_next_schema_serves_this_version_if_its_migration_says_so, on PostgreSQL
    contracts.pool: as in 6, also without the lease that older messages lack
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

import pytest
from redis.asyncio import Redis
from sqlalchemy.pool import QueuePool

from node_timeout.arming.tracker import Tracker
from node_timeout.dispatch import reconciler as room
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
from node_timeout.domain.errors import PoolUnavailableError
from node_timeout.domain.history import HistoryKind
from node_timeout.domain.run import DueRun, RunState, StoppedBy, TimedOutNode
from node_timeout.handling.recorder import WorkReport
from node_timeout.operations.changing import ChangeReport
from node_timeout.ports.pool import Claim
from node_timeout.stores.memory.exchange import MemoryExchange
from node_timeout.stores.redis.pool import RedisPool
from node_timeout.stores.sql.ledger import SqlLedger
from node_timeout.strategies.base import StrategyResult
from node_timeout.tasks import ended
from node_timeout.wire import dispatch
from tests.integration.test_changing import A, armed, claimed, order, row, score
from tests.integration.test_reconciler import reconciler, sweep
from tests.integration.test_surveyor import SurveyableEngine, surveyor_of
from tests.integration.test_worker import Bench
from tests.servers import RedisServer
from tests.support import config, configure, gone, run, started, wait_until

T = TypeVar("T")
U = TypeVar("U")

WAITING = {
    "postgresql": "SELECT count(*) FROM pg_locks WHERE locktype = 'transactionid' AND NOT granted",
    "mysql": "SELECT variable_value FROM information_schema.global_status "
    "WHERE variable_name = 'INNODB_ROW_LOCK_CURRENT_WAITS'",
}


@pytest.fixture
def bench(pool: RedisPool, any_ledger: SqlLedger, memory_exchange: MemoryExchange) -> Bench:
    return Bench(pool, any_ledger, memory_exchange)


@pytest.fixture
async def other(
    bench: Bench, any_database_url: str, redis_server: RedisServer
) -> AsyncIterator[Bench]:
    """Another process, with connections of its own to the same stores and the same engine."""
    pool, ledger = RedisPool(redis_server.url, "test_pool"), SqlLedger(any_database_url)
    other = Bench(pool, ledger, MemoryExchange())
    other.engine, other.strategies = bench.engine, bench.strategies
    yield other
    await pool.close()
    await ledger.close()


async def in_turn(
    first: SqlLedger, one: Coroutine[Any, Any, T], second: SqlLedger, two: Coroutine[Any, Any, U]
) -> tuple[T, U]:
    """Do both at once: the first one's transaction ends when the second one's waits for it."""
    has_written, may_commit = asyncio.Event(), asyncio.Event()
    note = first._note

    async def slowly(*args: Any) -> None:
        await note(*args)  # what a transaction writes last, but for deletions
        has_written.set()
        await may_commit.wait()

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(first, "_note", slowly)
        doing = asyncio.create_task(one)
        waiting = asyncio.create_task(_after(has_written, two))
        try:
            await wait_until(has_written.is_set)
            await wait_until(lambda: _waits(second))
            assert not waiting.done()
            may_commit.set()
            return await doing, await waiting
        finally:
            await ended(doing, waiting)


async def _after(event: asyncio.Event, what: Coroutine[Any, Any, T]) -> T:
    await event.wait()
    return await what


async def _waits(ledger: SqlLedger) -> bool:
    """Whether a transaction of this ledger waits for another's lock."""
    statement = WAITING.get(ledger.engine.dialect.name)
    if statement is None:  # SQLite has one writer at a time, and each of ours begins as one
        pool = ledger.engine.pool
        return isinstance(pool, QueuePool) and pool.checkedout() > 0
    async with ledger.engine.connect() as connection:
        return int((await connection.exec_driver_sql(statement)).scalar_one()) > 0


async def dies(*_args: object) -> int:
    raise PoolUnavailableError("gone")


async def dead(bench: Bench) -> None:
    """A run that has used up its attempts."""
    bench.strategy("failing", lambda _: StrategyResult(False, "no"))
    await bench.handle(await bench.armed("a", action="failing"), max_attempts=1)
    assert (await row(bench)).state is RunState.DEAD


def message_of(claim: Claim) -> bytes:
    due = [DueRun(run_id=each.member, due_at=each.deadline) for each in claim.members]
    return dispatch.encode(due, claim.lease)


def kind_of(what: object) -> str:
    """The name of a change, for that of a test."""
    return type(what).__name__.lower() if isinstance(what, Change) else str(what)


# 6: put back and move


@pytest.mark.parametrize("first", ["move", "put-back"])
@pytest.mark.parametrize("stands", ["leased", "absent", "leased anew"])
async def test_a_put_back_does_not_raise_what_a_move_has_lowered(
    bench: Bench,
    other: Bench,
    redis: Redis,
    monkeypatch: pytest.MonkeyPatch,
    stands: str,
    first: str,
) -> None:
    """A worker has read 200 s when a change writes 20 s; either comes to Redis first. The lease of
    the member ends later than that: it is the message's own, another's, or over.
    """
    shard = bench.pool.shards[0]
    await armed(bench, "a", seconds=-1)
    claim = await shard.claim(10, 0.05 if stands == "leased anew" else 30)
    message = message_of(claim)

    async def claimed_anew() -> bool:
        nonlocal claim
        claim = await shard.claim(10, 30)
        return bool(claim.members)

    if stands == "leased anew":
        await wait_until(claimed_anew)
    await order(bench, Extend(by=200))
    if stands == "absent":
        assert await shard.finish([A], claim.lease) == 1
    else:
        assert await score(redis) == claim.lease
    put_back, lower = bench.pool.put_back, other.pool.lower

    async def crossed_by_a_move(due: Any) -> None:
        async def late(moved: Any) -> int:
            await put_back(due)
            return await lower(moved)

        with monkeypatch.context() as patched:
            if first == "put-back":
                patched.setattr(other.pool, "lower", late)
            report = await order(other, Extend(by=-180))
        assert report.done == 1
        if first == "move":
            await put_back(due)

    monkeypatch.setattr(bench.pool, "put_back", crossed_by_a_move)
    report = await bench.handle_bodies(message)
    assert report.later == 1
    next_at = (await row(bench)).next_at or 0.0
    assert next_at < claim.lease
    assert await score(redis) == pytest.approx(next_at, abs=1e-3)
    assert await shard.finish([A], claim.lease) == 0, "it is no claim's any more"


# 1: change and worker


@pytest.mark.parametrize("what", [Extend(by=100), Pause(), Cancel()], ids=kind_of)
async def test_a_change_ahead_of_the_worker_holds(
    bench: Bench, other: Bench, redis: Redis, what: Change
) -> None:
    await armed(bench, "a", seconds=-1)
    message = await claimed(bench)
    changed: ChangeReport
    worked: WorkReport
    changed, worked = await in_turn(
        bench.ledger, order(bench, what), other.ledger, other.handle_bodies(message)
    )
    assert [each.verdict for each in changed.runs] == [Verdict.DONE]
    assert (bench.engine.failed, worked.outcomes) == ([], {})
    found = await row(bench)
    assert (found.revision, found.attempts) == (1, 0)
    if isinstance(what, Extend):
        assert worked.later == 1
        assert await score(redis) == pytest.approx(found.next_at or 0.0, abs=1e-3)
    else:
        assert worked.dropped == 1
        assert await score(redis) is None


@pytest.mark.parametrize(
    "what",
    [Extend(by=100), Reconfigure(), Pause(), Resume(), Fire(), Cancel()],
    ids=kind_of,
)
async def test_a_change_behind_the_worker_is_refused(
    bench: Bench, other: Bench, what: Change
) -> None:
    answered = asyncio.Event()

    async def patiently(_node: TimedOutNode) -> StrategyResult:
        await answered.wait()
        return StrategyResult(True, "done")

    async def asks() -> ChangeReport:
        report = await order(other, what)
        answered.set()
        return report

    bench.strategy("patient", patiently)
    await bench.pool.arm(await bench.armed("a", action="patient"))
    working = bench.handle_bodies(await claimed(bench))
    worked, refused = await in_turn(bench.ledger, working, other.ledger, asks())
    assert [each.verdict for each in refused.runs] == [Verdict.EXECUTING]
    assert worked.outcomes == {RunState.HANDLED: 1}
    found = await row(bench)
    assert (found.state, found.message, found.revision) == (RunState.HANDLED, "done", 0)
    assert await bench.ledger.history([A]) == []


# 3 and 4: committed, and Redis misses it


@pytest.mark.parametrize("what", [Pause(), Cancel()], ids=kind_of)
async def test_a_pause_or_a_cancellation_needs_no_redis(
    bench: Bench, redis: Redis, monkeypatch: pytest.MonkeyPatch, what: Change
) -> None:
    (due,) = await armed(bench, "a", seconds=-1)
    with monkeypatch.context() as patched:
        patched.setattr(bench.pool, "disarm", dies)
        assert (await order(bench, what)).done == 1, "what was committed is done"
    assert await score(redis) == pytest.approx(due.due_at, abs=1e-3)
    report = await bench.handle_bodies(await claimed(bench))
    assert (report.dropped, bench.engine.failed) == (1, [])


@pytest.mark.parametrize("what", [Resume(), Replay()], ids=kind_of)
async def test_a_run_that_goes_on_is_armed_though_redis_missed_it(
    bench: Bench, redis: Redis, monkeypatch: pytest.MonkeyPatch, what: Change
) -> None:
    await bench.pool.may_have_lost_data()
    await bench.pool.mark_reconciled()
    monkeypatch.setattr(room, "LOOK_SECONDS", 0.0)
    if isinstance(what, Resume):
        await armed(bench, "a", seconds=100)
        await order(bench, Pause())
    else:
        await dead(bench)
    with monkeypatch.context() as patched:
        patched.setattr(bench.pool, "lower", dies)
        assert (await order(bench, what)).done == 1
    assert await score(redis) is None
    one = reconciler(bench.ledger, bench.pool)
    reports = [await one.once() for _ in range(2)]
    assert sum(report.rearmed for report in reports) == 1, "what is overdue, at the second look"
    assert await score(redis) == pytest.approx((await row(bench)).next_at or 0.0, abs=1e-3)


# 5: two changes


@pytest.mark.parametrize(
    ("conditions", "moved", "verdict"),
    [
        ({}, 14.0, Verdict.DONE),
        ({"idempotency_key": "k"}, 7.0, Verdict.DONE),
        ({"if_revision": 0}, 7.0, Verdict.REVISION),
    ],
    ids=["they add up", "one key counts once", "one of a revision"],
)
async def test_two_moves_at_once(
    bench: Bench,
    other: Bench,
    redis: Redis,
    conditions: dict[str, Any],
    moved: float,
    verdict: Verdict,
) -> None:
    (due,) = await armed(bench, "a", seconds=1000)
    one, two = await in_turn(
        bench.ledger,
        order(bench, Extend(by=7.0), **conditions),
        other.ledger,
        order(other, Extend(by=7.0), **conditions),
    )
    assert [each.verdict for each in (*one.runs, *two.runs)] == [Verdict.DONE, verdict]
    found = await row(bench)
    assert found.next_at == found.deadline == pytest.approx(due.due_at + moved)
    assert two.runs[0].row == found, "also one that is refused is shown as it is"
    entries = await bench.ledger.history([A])
    assert [entry.kind for entry in entries] == [HistoryKind.EXTENDED] * found.revision
    assert found.revision == moved / 7.0
    assert await score(redis) == pytest.approx(due.due_at, abs=1e-3), "early, which harms nobody"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (Extend(by=-50), Extend(by=30)),
        (Extend(by=30), Extend(by=-50)),
        (Extend(by=-20), Extend(by=-30)),
        (Fire(), Extend(by=50)),
    ],
    ids=["forth and back", "back and forth", "twice forth", "fired and extended"],
)
async def test_two_moves_reach_redis_in_the_wrong_order(
    bench: Bench,
    other: Bench,
    redis: Redis,
    monkeypatch: pytest.MonkeyPatch,
    first: Change,
    second: Change,
) -> None:
    """The second one reaches Redis, and only then the first."""
    await armed(bench, "a", seconds=100)
    lower = bench.pool.lower

    async def late(due: Any) -> int:
        monkeypatch.setattr(bench.pool, "lower", lower)
        assert (await order(other, second)).done == 1
        return await lower(due)

    monkeypatch.setattr(bench.pool, "lower", late)
    assert (await order(bench, first)).done == 1
    found = await row(bench)
    next_at = found.next_at or 0.0
    assert found.revision == 2
    assert (await score(redis) or 1e12) <= next_at + 1e-3, "never later than its row"
    report = await bench.handle_bodies(await claimed(bench, ahead_seconds=1000))
    assert (report.later, bench.engine.failed) == (1, []), "earlier harms nobody"
    assert await score(redis) == pytest.approx(next_at, abs=1e-3)


@pytest.mark.parametrize("first", ["replay", "discard"])
async def test_a_replay_meets_a_discard(
    bench: Bench, other: Bench, redis: Redis, first: str
) -> None:
    await dead(bench)
    changes: list[Change] = [Replay(), Discard()]
    if first == "discard":
        changes.reverse()
    one, two = await in_turn(
        bench.ledger, order(bench, changes[0]), other.ledger, order(other, changes[1])
    )
    refusal = Verdict.NOT_DEAD if first == "replay" else Verdict.MISSING
    assert [each.verdict for each in (*one.runs, *two.runs)] == [Verdict.DONE, refusal]
    rows = await bench.ledger.rows("a")
    if first == "replay":
        assert [each.state for each in rows] == [RunState.ARMED]
        assert await score(redis) == pytest.approx(rows[0].next_at or 0.0, abs=1e-3)
    else:
        assert (rows, await bench.ledger.history([A])) == ([], [])
        assert await score(redis) is None


# 7: pause and claim


@pytest.mark.parametrize("end", ["finish", "release"])
@pytest.mark.parametrize("when", ["before the pause", "during the pause", "after the pause"])
async def test_an_old_claim_does_not_touch_what_was_resumed(
    bench: Bench, other: Bench, redis: Redis, when: str, end: str
) -> None:
    """A scanner ends its claim of before the pause; then a worker reads the message of it."""
    await armed(bench, "a", seconds=20)
    shard = bench.pool.shards[0]
    claim = await shard.claim(10, 30, ahead_seconds=25)
    message = message_of(claim)

    async def end_claim(now: str) -> int | None:
        if now != when:
            return None
        if end == "finish":
            return await shard.finish([A], claim.lease)
        return await shard.release(claim.members, claim.lease)

    assert await end_claim("before the pause") in (None, 1)
    assert (await order(other, Pause())).done == 1
    assert await score(redis) is None
    assert await end_claim("during the pause") in (None, 0)
    assert (await order(other, Resume())).done == 1
    assert await end_claim("after the pause") in (None, 0)
    next_at = (await row(bench)).next_at or 0.0
    assert await score(redis) == pytest.approx(next_at, abs=1e-3)
    report = await bench.handle_bodies(message)
    assert (report.later, bench.engine.failed) == (1, [])
    assert await score(redis) == pytest.approx(next_at, abs=1e-3)


async def test_a_pause_that_redis_missed_under_a_lease(
    bench: Bench, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The member still stands under its lease when the run is resumed, and its scanner takes it
    out; the reconciler puts it back.
    """
    await bench.pool.may_have_lost_data()
    await bench.pool.mark_reconciled()
    await armed(bench, "a", seconds=40)
    shard = bench.pool.shards[0]
    claim = await shard.claim(10, 30, ahead_seconds=45)
    with monkeypatch.context() as patched:
        patched.setattr(bench.pool, "disarm", dies)
        assert (await order(bench, Pause())).done == 1
    report = await bench.handle_bodies(message_of(claim))
    assert (report.dropped, bench.engine.failed) == (1, [])
    assert (await order(bench, Resume())).done == 1
    await shard.finish([A], claim.lease)
    await reconciler(bench.ledger, bench.pool).once()
    assert await score(redis) == pytest.approx((await row(bench)).next_at or 0.0, abs=1e-3)


# 8: the engine and an operator


@pytest.mark.parametrize("what", [Pause(), Cancel()], ids=kind_of)
async def test_an_operator_comes_before_the_surveyor_arms(
    bench: Bench,
    other: Bench,
    redis: Redis,
    monkeypatch: pytest.MonkeyPatch,
    what: Change,
) -> None:
    """The surveyor has read that the engine alone has paused the run."""
    await armed(bench, "a", seconds=100)
    await Tracker(ledger=bench.ledger, pool=bench.pool).nodes_left([gone("a", "v1", is_pause=True)])
    engine = SurveyableEngine()
    engine.start("a")
    untracked = bench.ledger.untracked

    async def slowly(runs: Any) -> Any:
        found = await untracked(runs)
        assert found == [run("a")]
        assert (await order(other, what)).done == 1
        return found

    monkeypatch.setattr(bench.ledger, "untracked", slowly)
    report = await surveyor_of(bench.ledger, bench.pool, engine).once()
    assert (report.asked, report.armed) == (1, 0)
    found = await row(bench)
    expected = RunState.PAUSED if isinstance(what, Pause) else RunState.CANCELLED
    assert (found.state, found.stopped_by) == (expected, StoppedBy.OPERATOR)
    assert await score(redis) is None


@pytest.mark.parametrize("first", ["engine", "operator"])
async def test_a_resumption_meets_an_operators_pause(
    bench: Bench, other: Bench, first: str
) -> None:
    """Whoever comes first: an operator's pause stays, with the time that was left."""
    await armed(bench, "a", seconds=100)
    now = await bench.pool.now()
    await bench.ledger.disarm([gone("a", "v1", is_pause=True)], now)
    starting = other.ledger.arm(started([run("a")]), now + 1)
    pausing = order(bench, Pause())
    if first == "engine":
        armed_again, report = await in_turn(other.ledger, starting, bench.ledger, pausing)
    else:
        report, armed_again = await in_turn(bench.ledger, pausing, other.ledger, starting)
    assert report.done == 1
    assert [each.run_id for each in armed_again] == ([A] if first == "engine" else [])
    found = await row(bench)
    assert (found.state, found.stopped_by) == (RunState.PAUSED, StoppedBy.OPERATOR)
    assert (found.deadline or 0.0) - (found.paused_at or 0.0) == pytest.approx(100, abs=2)


# 9: leaving and resumption


@pytest.mark.parametrize("first", ["leaving", "resumption"])
async def test_a_node_leaves_while_it_is_resumed(
    bench: Bench, other: Bench, redis: Redis, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    """The resumption reaches Redis last: whoever has resumed it looks at the row once more."""
    await armed(bench, "a", seconds=100)
    await order(bench, Pause())
    has_left = asyncio.Event()
    lower = bench.pool.lower

    async def leaves() -> int:
        tracker = Tracker(ledger=other.ledger, pool=other.pool)
        left = await tracker.nodes_left([gone("a", "v1")])
        has_left.set()
        return left

    async def late(due: Any) -> int:
        await has_left.wait()
        return await lower(due)

    monkeypatch.setattr(bench.pool, "lower", late)
    resuming = order(bench, Resume())
    if first == "leaving":
        left, report = await in_turn(other.ledger, leaves(), bench.ledger, resuming)
    else:
        report, left = await in_turn(bench.ledger, resuming, other.ledger, leaves())
    expected = Verdict.CLOSED if first == "leaving" else Verdict.DONE
    assert ([each.verdict for each in report.runs], left) == ([expected], 1)
    found = await row(bench)
    assert (found.state, found.stopped_by) == (RunState.CANCELLED, StoppedBy.ENGINE)
    assert await score(redis) is None


# 13: a config is edited


async def test_a_config_that_is_edited_while_an_order_is_under_way_is_the_one_followed(
    bench: Bench, other: Bench, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two orders that cross the later one has the last word, and the newer config.

    The other one comes when the transaction has begun, before its lock; SQLite's begins with it.
    """
    await armed(bench, "a", seconds=1000)
    await configure(bench.ledger, config("a", 500))
    where: Any = bench.ledger
    name = "_locked"
    if bench.ledger.engine.dialect.name == "sqlite":
        where, name = bench.pool, "now"
    step = getattr(where, name)

    async def crossed(*args: Any) -> Any:
        monkeypatch.setattr(where, name, step)
        await configure(other.ledger, config("a", 20, action="newer"))
        assert (await order(other, Reconfigure())).done == 1
        return await step(*args)

    monkeypatch.setattr(where, name, crossed)
    report = await order(bench, Reconfigure())
    assert [each.verdict for each in report.runs] == [Verdict.UNCHANGED]
    found = await row(bench)
    assert (found.action, found.timeout, found.revision) == ("newer", 20, 1)
    assert (await score(redis) or 1e12) <= (found.next_at or 0.0) + 1e-3, "never later than its row"


# 14: Redis has lost its data


@pytest.mark.parametrize("what", [Extend(by=100), Fire(), Pause(), Cancel()], ids=kind_of)
async def test_a_change_crosses_the_sweep_that_arms_again(
    bench: Bench, other: Bench, redis: Redis, monkeypatch: pytest.MonkeyPatch, what: Change
) -> None:
    """The sweep has read the old instant and missed the run in Redis; then comes the change."""
    await armed(bench, "a", seconds=20)
    await redis.flushall()
    behind = bench.pool.behind

    async def slowly(due: Any, slack_seconds: float) -> Any:
        monkeypatch.setattr(bench.pool, "behind", behind)
        found = await behind(due, slack_seconds)
        assert found.absent == {A}
        assert (await order(other, what)).done == 1
        return found

    monkeypatch.setattr(bench.pool, "behind", slowly)
    assert (await sweep(reconciler(bench.ledger, bench.pool))).data_lost
    found = await row(bench)
    if found.next_at is not None:
        assert (await score(redis) or 1e12) <= found.next_at + 1e-3, "never later than its row"
    report = await bench.handle_bodies(await claimed(bench, ahead_seconds=25))
    assert bench.engine.failed == ([run("a")] if isinstance(what, Fire) else [])
    if isinstance(what, Extend):
        assert report.later == 1
        assert await score(redis) == pytest.approx(found.next_at or 0.0, abs=1e-3)
    elif not isinstance(what, Fire):
        assert report.dropped == 1
