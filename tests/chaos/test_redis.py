"""Faults 2 and 4: Redis restarts, forgets, stalls and is full; ten scanners at one instant."""

import asyncio
import shutil
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from redis.asyncio import Redis

from node_timeout import Settings
from tests.chaos.house import House, changed, halted, scaled
from tests.chaos.results import Row
from tests.servers import RedisServer
from tests.support import wait_until

PAUSED_SECONDS = 4.0


async def restarted(server: RedisServer, _: Redis) -> None:
    """All data is gone: nothing is on disk."""
    server.kill()
    await asyncio.to_thread(server.start)


async def flushed(_: RedisServer, redis: Redis) -> None:
    await redis.flushall()


async def scripts_flushed(_server: RedisServer, redis: Redis) -> None:
    for _ in range(50):
        await redis.script_flush()
        await asyncio.sleep(0.02)


async def clients_killed(_: RedisServer, redis: Redis) -> None:
    for kind in ("normal", "pubsub") * 20:
        await redis.client_kill_filter(_type=kind, skipme=True)
        await asyncio.sleep(0.05)


async def paused(_: RedisServer, redis: Redis) -> None:
    """Longer than the lease of a claim."""
    await redis.client_pause(int(PAUSED_SECONDS * 1000), all=True)
    await asyncio.sleep(PAUSED_SECONDS)


async def restored_from_a_snapshot(server: RedisServer, redis: Redis) -> None:
    """What was armed since is missing, and what was done since is back."""
    await redis.save()
    snapshot, kept = server.data / "dump.rdb", server.directory / "old.rdb"
    shutil.copy(snapshot, kept)
    await asyncio.sleep(1.5)
    server.kill()
    shutil.copy(kept, snapshot)
    await asyncio.to_thread(server.start)
    snapshot.unlink()


async def full(_: RedisServer, redis: Redis) -> None:
    """Out of memory: arming is refused, claiming is not."""
    await redis.config_set("maxmemory", "1")
    await asyncio.sleep(2)
    await redis.config_set("maxmemory", "0")


async def readonly(server: RedisServer, redis: Redis) -> None:
    """It is told to follow another, as by a failover by hand."""
    await redis.replicaof("127.0.0.1", str(server.port + 1))
    await asyncio.sleep(2)
    await redis.replicaof("NO", "ONE")


FAULTS: dict[str, tuple[Callable[[RedisServer, Redis], Awaitable[None]], str]] = {
    "kill -9, all data lost": (restarted, "under load"),
    "FLUSHALL": (flushed, "under load"),
    "SCRIPT FLUSH": (scripts_flushed, "50 times in a second, under load"),
    "CLIENT KILL": (clients_killed, "20 times in 2 s, under load"),
    "CLIENT PAUSE beyond the lease": (paused, f"for {PAUSED_SECONDS:g} s, under load"),
    "restored from an old snapshot": (restored_from_a_snapshot, "1.5 s old, under load"),
    "out of memory": (full, "for 2 s, under load"),
    "read-only": (readonly, "for 2 s, under load"),
}


@pytest.mark.parametrize("name", FAULTS)
async def test_redis_fails_under_load(
    house: House, pool_server: RedisServer, pool_redis: Redis, name: str
) -> None:
    fault, tried = FAULTS[name]
    times = scaled(1, 3)
    house.row.of(fault=f"Redis: {name}", tried=tried, times=times)
    await house.spawn("scan")
    await house.spawn("worker")
    async with house.steadily(per_second=100):
        for _ in range(times):
            with house.outage():
                await fault(pool_server, pool_redis)
            await asyncio.sleep(1)
    # What Redis refused to arm is in the ledger, and overdue by the time the reconciler looks.
    await house.verdict(late_seconds=8)


async def test_killed_between_claim_and_finish_with_its_data_on_disk(
    settings: Settings, engine_server: RedisServer, tmp_path: Path, row: Row
) -> None:
    """The scanner is halted with a claim in its hands, and finds another Redis when it goes on."""
    times = scaled(2, 10)
    row.of(
        fault="Redis: kill -9 between claim and finish, data on disk",
        tried="under load, the scanner halted behind its claim meanwhile",
        times=times,
    )
    with RedisServer(tmp_path, append_only=True) as server:
        here = changed(settings, redis_url=server.url)
        async with House(here, engine_server.url, tmp_path, row) as own:
            scanner = await own.spawn("scan", halt={"at": "before exchange.publish", "every": 20})
            await own.spawn("worker")
            async with own.steadily(per_second=100):
                for _ in range(times):
                    await wait_until(lambda: halted(scanner), 60)
                    with own.outage():
                        server.kill()
                        await asyncio.to_thread(server.start)
                        scanner.popen.send_signal(signal.SIGCONT)
                scanner.kill()
                await own.spawn("scan")
            await own.verdict(late_seconds=8)


async def test_killed_at_random_with_its_data_on_disk(
    settings: Settings, engine_server: RedisServer, tmp_path: Path, row: Row
) -> None:
    times = scaled(2, 10)
    row.of(fault="Redis: kill -9, data on disk", tried="at random instants under load", times=times)
    with RedisServer(tmp_path, append_only=True) as server:
        here = changed(settings, redis_url=server.url)
        async with House(here, engine_server.url, tmp_path, row) as own:
            await own.spawn("scan")
            await own.spawn("worker")
            async with own.steadily(per_second=100):
                for _ in range(times):
                    with own.outage():
                        await asyncio.sleep(own.random.random())
                        server.kill()
                        await asyncio.to_thread(server.start)
            await own.verdict(late_seconds=8)


async def test_an_eviction_policy_that_loses_deadlines_is_warned_of(
    house: House, pool_redis: Redis
) -> None:
    house.row.of(
        fault="Redis: an eviction policy that loses deadlines", tried="warned of at start", times=1
    )
    await pool_redis.config_set("maxmemory-policy", "allkeys-lru")
    try:
        process = await house.spawn("scan")
        assert "maxmemory-policy is allkeys-lru" in process.output
    finally:
        await pool_redis.config_set("maxmemory-policy", "noeviction")
    await house.verdict()
