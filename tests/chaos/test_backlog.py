"""Fault 10: two hours' outage. A backlog is drained oldest first, and newcomers are not starved."""

import asyncio
import math
import time
from collections.abc import Iterator
from pathlib import Path

from nt_chaos import EFFECTS, ORDER, RUNNING
from nt_faults import measure_scripts
from redis.asyncio import Redis
from sqlalchemy import insert

from node_timeout import NodeTimeout
from node_timeout.stores.sql.tables import runs as ledger_table
from tests.acceptance.conftest import Process
from tests.chaos.history import Kind
from tests.chaos.house import House, changed, scaled
from tests.support import armed_row, config, run, wait_until

OUTAGE_SECONDS = 7200.0
NEWCOMERS_P99_SECONDS = 15.0
MEMORY_MIB = 250.0


def memory_mib(process: Process) -> float:
    """Resident memory now."""
    status = Path(f"/proc/{process.popen.pid}/status").read_text("ascii")
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def chunks(count: int, size: int = 10_000) -> Iterator[range]:
    return (range(i, min(i + size, count)) for i in range(0, count, size))


async def fill(house: House, pool_redis: Redis, count: int) -> None:
    """What an outage leaves: rows and members, due over the last two hours."""
    first = time.time() - OUTAGE_SECONDS
    step = (OUTAGE_SECONDS - 60) / count
    tally = config("old", action="tally")
    for part in chunks(count):
        due = {run(f"old{i}"): first + i * step for i in part}
        rows = [armed_row(each, tally, first, deadline) for each, deadline in due.items()]
        async with house.app.ledger.engine.begin() as connection:
            await connection.execute(insert(ledger_table), rows)
        await pool_redis.zadd(
            house.settings.executing_pool, {each.run_id: at for each, at in due.items()}
        )
        await house.engine.hset(RUNNING, mapping={each.node_id: each.version for each in due})


async def test_two_hours_of_overdue_deadlines(house: House, pool_redis: Redis) -> None:
    count = scaled(10_000, 1_000_000)
    house.row.of(
        fault=f"two hours' outage, {count:,} overdue",
        tried="newcomers arriving all the time",
        times=1,
    )
    await fill(house, pool_redis, count)
    measure_scripts(house.app.pool._client)
    scanner, worker = [await house.spawn(role, measure=True) for role in ("scan", "worker")]
    began, highest = time.monotonic(), {"scan": 0.0, "worker": 0.0}
    newcomers = asyncio.create_task(arm_newcomers(house))
    try:
        while int(await house.engine.hlen(RUNNING)) > 100:
            highest["scan"] = max(highest["scan"], memory_mib(scanner))
            highest["worker"] = max(highest["worker"], memory_mib(worker))
            assert time.monotonic() - began < 60 + count / 200, "it does not get done"
            await asyncio.sleep(0.2)
    finally:
        newcomers.cancel()
        await asyncio.gather(newcomers, return_exceptions=True)
    seconds = time.monotonic() - began
    await wait_until(lambda: house.effect_count(count), 60)
    await house.settled(60)
    order = [int(each) for each in await house.engine.lrange(ORDER, 0, -1)]
    assert sorted(order) == list(range(count)), "each once"
    # A quarter of each claim is the newest; of the others the oldest half comes first.
    first_half = order[: count // 2]
    assert sum(i < count // 2 for i in first_half) > 0.7 * len(first_half), "oldest first"
    deadlines = {row.node_id: row.deadline or 0.0 for row in await house.rows_of("new")}
    late = sorted(
        event.at - deadlines[event.run.node_id]
        for event in await house.events()
        if event.kind is Kind.EFFECT
    )
    assert late, "no newcomer came during the backlog"
    p99 = late[math.ceil(len(late) * 0.99) - 1]
    figures = (
        f"{count / seconds:,.0f} nodes/s; newcomers: p99 {p99:.1f} s late; "
        f"memory: scanner {highest['scan']:.0f} MiB, worker {highest['worker']:.0f} MiB"
    )
    house.row.tried = figures
    house.row.tried += f"; {await house.assert_redis_was_not_held_up(pool_redis)}"
    assert p99 < house.allowed(NEWCOMERS_P99_SECONDS)
    assert max(highest.values()) < MEMORY_MIB
    assert int(await house.engine.get(EFFECTS) or 0) == count + len(late)
    await house.verdict()
    house.row.deadlines += count  # each of which had its effect once: see above


async def test_a_queue_that_nobody_reads_gets_few_messages(house: House) -> None:
    """Not even of the nodes that a killed worker had in hand."""
    count, seconds = 300, scaled(25, 120)
    house.row.of(
        fault="no worker for long",
        tried=f"{count} nodes, the worker killed in the middle; nobody reads for {seconds} s",
        times=1,
    )
    queue = f"{house.settings.dispatch_queue}.chaos"
    settings = changed(house.settings, handle_queues={"chaos": queue})
    await house.spawn("scan", settings=settings)
    await house.spawn("worker", "--queue", settings.dispatch_queue, settings=settings)
    handler = ("worker", "--queue", queue)
    die = {"at": "before engine.act", "nth": count // 2}
    doomed = await house.spawn(*handler, settings=settings, die=die)
    async with NodeTimeout(settings) as app:
        with house.outage():
            await house.arm(count, 1.0)
            assert await asyncio.to_thread(doomed.wait, 60) == -9
            await asyncio.sleep(seconds)
            waiting = (await app.exchange.depths())[queue]
        house.row.tried += f": {waiting} messages waited"
        # The waits double: 1.5, 3, 6 … seconds.
        rounds = 1 + math.log2(1 + seconds / settings.redispatch_after)
        assert waiting <= count * rounds
        await house.spawn(*handler, settings=settings)
        await wait_until(lambda: house.closed("n", count), 60)

        async def drained() -> bool:
            return not any((await app.exchange.depths()).values())

        await wait_until(drained, 60)
    await house.verdict()


async def arm_newcomers(house: House) -> None:
    for i in range(1_000_000):
        await house.arm(5, 1.0, prefix=f"new{i}_")
        await asyncio.sleep(0.2)
