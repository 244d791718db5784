"""Fault 8: a scanner and a worker are stopped past their lease, and continued."""

import asyncio
import signal

import pytest

from tests.chaos.house import WORKER_LEASE, House, scaled

FROZEN_SECONDS = WORKER_LEASE + 1


@pytest.mark.parametrize("role", ["scan", "worker"])
async def test_frozen_past_its_lease_while_another_goes_on(house: House, role: str) -> None:
    frozen = await house.spawn(role)
    await house.spawn("scan")
    await house.spawn("worker")
    times = scaled(1, 6)
    async with house.steadily(per_second=100, action="slow"):
        for _ in range(times):
            await asyncio.sleep(0.5 + house.random.random())
            with house.outage():
                frozen.popen.send_signal(signal.SIGSTOP)
                await asyncio.sleep(FROZEN_SECONDS)
                frozen.popen.send_signal(signal.SIGCONT)
            await asyncio.sleep(0.5)
    assert frozen.popen.poll() is None
    verdict = await house.verdict(late_seconds=8)
    house.report(
        verdict,
        fault=f"{role}: SIGSTOP past its lease, then SIGCONT",
        tried=f"for {FROZEN_SECONDS:g} s beside another one, in the middle of strategies",
        times=times,
    )


async def test_all_frozen_at_once(house: House) -> None:
    processes = [await house.spawn(role) for role in ("scan", "worker")]
    times = scaled(1, 6)
    async with house.steadily(per_second=100, action="slow"):
        for _ in range(times):
            await asyncio.sleep(0.5)
            with house.outage():
                for process in processes:
                    process.popen.send_signal(signal.SIGSTOP)
                await asyncio.sleep(FROZEN_SECONDS)
                for process in processes:
                    process.popen.send_signal(signal.SIGCONT)
    verdict = await house.verdict(late_seconds=8)
    house.report(
        verdict,
        fault="all processes: SIGSTOP past their leases",
        tried=f"for {FROZEN_SECONDS:g} s, as a host that sleeps",
        times=times,
    )
