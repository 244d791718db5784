"""The reconciler: what the pool has lost is armed again from the ledger."""

import asyncio
import logging
import time

import pytest
from redis.asyncio import Redis

from node_timeout.dispatch import reconciler as room
from node_timeout.dispatch.reconciler import SWEEP_SECONDS, Reconciler
from node_timeout.dispatch.reports import ReconcileReport
from node_timeout.domain.errors import ExchangeUnavailableError
from node_timeout.domain.run import DueRun
from node_timeout.ports.ledger import Retention
from node_timeout.runtime.loop import Health
from node_timeout.stores.memory.exchange import MemoryDelivery, MemoryExchange
from node_timeout.stores.redis.pool import RedisPool
from node_timeout.stores.sql.ledger import SqlLedger
from tests.support import absent, config, configure, id_of, left, run, started, wait_until

RETENTION = Retention(handled_seconds=1000, cancelled_seconds=100, dead_seconds=1e9)


def reconciler(
    ledger: SqlLedger,
    pool: RedisPool,
    name: str = "one",
    sweep_pause: float = 0.0,
    exchange: MemoryExchange | None = None,
) -> Reconciler:
    return Reconciler(
        ledger=ledger,
        pool=pool,
        exchange=exchange or MemoryExchange(),
        queues=["dispatch", "handle"],
        name=name,
        lease_seconds=5,
        redispatch_after=60,
        sweep_pause=sweep_pause,
        retention=RETENTION,
    )


async def armed(ledger: SqlLedger, pool: RedisPool, seconds: float, *node_ids: str) -> None:
    """Rows in the ledger that are due in ``seconds``; nothing in the pool."""
    await configure(ledger, *(config(node_id, 100) for node_id in node_ids))
    await ledger.arm(
        started([run(node_id) for node_id in node_ids]), await pool.now() - 100 + seconds
    )


async def sweep(reconciler: Reconciler) -> ReconcileReport:
    """Pass after pass to the end of the ledger; the reports added up."""
    total = ReconcileReport()
    while not total.swept:
        report = await reconciler.once()
        total.checked += report.checked
        total.rearmed += report.rearmed
        total.purged += report.purged
        total.data_lost |= report.data_lost
        total.swept = report.swept
    return total


@pytest.fixture
async def healthy_pool(pool: RedisPool) -> RedisPool:
    """A pool that has lost nothing."""
    await pool.may_have_lost_data()
    await pool.mark_reconciled()
    return pool


async def test_after_a_loss_everything_open_is_armed_again(
    ledger: SqlLedger, pool: RedisPool, redis: Redis
) -> None:
    await armed(ledger, pool, 50, "future")
    await armed(ledger, pool, -5, "overdue")
    one = reconciler(ledger, pool)
    report = await sweep(one)
    assert (report.data_lost, report.rearmed) == (True, 2)
    await redis.flushall()
    report = await sweep(one)
    assert (report.data_lost, report.rearmed) == (True, 2)
    report = await sweep(one)
    assert (report.data_lost, report.rearmed) == (False, 0)


