"""Fault 11: a network that is cut, slow or half open between each pair, and heals."""

import asyncio

import pytest

from node_timeout import Settings
from tests.chaos.house import House, behind_proxy, scaled

PAIRS = [
    (role, store)
    for role in ("scan", "worker")
    for store in ("redis_url", "amqp_url", "database_url")
]
RECOVERED_SECONDS = 1.0


@pytest.mark.parametrize("fault", ["cut", "slow", "half open"])
@pytest.mark.parametrize(("role", "store"), PAIRS)
async def test_the_network_between_two(
    house: House,
    settings: Settings,
    role: str,
    store: str,
    fault: str,
) -> None:
    """Deadlines that fall due meanwhile are served within a second of the heal."""
    async with behind_proxy(settings, store) as (proxy, here):
        other = await house.spawn("worker" if role == "scan" else "scan")
        cut_off = await house.spawn(role, settings=here)
        await house.arm(5, 0.1, prefix="before")
        await house.settled()
        for i in range(scaled(1, 3)):
            with house.outage():
                match fault:
                    case "cut":
                        proxy.cut()
                    case "slow":
                        proxy.delay = 0.3
                    case "half open":
                        proxy.half_open()
                await house.arm(20, 0.5, prefix=f"during{i}_")
                await asyncio.sleep(2.5)
                proxy.heal()
            await house.settled()
        assert other.popen.poll() is None
        assert cut_off.popen.poll() is None
        verdict = await house.verdict(late_seconds=RECOVERED_SECONDS)
        house.report(
            verdict,
            fault=f"network {fault}: {role} and {store.removesuffix('_url')}",
            tried="for 3 s, with deadlines falling due",
            times=scaled(1, 3),
        )
