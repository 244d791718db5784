"""Changes of running deadlines against what crosses them: workers, scanners, engines, outages."""

import asyncio
import random
from typing import Any

import pytest
from redis.asyncio import Redis

from node_timeout.dispatch import reconciler as room
from node_timeout.domain import changes
from node_timeout.domain.changes import Cancel, Change, Extend, Fire, Pause, Resume, Verdict
from node_timeout.domain.errors import InvalidInputError, PoolUnavailableError
from node_timeout.domain.history import HistoryKind
from node_timeout.domain.orders import Order
from node_timeout.domain.run import DueRun, LedgerRow, RunState, TimedOutNode
from node_timeout.operations.changing import MAX_FOUND, ChangeReport, change
from node_timeout.operations.choosing import order_of
from node_timeout.ports.directory import RunFilter
from node_timeout.stores.memory.exchange import MemoryDelivery, MemoryExchange
from node_timeout.stores.redis.pool import RedisPool
from node_timeout.stores.sql.ledger import SqlLedger
from node_timeout.strategies.base import StrategyResult
from node_timeout.wire import dispatch
from tests.integration.test_reconciler import reconciler, sweep
from tests.integration.test_worker import Bench
from tests.support import config, configure, gone, id_of, run, started, wait_until

A = id_of("a")


@pytest.fixture
def bench(pool: RedisPool, any_ledger: SqlLedger, memory_exchange: MemoryExchange) -> Bench:
    return Bench(pool, any_ledger, memory_exchange)


async def order(bench: Bench, what: Change, *run_ids: str, **conditions: Any) -> ChangeReport:
    given: dict[str, Any] = {"actor": "ann", "max_seconds": 1e6, **conditions}
    return await change(bench.ledger, bench.pool, Order(change=what, **given), run_ids or (A,))


async def armed(bench: Bench, *node_ids: str, seconds: float) -> list[DueRun]:
    """In the ledger, in the pool, and running in the engine."""
    due = await bench.armed(*node_ids, seconds=seconds)
    await bench.pool.arm(due)
    return due


async def row(bench: Bench, node_id: str = "a") -> LedgerRow:
    (found,) = await bench.ledger.rows(node_id)
    return found


async def score(redis: Redis, run_id: str = A) -> float | None:
    found: float | None = await redis.zscore("test_pool", run_id)
    return found


async def claimed(bench: Bench, **how: Any) -> bytes:
    """The message of a scanner that has claimed what is due; it has not finished the claim yet."""
    claim = await bench.pool.shards[0].claim(10, 30, **how)
    runs = [DueRun(run_id=each.member, due_at=each.deadline) for each in claim.members]
    return dispatch.encode(runs, claim.lease)


async def test_a_message_of_the_old_instant_is_put_back_to_the_new_one(
    bench: Bench, redis: Redis
) -> None:
    await armed(bench, "a", seconds=-1)
    message = await claimed(bench)
    await order(bench, Extend(by=100))
    report = await bench.handle_bodies(message)
    assert (report.later, bench.engine.failed) == (1, [])
    assert await score(redis) == pytest.approx((await row(bench)).next_at or 0.0, abs=1e-3)


