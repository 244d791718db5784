"""Fault 1: a process is killed on each line between two side effects, and at random."""

import asyncio

import nt_faults
import pytest
from redis.asyncio import Redis

from tests.chaos.house import House, scaled


def around(*calls: str) -> list[str]:
    """A failpoint before and one after each call."""
    return [f"{when} {call}" for call in calls for when in ("before", "after")]


SCANNER = around("exchange.ensure", "shard.claim", "exchange.publish", "shard.finish")
RECONCILER = around(
    "pool.lead",
    "pool.may_have_lost_data",
    "ledger.open_runs",
    "pool.absent",
    "pool.arm",
    "ledger.expired_runs",
    "pool.mark_reconciled",
    "ledger.purge",
)
WORKER = around(
    "consumer.get",
    "ledger.take",
    "engine.is_running",
    "engine.act",
    "ledger.record",
    "pool.rearm",
    "delivery.ack",
)
ROLES = {
    "scanner": ("scan", SCANNER),
    "reconciler": ("scan", RECONCILER),
    "worker": ("worker", WORKER),
}


def test_each_of_these_calls_is_wrapped() -> None:
    points = {point.partition(" ")[2] for point in (*SCANNER, *RECONCILER, *WORKER)}
    known = {f"{port}.{name}" for port, (_, names) in nt_faults.PORTS.items() for name in names}
    assert points <= known | {"engine.is_running", "engine.act"}


@pytest.mark.parametrize("role", ROLES)
async def test_killed_at_each_step_of_the_protocol(
    house: House, pool_redis: Redis, role: str
) -> None:
    """One life of the process a failpoint, with deadlines falling due all the time."""
    command, points = ROLES[role]
    await house.spawn("worker" if command == "scan" else "scan")
    with house.outage():
        async with house.steadily():
            for point in points * scaled(1, 3):
                if role == "reconciler":
                    await pool_redis.flushall()
                doomed = await house.spawn(
                    command,
                    die={"at": point, "nth": 1 if role == "reconciler" else 2},
                    lose={"engine": 0.2},  # so that there is something to be tried again
                    ready="",
                )
                assert await asyncio.to_thread(doomed.wait) == -9, point
    await house.spawn(command)
    verdict = await house.verdict(late_seconds=10)
    house.report(
        verdict,
        fault=f"{role}: kill -9 at a step",
        tried=f"{len(points)} failpoints, a life each, deadlines falling due all the time",
        times=len(points) * scaled(1, 3),
    )


async def test_killed_at_random_under_load(house: House) -> None:
    lives = scaled(8, 40)
    rng = house.random
    with house.outage():
        async with house.steadily(per_second=200):
            for _ in range(lives):
                processes = [
                    await house.spawn("scan", ready=""),
                    await house.spawn("worker", ready=""),
                ]
                await asyncio.sleep(1.0 + rng.random())
                for process in rng.sample(processes, 2):
                    process.kill()
    await house.spawn("scan")
    await house.spawn("worker")
    verdict = await house.verdict(late_seconds=10)
    house.report(
        verdict,
        fault="scanner and worker: kill -9 at random",
        tried="200 deadlines a second, both killed every 1 to 2 s",
        times=2 * lives,
    )
