"""Fault 1, at random. It counts how late deadlines are, so it is alone on the machine."""

import asyncio

from tests.chaos.house import House, scaled


async def test_killed_at_random_under_load(house: House) -> None:
    lives = scaled(8, 40)
    house.row.of(
        fault="scanner and worker: kill -9 at random",
        tried="200 deadlines a second, both killed within 1 s of their start",
        times=2 * lives,
    )
    rng = house.random
    with house.outage():
        async with house.steadily(per_second=200):
            for _ in range(lives):
                # Started, however slow the machine: a process that is still loading has nothing
                # in its hands.
                processes = [await house.spawn("scan"), await house.spawn("worker")]
                await asyncio.sleep(rng.random())
                for process in rng.sample(processes, 2):
                    process.kill()
    await house.spawn("scan")
    await house.spawn("worker")
    await house.verdict(late_seconds=10)
