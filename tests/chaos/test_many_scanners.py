"""Many scanners at one instant. They take the whole machine, so no other lateness counts then."""

import time

from nt_faults import measure_scripts
from redis.asyncio import Redis

from tests.chaos.house import House, changed, scaled
from tests.support import wait_until


async def test_many_scanners_and_many_nodes_due_at_one_instant(
    house: House, pool_redis: Redis
) -> None:
    """No node is published to two strategies, and Redis is never held up."""
    scanners, count = scaled(4, 10), scaled(4_000, 100_000)
    house.row.of(
        fault=f"{scanners} scanners, {count:,} nodes due at one instant", tried="", times=1
    )
    # Nobody dies here, and calls take their time when so many are at work.
    patient = changed(house.settings, strategy_timeout=20)
    measure_scripts(house.app.pool._client)
    await house.spawn("worker", settings=patient, lease=60, measure=True)
    await house.spawn("worker", settings=patient, lease=60, measure=True)
    instant = time.time() + scaled(5, 60)
    for i in range(count // 500):
        await house.arm(500, instant - time.time(), prefix=f"b{i}_")
    for _ in range(scanners):
        await house.spawn("scan", measure=True)
    with house.outage():
        await wait_until(lambda: house.effect_count(count), 600)
    verdict = await house.verdict()
    assert verdict.repeated_calls == 0
    house.row.tried = await house.assert_redis_was_not_held_up(pool_redis)
