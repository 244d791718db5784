"""Fault 1: a process is killed on each line between two side effects, and at random."""

import asyncio
import signal
import time
from functools import partial
from pathlib import Path

import aio_pika
import nt_faults
import pytest
from redis.asyncio import Redis

from node_timeout import Settings
from tests.chaos.house import House, changed, scaled
from tests.chaos.results import Row
from tests.servers import RedisServer
from tests.support import gone, wait_until


def around(*calls: str) -> list[str]:
    """A failpoint before and one after each call."""
    return [f"{when} {call}" for call in calls for when in ("before", "after")]


SCANNER = around(
    *("exchange.ensure", "shard.claim", "exchange.publish", "shard.finish"),
    *("shard.release", "exchange.dead_letter"),
)
OF_THE_RECONCILER = (
    "pool.lead",
    "pool.may_have_lost_data",
    "ledger.open_runs",
    "pool.behind",
    "pool.lower",
    "ledger.expired_runs",
    "pool.mark_reconciled",
    "ledger.purgeable",
    "pool.disarm",
    "ledger.purge",
)
OF_THE_PURGE = ("pool.disarm", "ledger.purge")
RECONCILER = around(*OF_THE_RECONCILER)
GARBAGE = ["garbage0", "garbage1", "garbage2"]
WORKER = around(
    "consumer.get",
    "ledger.adopt",
    "ledger.take",
    "ledger.owners",
    "engine.is_running",
    "engine.act",
    "ledger.record",
    "pool.put_back",
    "delivery.ack",
)
# It sends each node on to a handle queue, which another one serves.
FORWARDER = around("consumer.get", "ledger.actions", "exchange.publish", "delivery.ack")
HANDLER = around("consumer.get", "ledger.take", "engine.act", "ledger.record", "delivery.ack")
ROLES = {
    "scanner": ("scan", SCANNER),
    "reconciler": ("scan", RECONCILER),
    "worker": ("worker", WORKER),
    "forwarding worker": ("worker", FORWARDER),
    "handling worker": ("worker", HANDLER),
}


def test_each_of_these_calls_is_wrapped() -> None:
    points = {point.partition(" ")[2] for _, points in ROLES.values() for point in points}
    known = {f"{port}.{name}" for port, (_, names) in nt_faults.PORTS.items() for name in names}
    assert points <= known | {"engine.is_running", "engine.act"}


@pytest.mark.parametrize("role", ROLES)
async def test_killed_at_each_step_of_the_protocol(
    settings: Settings,
    engine_server: RedisServer,
    tmp_path: Path,
    pool_redis: Redis,
    row: Row,
    role: str,
) -> None:
    """One life of the process a failpoint, with deadlines falling due all the time."""
    command, points = ROLES[role]
    seldom = (*RECONCILER, *around("shard.release", "exchange.dead_letter", "ledger.adopt"))
    row.of(
        fault=f"{role}: kill -9 at a step",
        tried=f"{len(points)} failpoints, a life each, deadlines falling due all the time",
        times=len(points) * scaled(1, 3),
    )
    queue = f"{settings.dispatch_queue}.chaos"
    queues: tuple[str, ...] = ()
    if role in ("forwarding worker", "handling worker"):
        settings = changed(settings, handle_queues={"chaos": queue})
        queues = ("--queue", settings.dispatch_queue)
        if role == "handling worker":
            queues = ("--queue", queue)
    async with House(settings, engine_server.url, tmp_path, row) as house:
        await house.spawn("worker" if command == "scan" else "scan")
        if queues:
            other = queue if role == "forwarding worker" else settings.dispatch_queue
            await house.spawn("worker", "--queue", other)
        with house.outage():
            async with house.steadily():
                for i, point in enumerate(points * scaled(1, 3)):
                    await lead_to(house, pool_redis, point, i)
                    doomed = await house.spawn(
                        command,
                        *queues,
                        die={"at": point, "nth": 1 if point in seldom else 2},
                        # So that there is something to be tried again, and to be released.
                        refuse={"engine": 0.2, "exchange": 0.5 if "release" in point else 0.0},
                        ready="",
                    )
                    print(point)
                    assert await asyncio.to_thread(doomed.wait, 60) == -9, point
        await house.spawn(command, *queues)
        await drop_garbage(house, pool_redis)
        await wait_until(partial(_all_purged, house), 30)
        await house.verdict(late_seconds=10)


async def lead_to(house: House, pool_redis: Redis, point: str, number: int) -> None:
    """Make that the process comes to this failpoint."""
    if "dead_letter" in point:
        await pool_redis.zadd(house.settings.executing_pool, dict.fromkeys(GARBAGE, 1.0))
    elif "adopt" in point:
        await house.fill_pool(pool_redis, f"foreign{number}", 0.2)
    elif point.partition(" ")[2] in OF_THE_RECONCILER:
        await pool_redis.flushall()
    if point.partition(" ")[2] in OF_THE_PURGE:
        now = time.time()
        past = now - 2 * house.settings.cancelled_retention
        leaving = gone(f"past{number}", "v1", happened_at=past, remember=True)
        await house.app.ledger.disarm([leaving], now)
        assert await house.rows_of("past")


async def _all_purged(house: House) -> bool:
    return not await house.rows_of("past")


async def drop_garbage(house: House, pool_redis: Redis) -> None:
    """What names no node run is put aside; it is no business of the promises."""
    pool = house.settings.executing_pool

    async def all_put_aside() -> bool:
        return not any(await pool_redis.zmscore(pool, GARBAGE))

    await wait_until(all_put_aside, 30)
    async with await aio_pika.connect(house.settings.amqp_url.get_secret_value()) as connection:
        channel = await connection.channel()
        queue = await channel.get_queue(f"{house.settings.dispatch_queue}.dead")
        await queue.purge()


async def test_stopped_in_an_outage_and_killed_while_it_gives_back(house: House) -> None:
    """A worker that cannot reach the database has messages in its hands when it is told to stop."""
    points = around("delivery.requeue")
    times = len(points) * scaled(1, 3)
    house.row.of(
        fault="stopping worker: kill -9 at a step",
        tried=f"{len(points)} failpoints, told to stop while the database is away",
        times=times,
    )
    await house.spawn("scan")
    with house.outage():
        async with house.steadily():
            for point in points * scaled(1, 3):
                doomed = await house.spawn("worker", die={"at": point}, refuse={"ledger": 1.0})
                await asyncio.to_thread(doomed.wait_for, "a planted fault: ledger.take")
                doomed.popen.send_signal(signal.SIGTERM)
                assert await asyncio.to_thread(doomed.wait, 60) == -9, point
    await house.spawn("worker")
    await house.verdict(late_seconds=10)
    assert await house.arrived_twice(), "it had nothing in its hands"
