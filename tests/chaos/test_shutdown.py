"""Fault 15: SIGTERM under load ends cleanly, in time, and makes nobody do anything twice."""

import asyncio
import time

from tests.acceptance.conftest import Process
from tests.chaos.house import House, scaled

TIME_LIMIT = 5.0
"""A strategy takes 0.05 s here: what is in flight ends long before `shutdown_timeout`."""
PATIENCE = 20.0
"""A machine that stands still for a second is no fault of a stop: no strategy times out for it."""


async def test_stopped_and_replaced_under_load(house: House) -> None:
    times = scaled(4, 20)
    house.row.of(fault="SIGTERM to scanner and worker", tried="under load", times=2 * times)
    slowest = 0.0
    patient = house.settings.model_copy(update={"strategy_timeout": PATIENCE})

    async def spawned() -> tuple[Process, Process]:
        worker = await house.spawn("worker", settings=patient, lease=2 * PATIENCE)
        return await house.spawn("scan"), worker

    scanner, worker = await spawned()
    async with house.steadily(per_second=100, action="slow"):
        for _ in range(times):
            await asyncio.sleep(0.5 + house.random.random())
            with house.outage():
                for process in (scanner, worker):
                    began = time.monotonic()
                    assert await asyncio.to_thread(process.stop) == 0
                    slowest = max(slowest, time.monotonic() - began)
                    assert "stopped" in process.output
                counts = await house.app.ledger.counts(await house.app.pool.now())
                assert counts.executing == 0, "a clean stop leaves nothing half done"
                scanner, worker = await spawned()
    verdict = await house.verdict(late_seconds=10)
    assert verdict.repeated_calls == 0, "nobody was called twice"
    assert slowest < TIME_LIMIT
    assert await house.arrived_twice() == 0, "no message came twice"
    house.row.tried = f"under load, nothing redelivered; the slowest took {slowest:.1f} s"
