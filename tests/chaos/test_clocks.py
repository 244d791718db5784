"""Fault 12: clocks of hosts that are an hour off, and a Redis whose own clock steps."""

import asyncio
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from nt_chaos import RUNNING

from node_timeout import Settings
from tests.chaos.history import Kind
from tests.chaos.house import PLANTED, House, changed, scaled
from tests.chaos.results import Row
from tests.servers import RedisServer
from tests.support import config

HOUR = 3600.0
KNOWN_SECONDS = 2.5
"""Everybody has asked Redis for the time since it stepped."""
MANY_CLAIMS = 10
"""A run that is claimed so often goes round in circles."""


@pytest.mark.parametrize("off", [-HOUR, HOUR])
@pytest.mark.parametrize("host", ["scan", "worker"])
async def test_a_hosts_clock_is_an_hour_off(house: House, host: str, off: float) -> None:
    for role in ("scan", "worker"):
        await house.spawn(role, clock=off if role == host else 0.0)
    count = scaled(100, 2000)
    house.row.of(fault=f"clock of a {host} host", tried=f"{off / HOUR:+g} h", times=1)
    async with house.steadily(per_second=100):
        await house.until_armed(count)
    await house.verdict(late_seconds=3)


@pytest.mark.parametrize("off", [-HOUR, HOUR])
async def test_an_engine_hosts_clock_is_an_hour_off(house: House, off: float) -> None:
    """It arms through the library: deadlines count from the instant of the call, by Redis."""
    await house.spawn("scan")
    await house.spawn("worker")
    nodes = [f"n{i}" for i in range(scaled(50, 500))]
    house.row.of(fault="clock of an engine's host", tried=f"{off / HOUR:+g} h", times=1)
    configs = [config(each, 1.0, "chaos") for each in nodes]
    await house.app.ledger.save_configs(configs, [])
    await house.engine.hset(RUNNING, mapping=dict.fromkeys(nodes, "v1"))
    command = [sys.executable, str(PLANTED / "nt_arm.py"), "1.0", *nodes]
    armer = await house.spawn("arm", command=command, ready="", clock=off)
    assert await asyncio.to_thread(armer.wait) == 0, armer.output
    verdict = await house.verdict(late_seconds=3)
    assert verdict.armed == len(nodes)


STEPPED_CLOCK = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    static int (*real)(struct timeval *, void *);
    long off = 0;
    FILE *file = fopen(getenv("CLOCK_FILE"), "r");
    if (file) {
        if (fscanf(file, "%ld", &off) != 1) off = 0;
        fclose(file);
    }
    if (!real) real = dlsym(RTLD_NEXT, "gettimeofday");
    int result = real(now, zone);
    now->tv_sec += off;
    return result;
}
"""


class SteppingRedis(RedisServer):
    """A Redis whose wall clock steps at a word; the monotonic one does not."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        source, library = self.directory / "clock.c", self.directory / "clock.so"
        source.write_text(STEPPED_CLOCK)
        subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
        self._file = self.directory / "clock"
        self.step(0)
        self.environment |= {"LD_PRELOAD": str(library), "CLOCK_FILE": str(self._file)}

    def step(self, seconds: float) -> None:
        """Let its clock be off by this much from now on."""
        self._file.write_text(f"{seconds:.0f}")


async def test_redis_clock_steps_forth_and_back(
    settings: Settings, engine_server: RedisServer, tmp_path: Path, row: Row
) -> None:
    """What falls due by a step fires, once; what a step puts off waits; nobody spins."""
    times = scaled(1, 3)
    row.of(
        fault="clock of Redis steps",
        tried="an hour forth and back, twice each time",
        times=4 * times,
    )
    with SteppingRedis(tmp_path) as server:
        async with House(
            changed(settings, redis_url=server.url), engine_server.url, tmp_path, row
        ) as house:
            await house.spawn("scan")
            await house.spawn("worker")
            for i in range(times):
                soon = await house.arm(50, 1.0, prefix=f"soon{i}_")
                await house.settled()
                await house.arm(50, HOUR - 60, prefix=f"far{i}_")
                server.step(HOUR)
                await house.settled()
                await asyncio.sleep(KNOWN_SECONDS)
                await house.arm(50, 1.0, prefix=f"ahead{i}_")
                await house.settled()
                await house.arm(50, 1.0, prefix=f"put_off{i}_")
                server.step(0)
                # An hour off by the clock that rules: it is not due, and nobody says it is.
                await asyncio.sleep(3)
                done = {event.run for event in await house.events() if event.kind is Kind.EFFECT}
                assert done >= set(soon)
                assert not any(run.node_id.startswith(f"put_off{i}_") for run in done)
                server.step(HOUR)
                await house.settled()
                server.step(0)
                await asyncio.sleep(KNOWN_SECONDS)
            await house.verdict(shared_clock=False)
            claims = Counter(
                event.run for event in await house.events() if event.kind is Kind.CLAIMED
            )
            assert max(claims.values()) < MANY_CLAIMS, claims.most_common(3)
