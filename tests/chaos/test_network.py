"""Fault 11: a network that is cut, slow or half open between each pair, and heals."""

import asyncio
from pathlib import Path

import pytest

from node_timeout import Settings
from tests.chaos.house import House, behind_proxy, scaled
from tests.chaos.proxy import Proxy
from tests.chaos.results import Row
from tests.servers import RedisServer

PAIRS = [
    (role, store)
    for role in ("scan", "worker")
    for store in ("redis_url", "amqp_url", "database_url")
]
FAULTS = ("cut", "slow", "half open")
RECOVERED_SECONDS = 1.0
RESTED_SECONDS = 12.0


def strike(proxy: Proxy, fault: str) -> None:
    match fault:
        case "cut":
            proxy.cut()
        case "slow":
            proxy.delay = 0.3
        case "half open":
            proxy.half_open()


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(("role", "store"), PAIRS)
async def test_the_network_between_two(
    house: House,
    settings: Settings,
    role: str,
    store: str,
    fault: str,
) -> None:
    """Deadlines that fall due meanwhile are served within a second of the heal."""
    times = scaled(1, 3)
    house.row.of(
        fault=f"network {fault}: {role} and {store.removesuffix('_url')}",
        tried="for 3 s, with deadlines falling due",
        times=times,
    )
    async with behind_proxy(settings, store) as (proxy, here):
        other = await house.spawn("worker" if role == "scan" else "scan")
        cut_off = await house.spawn(role, settings=here)
        await house.arm(5, 0.1, prefix="before")
        await house.settled()
        for i in range(times):
            with house.outage():
                strike(proxy, fault)
                await house.arm(20, 0.5, prefix=f"during{i}_")
                await asyncio.sleep(2.5)
                proxy.heal()
            await house.settled()
        assert other.popen.poll() is None
        assert cut_off.popen.poll() is None
        await house.verdict(late_seconds=RECOVERED_SECONDS)


@pytest.mark.parametrize("fault", FAULTS)
async def test_the_network_between_a_worker_and_the_engine(
    house: House, engine_server: RedisServer, fault: str
) -> None:
    """The circuit may stay open for a while after the engine is back."""
    times = scaled(1, 3)
    house.row.of(
        fault=f"network {fault}: worker and engine",
        tried="for 3 s, with deadlines falling due",
        times=times,
    )
    async with Proxy(engine_server.port) as proxy:
        await house.spawn("scan")
        await house.spawn("worker", engine_url=proxy.url(engine_server.url))
        await house.arm(5, 0.1, prefix="before")
        await house.settled()
        for i in range(times):
            with house.outage():
                strike(proxy, fault)
                await house.arm(20, 0.5, prefix=f"during{i}_")
                await asyncio.sleep(2.5)
                proxy.heal()
            await house.settled()
        await house.verdict(late_seconds=RESTED_SECONDS)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("store", ["redis_url", "database_url"])
async def test_the_network_between_the_load_and_a_store(
    settings: Settings,
    engine_server: RedisServer,
    tmp_path: Path,
    row: Row,
    store: str,
    fault: str,
) -> None:
    """What could not be armed in the pool is in the ledger, and the reconciler finds it there."""
    times = scaled(1, 3)
    row.of(
        fault=f"network {fault}: the engine's host and {store.removesuffix('_url')}",
        tried="for 2.5 s, while it arms and disarms",
        times=times,
    )
    async with (
        behind_proxy(settings, store) as (proxy, here),
        House(here, engine_server.url, tmp_path, row) as house,
    ):
        await house.spawn("scan", settings=settings)
        await house.spawn("worker", settings=settings)
        async with house.steadily(per_second=50):
            for _ in range(times):
                await asyncio.sleep(0.5)
                with house.outage():
                    strike(proxy, fault)
                    await asyncio.sleep(2.5)
                    proxy.heal()
                await asyncio.sleep(2)
        await house.verdict(late_seconds=RESTED_SECONDS)