async def test_only_what_redis_has_lost_is_a_warning(
    ledger: SqlLedger, pool: RedisPool, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    def levels() -> set[int]:
        found = {each.levelno for each in caplog.records if each.name == room.__name__}
        caplog.clear()
        return found

    caplog.set_level(logging.INFO, room.__name__)
    one = reconciler(ledger, pool)
    assert (await sweep(one)).data_lost
    assert levels() == {logging.INFO}, "the first start"
    await armed(ledger, pool, 50, "a")
    await pool.arm([DueRun(run_id=id_of("a"), due_at=await pool.now() + 50)])
    await redis.set(pool.shards[0].marker_key, "the run id before a restart")
    assert (await sweep(one)).data_lost
    assert levels() == {logging.INFO}, "a restart with its data"
    await redis.flushall()
    assert (await sweep(one)).rearmed == 1
    assert levels() == {logging.INFO, logging.WARNING}


async def test_a_deadline_armed_again_is_the_ledgers(ledger: SqlLedger, pool: RedisPool) -> None:
    await armed(ledger, pool, 50, "a")
    (row,) = await ledger.rows("a")
    await sweep(reconciler(ledger, pool))
    claim = await pool.shards[0].claim(1, 1)
    assert claim.next_due_at == row.deadline


async def test_without_a_loss_a_future_deadline_that_is_absent_is_armed(
    ledger: SqlLedger, healthy_pool: RedisPool
) -> None:
    await armed(ledger, healthy_pool, 50, "a")
    assert (await sweep(reconciler(ledger, healthy_pool))).rearmed == 1


async def test_what_is_due_much_later_is_looked_at_much_later(
    ledger: SqlLedger, healthy_pool: RedisPool
) -> None:
    await armed(ledger, healthy_pool, 2 * SWEEP_SECONDS + 60, "a")
    report = await sweep(reconciler(ledger, healthy_pool))
    assert (report.checked, report.rearmed) == (0, 0)
    report = await sweep(reconciler(ledger, healthy_pool, sweep_pause=60))
    assert (report.checked, report.rearmed) == (1, 1)


async def test_after_a_loss_what_is_due_much_later_is_armed_too(
    ledger: SqlLedger, pool: RedisPool
) -> None:
    await armed(ledger, pool, 1_000_000, "a")
    assert (await sweep(reconciler(ledger, pool))).rearmed == 1


async def test_an_overdue_run_may_be_in_the_queue_and_is_left_alone(
    ledger: SqlLedger, healthy_pool: RedisPool
) -> None:
    await armed(ledger, healthy_pool, -30, "a")
    assert (await sweep(reconciler(ledger, healthy_pool))).rearmed == 0


async def test_long_overdue_it_is_armed_at_the_second_look_and_a_backlog_does_not_feed_itself(
    ledger: SqlLedger, healthy_pool: RedisPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(room, "LOOK_SECONDS", 1e9)  # this is about the sweep
    await armed(ledger, healthy_pool, -130, "a")
    one = reconciler(ledger, healthy_pool)
    assert (await sweep(one)).rearmed == 0, "it was overdue for long, but was not missed before"
    await armed(ledger, healthy_pool, -130, "b")
    clock[0] += 61
    assert (await sweep(one)).rearmed == 1
    assert await absent(healthy_pool, [id_of("a"), id_of("b")]) == [id_of("b")]
    claim = await healthy_pool.shards[0].claim(10, 5)
    await healthy_pool.shards[0].finish([each.member for each in claim.members], claim.lease)
    clock[0] += 30
    assert (await sweep(one)).rearmed == 0, "it waits in the queue for another redispatch_after"
    clock[0] += 31
    assert (await sweep(one)).rearmed == 1, "the other one; this one waits twice as long"
    assert await absent(healthy_pool, [id_of("a"), id_of("b")]) == [id_of("a")]
    clock[0] += 60
    assert (await sweep(one)).rearmed == 1
    assert await absent(healthy_pool, [id_of("a"), id_of("b")]) == []


async def test_a_vanished_workers_run_is_armed_when_its_lease_is_long_over(
    ledger: SqlLedger, healthy_pool: RedisPool
) -> None:
    await armed(ledger, healthy_pool, -95, "a")
    now = await healthy_pool.now()
    due = [DueRun(run_id=id_of("a"), due_at=now - 95)]
    await ledger.take(due, now=now - 90, lease_seconds=29, max_attempts=3)
    one = reconciler(ledger, healthy_pool)
    assert (await sweep(one)).rearmed == 1
    assert (await healthy_pool.counts()).overdue == 1
    assert (await sweep(one)).rearmed == 0, "it is there"
    taking = await ledger.take(due, now=await healthy_pool.now(), lease_seconds=30, max_attempts=3)
    assert taking.stolen == 1


async def test_a_vanished_workers_run_that_waits_in_a_queue_is_armed_seldom(
    ledger: SqlLedger, healthy_pool: RedisPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    await armed(ledger, healthy_pool, -95, "a")
    now = await healthy_pool.now()
    due = [DueRun(run_id=id_of("a"), due_at=now - 95)]
    await ledger.take(due, now=now - 90, lease_seconds=10, max_attempts=3)
    one = reconciler(ledger, healthy_pool)
    at: list[float] = []
    for second in range(0, 300, 30):
        if (await sweep(one)).rearmed:
            at.append(second)
            await healthy_pool.disarm([id_of("a")])  # it is sent to the queue
        clock[0] += 30
    assert at == [0, 60, 180]
    await ledger.take(due, now=now - 70, lease_seconds=5, max_attempts=3)
    assert (await sweep(one)).rearmed == 1, "another worker had it, and vanished too"


async def test_after_a_loss_every_expired_lease_is_armed(
    ledger: SqlLedger, pool: RedisPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "BATCH_SIZE", 2)
    names = [f"n{i}" for i in range(5)]
    await armed(ledger, pool, -50, *names)
    now = await pool.now()
    due = [DueRun(run_id=id_of(name), due_at=now - 50) for name in names]
    await ledger.take(due, now=now - 40, lease_seconds=30, max_attempts=3)
    assert (await sweep(reconciler(ledger, pool))).rearmed == 5


async def test_purging_does_not_wait_for_the_end_of_a_sweep(
    ledger: SqlLedger, healthy_pool: RedisPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "BATCH_SIZE", 2)
    await armed(ledger, healthy_pool, 50, *(f"open{i}" for i in range(20)))
    old = [f"old{i}" for i in range(6)]
    await armed(ledger, healthy_pool, -150, *old)
    await ledger.disarm(left(old), await healthy_pool.now() - 200)
    one = reconciler(ledger, healthy_pool)
    assert [(await one.once()).purged for _ in range(4)] == [2, 2, 2, 0]


async def test_configs_of_ended_pipelines_are_purged_page_after_page(
    ledger: SqlLedger, healthy_pool: RedisPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "BATCH_SIZE", 2)
    await configure(ledger, *(config(f"n{i}") for i in range(5)))
    await ledger.save_configs([config("n0", root="goes on")], [])
    await ledger.end_root("root", await healthy_pool.now() - 1)
    one = reconciler(ledger, healthy_pool)
    assert [(await one.once()).purged_configs for _ in range(4)] == [2, 2, 1, 0]
    assert await ledger.configured(None, 9) == [("goes on", "n0")]


async def test_a_sweep_is_made_of_bounded_passes_oldest_first(
    ledger: SqlLedger, pool: RedisPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "BATCH_SIZE", 2)
    await armed(ledger, pool, 50, "late1", "late2", "late3")
    await armed(ledger, pool, 10, "early")
    one = reconciler(ledger, pool)
    report = await one.once()
    assert (report.checked, report.swept) == (2, False)
    assert await absent(pool, [id_of("early")]) == []
    assert (await sweep(one)).rearmed == 2


async def test_one_reconciler_at_a_time(ledger: SqlLedger, pool: RedisPool) -> None:
    await armed(ledger, pool, 50, "a")
    assert (await reconciler(ledger, pool, "one").once()).leading
    report = await reconciler(ledger, pool, "two").once()
    assert (report.leading, report.checked) == (False, 0)


async def test_between_sweeps_it_rests(ledger: SqlLedger, healthy_pool: RedisPool) -> None:
    resting = reconciler(ledger, healthy_pool, sweep_pause=60)
    assert (await resting.once()).swept
    assert not (await resting.once()).swept


async def test_closed_rows_are_purged_after_their_retention(
    ledger: SqlLedger, healthy_pool: RedisPool
) -> None:
    await armed(ledger, healthy_pool, -150, "gone", "kept")
    now = await healthy_pool.now()
    await ledger.disarm(left(["gone"]), now - 101)
    await ledger.disarm(left(["kept"]), now - 99)
    assert (await sweep(reconciler(ledger, healthy_pool))).purged == 1
    assert await ledger.rows("gone") == []
    assert len(await ledger.rows("kept")) == 1


async def test_the_service_arms_without_pause_after_a_loss_and_resigns_when_stopped(
    ledger: SqlLedger, pool: RedisPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "BATCH_SIZE", 2)
    await armed(ledger, pool, 50, *(f"n{i}" for i in range(20)))
    stop = asyncio.Event()
    running = asyncio.create_task(reconciler(ledger, pool).run(stop, Health(name="reconciler")))

    async def all_armed() -> bool:
        return (await pool.counts()).armed == 20

    await wait_until(all_armed, 5)
    stop.set()
    await running
    assert await pool.lead("reconciler", "another", 5)


async def test_no_task_starves_another(
    ledger: SqlLedger, healthy_pool: RedisPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More rows fall due than a page holds, so the sweep never ends; leases expire, rows close."""
    monkeypatch.setattr(room, "BATCH_SIZE", 2)
    names = [f"n{i}" for i in range(5)]
    await armed(ledger, healthy_pool, -200, *names)
    now = await healthy_pool.now()
    due = [DueRun(run_id=id_of(name), due_at=now - 200) for name in names]
    await ledger.take(due, now=now - 150, lease_seconds=30, max_attempts=3)
    await armed(ledger, healthy_pool, 50, *(f"open{i}" for i in range(20)))
    old = [f"old{i}" for i in range(6)]
    await armed(ledger, healthy_pool, -150, *old)
    await ledger.disarm(left(old), now - 200)
    one = reconciler(ledger, healthy_pool)
    reports = [await one.once() for _ in range(3)]
    assert not any(report.swept for report in reports)
    assert [report.rescued for report in reports] == [2, 2, 1]
    assert [report.purged for report in reports] == [2, 2, 2]
    assert all(report.more for report in reports), "it goes on without a rest"


async def test_it_goes_on_page_after_page_while_there_is_work(
    ledger: SqlLedger, healthy_pool: RedisPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "BATCH_SIZE", 2)
    monkeypatch.setattr(room, "TICK_SECONDS", 60.0)
    old = [f"old{i}" for i in range(30)]
    await armed(ledger, healthy_pool, -150, *old)
    await ledger.disarm(left(old), await healthy_pool.now() - 200)
    stop = asyncio.Event()
    one = reconciler(ledger, healthy_pool, sweep_pause=60.0)
    running = asyncio.create_task(one.run(stop, Health(name="reconciler")))

    async def all_purged() -> bool:
        return not await ledger.rows("old29")

    await wait_until(all_purged, 20)
    stop.set()
    await running


async def test_what_leaves_the_ledger_leaves_the_pool_first(
    ledger: SqlLedger, healthy_pool: RedisPool
) -> None:
    """A leaving crossed with the arming: the member would be adopted as a new run one day."""
    await armed(ledger, healthy_pool, 5000, "a")
    now = await healthy_pool.now()
    await ledger.disarm(left(["a"]), now - 101)
    await healthy_pool.arm([DueRun(run_id=id_of("a"), due_at=now + 5000)])
    assert (await sweep(reconciler(ledger, healthy_pool))).purged == 1
    assert (await healthy_pool.counts()).armed == 0


async def test_while_the_queues_are_empty_two_looks_are_enough(
    ledger: SqlLedger, healthy_pool: RedisPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "LOOK_SECONDS", 0.0)
    exchange = MemoryExchange()
    one = reconciler(ledger, healthy_pool, sweep_pause=60, exchange=exchange)
    await armed(ledger, healthy_pool, -1, "a")
    assert (await one.once()).rearmed == 0, "a worker may be taking it at this moment"
    waiting = MemoryDelivery(exchange=exchange, queue="handle", body=b"others")
    await exchange.enqueue(waiting)
    assert (await one.once()).rearmed == 0, "it may be in the queue"
    await exchange.take(["handle"], 1, None)
    assert [(await one.once()).rearmed for _ in range(2)] == [0, 1]
    assert await absent(healthy_pool, [id_of("a")]) == []
    await healthy_pool.disarm([id_of("a")])
    assert [(await one.once()).rearmed for _ in range(2)] == [0, 1]


async def test_without_the_broker_what_is_overdue_may_be_in_a_queue(
    ledger: SqlLedger, healthy_pool: RedisPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def down(_queue: str) -> int:
        raise ExchangeUnavailableError("RabbitMQ: gone")

    monkeypatch.setattr(room, "LOOK_SECONDS", 0.0)
    exchange = MemoryExchange()
    monkeypatch.setattr(exchange, "waiting", down)
    await armed(ledger, healthy_pool, -1, "a")
    one = reconciler(ledger, healthy_pool, exchange=exchange)
    assert [(await one.once()).rearmed for _ in range(3)] == [0, 0, 0]
