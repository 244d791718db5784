"""Fault 3: calls of each store and of the engine that took effect, and timed out all the same."""

import pytest

from tests.chaos.house import House, scaled

PORTS = {
    "Redis": ("shard", "pool"),
    "RabbitMQ": ("exchange",),
    "the database": ("ledger",),
    "the engine": ("engine",),
    "everything": ("shard", "pool", "exchange", "ledger", "engine"),
}


@pytest.mark.parametrize("share", [0.01, 0.2])
@pytest.mark.parametrize("which", PORTS)
async def test_answers_are_lost(house: House, which: str, share: float) -> None:
    house.row.of(
        fault=f"{which}: calls that time out",
        tried=f"{share:.0%} of all calls took effect, and their answers were lost",
        times=scaled(400, 3000),
    )
    lose = dict.fromkeys(PORTS[which], share)
    processes = [await house.spawn(role, lose=lose) for role in ("scan", "worker")]
    with house.outage():
        async with house.steadily(per_second=200):
            await house.until_armed(scaled(400, 3000))
    # With a fifth of everything lost the breaker rests at times, for seconds.
    await house.verdict(late_seconds=60 if share > 0.1 else 15)
    assert all(process.popen.poll() is None for process in processes)


@pytest.mark.parametrize("share", [0.01, 0.2])
async def test_answers_to_the_load_are_lost(house: House, share: float) -> None:
    """Armed or disarmed, and told that it was not: the engine's side asks again."""
    house.row.of(
        fault="arming and disarming: calls that time out",
        tried=f"{share:.0%} of all calls took effect, and their answers were lost",
        times=scaled(400, 3000),
    )
    for role in ("scan", "worker"):
        await house.spawn(role)
    house.lose_answers_to_the_load(share)
    with house.outage():
        async with house.steadily(per_second=200):
            await house.until_armed(scaled(400, 3000))
    await house.verdict(late_seconds=15)
    assert house.armed