async def test_a_move_to_a_later_instant_needs_no_redis(
    bench: Bench, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process ends between the commit and Redis: the old instant finds the new one."""
    (due,) = await armed(bench, "a", seconds=-1)

    async def dies(_due: object) -> int:
        raise PoolUnavailableError("gone")

    with monkeypatch.context() as patched:
        patched.setattr(bench.pool, "lower", dies)
        report = await order(bench, Extend(by=100))
        assert report.done == 1, "what was committed is done"
    assert await score(redis) == due.due_at
    report_of_worker = await bench.handle_bodies(await claimed(bench))
    assert (report_of_worker.later, bench.engine.failed) == (1, [])


@pytest.mark.parametrize("what", [Extend(by=-50), Fire()])
async def test_a_move_to_an_earlier_instant_that_redis_missed_is_mended(
    bench: Bench, redis: Redis, monkeypatch: pytest.MonkeyPatch, what: Change
) -> None:
    await bench.pool.may_have_lost_data()
    await bench.pool.mark_reconciled()
    monkeypatch.setattr(room, "LOOK_SECONDS", 0.0)
    (due,) = await armed(bench, "a", seconds=100)

    async def dies(_due: object) -> int:
        raise PoolUnavailableError("gone")

    with monkeypatch.context() as patched:
        patched.setattr(bench.pool, "lower", dies)
        await order(bench, what)
    assert await score(redis) == pytest.approx(due.due_at, abs=1e-3)
    exchange = MemoryExchange()  # busy: what is absent could be in a queue, this is not
    await exchange.enqueue(MemoryDelivery(exchange=exchange, queue="handle", body=b"others"))
    assert (await reconciler(bench.ledger, bench.pool, exchange=exchange).once()).rearmed == 1
    assert await score(redis) == pytest.approx((await row(bench)).next_at or 0.0, abs=1e-3)


async def test_what_is_put_back_late_does_not_undo_a_move_forward(
    bench: Bench, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker has read that the run is due later; before it says so to Redis, it is fired."""
    await armed(bench, "a", seconds=-1)
    message = await claimed(bench)
    await order(bench, Extend(by=200))
    put_back = bench.pool.put_back

    async def slowly(due: Any) -> None:
        await order(bench, Fire())
        await put_back(due)

    monkeypatch.setattr(bench.pool, "put_back", slowly)
    report = await bench.handle_bodies(message)
    monkeypatch.undo()
    assert report.later == 1
    now = await bench.pool.now()
    assert (await score(redis) or 1e12) <= now
    await bench.handle_bodies(await claimed(bench))
    assert bench.engine.failed == [run("a")]


async def test_a_retry_that_is_put_back_does_not_undo_a_move_forward(
    bench: Bench, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.strategy("failing", lambda _: StrategyResult(False, "not yet"))
    (due,) = await bench.armed("a", action="failing")
    await bench.pool.arm([due])
    message = await claimed(bench)
    put_back = bench.pool.put_back

    async def slowly(due: Any) -> None:
        report = await order(bench, Fire())
        assert report.done == 1
        await put_back(due)

    monkeypatch.setattr(bench.pool, "put_back", slowly)
    await bench.handle_bodies(message)
    assert (await score(redis) or 1e12) <= await bench.pool.now()


async def test_a_run_paused_while_its_message_is_under_way_is_left_alone(
    bench: Bench, redis: Redis
) -> None:
    await armed(bench, "a", seconds=-1)
    claim = await bench.pool.shards[0].claim(10, 30)
    message = dispatch.encode([DueRun(run_id=A, due_at=claim.members[0].deadline)], claim.lease)
    await order(bench, Extend(by=50))
    await order(bench, Pause())
    report = await bench.handle_bodies(message)
    assert (report.dropped, bench.engine.failed) == (1, [])
    await order(bench, Resume())
    assert await bench.pool.shards[0].finish([A], claim.lease) == 0, "it is no claim's any more"
    assert await score(redis) == pytest.approx((await row(bench)).next_at or 0.0, abs=1e-3)


async def test_a_pause_and_its_end_that_cross_on_their_way_to_redis(
    bench: Bench, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pause reaches Redis last: it looks at the row once more, and arms it again."""
    await armed(bench, "a", seconds=100)
    disarm = bench.pool.disarm

    async def slowly(members: Any) -> int:
        with monkeypatch.context() as patched:
            patched.setattr(bench.pool, "disarm", disarm)
            await order(bench, Resume())
        return await disarm(members)

    monkeypatch.setattr(bench.pool, "disarm", slowly)
    await order(bench, Pause())
    assert (await row(bench)).state is RunState.ARMED
    assert await score(redis) == pytest.approx((await row(bench)).next_at or 0.0, abs=1e-3)


async def test_paused_runs_outlast_a_loss_of_redis_and_every_sweep(
    bench: Bench, redis: Redis
) -> None:
    await armed(bench, "a", seconds=-1)
    await order(bench, Extend(by=10))
    await order(bench, Pause())
    await redis.flushall()
    one = reconciler(bench.ledger, bench.pool)
    report = await sweep(one)
    assert (report.data_lost, report.rearmed) == (True, 0)
    assert await score(redis) is None
    await order(bench, Resume())
    assert await score(redis) == pytest.approx((await row(bench)).next_at or 0.0, abs=1e-3)


async def test_an_engine_that_still_runs_it_resumes_only_what_it_has_paused(bench: Bench) -> None:
    """The event of the resumption was lost; the surveyor sees both nodes running."""
    await armed(bench, "a", "b", seconds=100)
    now = await bench.pool.now()
    await bench.ledger.disarm([gone("a", "v1", is_pause=True)], now)
    await order(bench, Pause(), id_of("b"))
    found = await bench.ledger.untracked([run("a"), run("b")])
    await bench.ledger.arm(started(found), now + 1)
    states = [(await row(bench, node_id)).state for node_id in "ab"]
    assert states == [RunState.ARMED, RunState.PAUSED]


async def test_moves_that_cross_add_up(bench: Bench) -> None:
    await armed(bench, "a", seconds=1000)
    before = (await row(bench)).deadline
    assert before is not None
    await asyncio.gather(*(order(bench, Extend(by=1.0)) for _ in range(20)))
    assert (await row(bench)).deadline == pytest.approx(before + 20)
    history = await bench.ledger.history([A])
    assert [entry.kind for entry in history] == [HistoryKind.EXTENDED] * 20


async def test_one_key_sent_by_two_at_once_counts_once(bench: Bench) -> None:
    await armed(bench, "a", seconds=1000)
    before = (await row(bench)).deadline or 0.0
    same = [order(bench, Extend(by=7.0), idempotency_key="k") for _ in range(8)]
    reports = await asyncio.gather(*same)
    assert {report.done for report in reports} == {1}
    assert (await row(bench)).deadline == pytest.approx(before + 7)


async def test_a_verdict_is_what_happens_when_a_change_meets_a_worker(
    bench: Bench, any_database_url: str
) -> None:
    """Either the change comes first and holds, or the worker does and the change is refused."""
    rounds = 60 if any_database_url.startswith("sqlite") else 200
    choices = random.Random(7)
    now = await bench.pool.now()
    names = [f"n{i}" for i in range(rounds)]
    await configure(bench.ledger, *(config(name, 1) for name in names))
    due = await bench.ledger.arm(started([run(name) for name in names]), now - 10)
    seen: set[Verdict] = set()

    async def one(each: DueRun) -> None:
        what = choices.choice([Extend(by=100), Pause(), Cancel()])

        async def take() -> Any:
            await asyncio.sleep(choices.random() * 0.002)
            at = await bench.pool.now()
            return await bench.ledger.take([each], now=at, lease_seconds=30, max_attempts=3)

        async def alter() -> ChangeReport:
            await asyncio.sleep(choices.random() * 0.002)
            return await order(bench, what, each.run_id)

        taking, report = await asyncio.gather(take(), alter())
        verdict = report.runs[0].verdict
        seen.add(verdict)
        assert verdict in (Verdict.DONE, Verdict.EXECUTING)
        assert bool(taking.taken) == (verdict is Verdict.EXECUTING)

    for some in range(0, rounds, 10):
        await asyncio.gather(*map(one, due[some : some + 10]))
    assert seen == {Verdict.DONE, Verdict.EXECUTING}, "each of the two came first at times"


async def test_a_filter_changes_the_oldest_thousand_and_says_that_there_are_more(
    bench: Bench, redis: Redis
) -> None:
    names = [f"n{i:04}" for i in range(MAX_FOUND + 5)]
    await configure(bench.ledger, *(config(name, 100 + i) for i, name in enumerate(names)))
    due = await bench.ledger.arm(
        started([run(name) for name in names]), await bench.pool.now() + 50
    )
    await bench.pool.arm(due)
    cancel = Order(change=Cancel(), actor="ann", max_seconds=1.0)
    wanted = RunFilter(root_pipeline_id="root")
    would = await change(bench.ledger, bench.pool, cancel, wanted, dry_run=True)
    assert would.done == MAX_FOUND
    assert would.after is not None
    assert await redis.zcard("test_pool") == len(names), "a dry run changes nothing"
    first = await change(bench.ledger, bench.pool, cancel, wanted)
    assert first.done == MAX_FOUND
    assert first.after is not None
    rest = await bench.ledger.find(RunFilter(state=RunState.ARMED), 10)
    assert [each.node_id for each in rest.rows] == names[-5:]
    second = await change(bench.ledger, bench.pool, cancel, wanted)
    assert (second.done, second.after) == (5, None)
    assert await redis.zcard("test_pool") == 0


@pytest.mark.parametrize("what", [Extend(by=60.0), Fire(), Pause()], ids=lambda each: each.kind)
async def test_an_order_goes_on_where_it_ended_and_changes_each_run_once(
    bench: Bench, what: Change
) -> None:
    names = [f"n{i:04}" for i in range(2 * MAX_FOUND + 5)]
    await configure(bench.ledger, *(config(name, 100 + i) for i, name in enumerate(names)))
    await bench.ledger.arm(started([run(name) for name in names]), await bench.pool.now())
    order = Order(change=what, actor="ann", max_seconds=1e9, idempotency_key="k")
    report = await change(bench.ledger, bench.pool, order, RunFilter(root_pipeline_id="root"))
    for _ in range(9):
        if report.after is None:
            break
        again = await change(
            bench.ledger,
            bench.pool,
            order,
            RunFilter(root_pipeline_id="root"),
            after=report.after,
        )
        report = report.joined(again)
    assert report.after is None, "it ends"
    assert report.done == len(report.runs) == len(names)
    entries = await bench.ledger.history([each.run_id for each in report.runs])
    assert len({entry.run_id for entry in entries}) == len(entries) == len(names)


async def test_an_order_that_has_to_be_written_twice_counts_once(bench: Bench) -> None:
    """As when the answer to its COMMIT is lost: the ledger then gives it to itself once more."""
    await configure(bench.ledger, config("a", 100))
    await bench.ledger.arm(started([run("a")]), await bench.pool.now())
    for what, verdict in ((Extend(by=60.0), Verdict.DONE), (Cancel(), Verdict.DONE)):
        order = order_of(what, 1e9, actor="ann")
        for _ in range(2):
            judged = await bench.ledger.change(order, [A], await bench.pool.now())
            assert judged[A].verdict is verdict
    (row,) = await bench.ledger.rows("a")
    assert (row.extended, row.state) == (60.0, RunState.CANCELLED)


@pytest.mark.parametrize("after", ["", "7/", "0/x", "x/1.0/y"])
async def test_an_order_goes_on_nowhere_else(bench: Bench, after: str) -> None:
    order = Order(change=Fire(), actor="ann", max_seconds=1.0)
    with pytest.raises(InvalidInputError):
        await change(bench.ledger, bench.pool, order, RunFilter(node_id="a"), after=after)


async def test_a_strategy_may_give_the_node_more_time(bench: Bench, redis: Redis) -> None:
    def more_time(node: TimedOutNode) -> StrategyResult:
        return StrategyResult(
            True, "it makes progress", extend_by=60.0 if not node.extended else 9e9
        )

    bench.strategy("patient", more_time)
    (due,) = await bench.armed("a", action="patient")
    await bench.pool.arm([due])
    await bench.handle_bodies(await claimed(bench))
    found = await row(bench)
    assert (found.state, found.attempts, found.revision) == (RunState.ARMED, 0, 1)
    assert found.next_at == found.deadline == pytest.approx(due.due_at + 60)
    assert found.extended == pytest.approx(60)
    assert await score(redis) == pytest.approx(found.next_at or 0.0, abs=1e-3)
    (entry,) = await bench.ledger.history([A])
    assert (entry.kind, entry.detail) == (
        HistoryKind.EXTENDED,
        "by 60 s, by the strategy: it makes progress",
    )


async def test_a_strategy_may_say_when_to_try_again(bench: Bench) -> None:
    bench.strategy("busy", lambda _: {"result": False, "message": "busy", "retry_after": 500})
    (due,) = await bench.armed("a", action="busy")
    await bench.handle([due])
    found = await row(bench)
    assert found.state is RunState.ARMED
    assert (found.next_at or 0.0) >= due.due_at + 500


@pytest.mark.parametrize(
    "answer", [{"retry_after": -1}, {"extend_by": 0}, {"extend_by": "60"}, {"retry_after": True}]
)
async def test_an_answer_that_means_nothing_is_refused(
    bench: Bench, answer: dict[str, Any]
) -> None:
    bench.strategy("odd", lambda _: {"result": True, **answer})
    await bench.handle(await bench.armed("a", action="odd"))
    assert (await row(bench)).state is RunState.DEAD


async def test_orders_name_runs_by_ids_that_exist(bench: Bench) -> None:
    report = await order(bench, Fire(), id_of("never"))
    assert [each.verdict for each in report.runs] == [Verdict.MISSING]
    assert changes.OPEN == (RunState.ARMED, RunState.PAUSED)
    for wrong in (["nonsense"], [], [A] * 501):
        with pytest.raises(InvalidInputError):
            await change(
                bench.ledger,
                bench.pool,
                Order(change=Fire(), actor="ann", max_seconds=1.0),
                wrong,
            )


async def test_a_fired_run_wakes_the_scanner_at_once(bench: Bench, redis: Redis) -> None:
    await armed(bench, "a", seconds=100)
    waiting = asyncio.create_task(bench.pool.shards[0].wait(60))
    await wait_until(lambda: bench.pool._wakeups is not None)
    await asyncio.sleep(0.2)
    await order(bench, Fire())
    await asyncio.wait_for(waiting, 10)
    assert (await score(redis) or 1e12) <= await bench.pool.now()
