"""Fault 8: a scanner and a worker are stopped past their lease, and continued."""

import asyncio
import signal

import pytest

from node_timeout.domain.run import NodeRun
from tests.acceptance.conftest import Process
from tests.chaos.history import Kind
from tests.chaos.house import WORKER_LEASE, House, halted, scaled
from tests.support import wait_until

FROZEN_SECONDS = WORKER_LEASE + 1
# Where, and each how manieth time.
HOLDING = {"scan": ("before exchange.publish", 20), "worker": ("before engine.act", 100)}


@pytest.mark.parametrize("role", ["scan", "worker"])
async def test_frozen_past_its_lease_while_another_goes_on(house: House, role: str) -> None:
    """It stops itself with work in its hands: claimed and unpublished, or a call under way."""
    times = scaled(1, 6)
    point, every = HOLDING[role]
    house.row.of(
        fault=f"{role}: SIGSTOP past its lease, then SIGCONT",
        tried=f"for {FROZEN_SECONDS:g} s beside another one, {point}",
        times=times,
    )
    frozen = await house.spawn(role, halt={"at": point, "every": every})
    await house.spawn("scan")
    await house.spawn("worker")
    async with house.steadily(per_second=100, action="slow"):
        for _ in range(times):
            await wait_until(lambda: halted(frozen), 60)
            with house.outage():
                assert await held_by(house, frozen, role), "nothing was in its hands"
                await asyncio.sleep(FROZEN_SECONDS)
                frozen.popen.send_signal(signal.SIGCONT)
            await asyncio.sleep(0.5)
        frozen.kill()  # it would stop once more
    await house.verdict(late_seconds=8)


async def held_by(house: House, process: Process, role: str) -> set[NodeRun]:
    """What it has claimed and not published, or called and not ended, by the history."""
    begun, ended = (
        (Kind.CLAIMED, Kind.PUBLISHED) if role == "scan" else (Kind.CALLED, Kind.RETURNED)
    )
    held: set[NodeRun] = set()
    for event in await house.events():
        if event.process == house.name_of(process):
            if event.kind is begun:
                held.add(event.run)
            elif event.kind is ended:
                held.discard(event.run)
    return held


async def test_all_frozen_at_once(house: House) -> None:
    times = scaled(1, 6)
    house.row.of(
        fault="all processes: SIGSTOP past their leases",
        tried=f"for {FROZEN_SECONDS:g} s, as a host that sleeps",
        times=times,
    )
    processes = [await house.spawn(role) for role in ("scan", "worker")]
    async with house.steadily(per_second=100, action="slow"):
        for _ in range(times):
            await asyncio.sleep(0.5)
            with house.outage():
                for process in processes:
                    process.popen.send_signal(signal.SIGSTOP)
                await asyncio.sleep(FROZEN_SECONDS)
                for process in processes:
                    process.popen.send_signal(signal.SIGCONT)
    await house.verdict(late_seconds=8)
