"""Fault 16: a steady load and random faults of all kinds, for as long as it is told.

CHAOS_SECONDS   how long; without it the test is left out
CHAOS_SEED      of a run that is to be repeated; a run prints its own
"""

import asyncio
import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import pytest
from redis.asyncio import Redis

from node_timeout import Settings
from node_timeout.adapters.rabbit_exchange import RabbitExchange
from tests.acceptance.conftest import Process
from tests.chaos.house import House, behind_proxy
from tests.chaos.proxy import Proxy
from tests.chaos.test_backlog import memory_mib
from tests.chaos.test_database import Database
from tests.chaos.test_rabbitmq import Broker
from tests.chaos.test_redis import clients_killed, flushed, full, restarted, scripts_flushed
from tests.integration.test_rabbit import declared_for_good
from tests.servers import PostgresServer, RabbitServer, RedisServer
from tests.support import wait_until

SECONDS = float(os.environ.get("CHAOS_SECONDS", "0"))
PER_SECOND = 40
QUIET_SECONDS = 1.5
LATE_SECONDS = 30.0
GROWTH_MIB = 40.0
PROXIED = ("redis_url", "amqp_url", "database_url")

pytestmark = pytest.mark.skipif(not SECONDS, reason="make chaos, make chaos-long")


@dataclass(slots=True, kw_only=True)
class Town:
    """All that a fault may strike."""

    house: House
    settings: Settings
    """Of the processes: by way of the proxies."""
    redis: Redis
    redis_server: RedisServer
    broker: Broker
    database: Database
    proxies: list[Proxy]
    processes: dict[str, Process] = field(default_factory=dict)

    async def keep_up(self) -> None:
        """Start what is not there: two of each role, as a supervisor does."""
        for name in ("scan 0", "scan 1", "worker 0", "worker 1"):
            process = self.processes.get(name)
            if process is None or process.popen.poll() is not None:
                lose = dict.fromkeys(("shard", "pool", "exchange", "ledger", "engine"), 0.01)
                self.processes[name] = await self.house.spawn(
                    name.split()[0], settings=self.settings, lose=lose, ready=""
                )

    def one_of_them(self) -> Process:
        return self.processes[self.house.random.choice(sorted(self.processes))]


async def killed(town: Town) -> None:
    town.one_of_them().kill()


async def terminated(town: Town) -> None:
    process = town.one_of_them()
    process.popen.send_signal(signal.SIGTERM)
    code = await asyncio.to_thread(process.wait, 60)
    assert code == 0, process.output[-2000:]


async def frozen(town: Town) -> None:
    process = town.one_of_them()
    process.popen.send_signal(signal.SIGSTOP)
    await asyncio.sleep(4)
    process.popen.send_signal(signal.SIGCONT)


async def cut(town: Town) -> None:
    proxy = town.house.random.choice(town.proxies)
    proxy.cut()
    await asyncio.sleep(2)
    proxy.heal()


async def half_open(town: Town) -> None:
    proxy = town.house.random.choice(town.proxies)
    proxy.half_open()
    await asyncio.sleep(3)
    proxy.heal()


async def mute(town: Town) -> None:
    proxy = town.house.random.choice(town.proxies)
    proxy.mute()
    await asyncio.sleep(3)
    proxy.heal()


async def slow(town: Town) -> None:
    proxy = town.house.random.choice(town.proxies)
    proxy.delay = 0.1
    await asyncio.sleep(2)
    proxy.heal()


def of_redis(fault: Callable[[RedisServer, Redis], Awaitable[None]]) -> "Fault":
    async def strike(town: Town) -> None:
        await fault(town.redis_server, town.redis)

    return strike


def of_rabbitmq(fault: Callable[[Broker], Awaitable[None]]) -> "Fault":
    async def strike(town: Town) -> None:
        await fault(town.broker)

    return strike


def of_the_database(fault: Callable[[Database], Awaitable[None]]) -> "Fault":
    async def strike(town: Town) -> None:
        await fault(town.database)

    return strike


Fault = Callable[[Town], Awaitable[None]]
FAULTS: dict[str, Fault] = {
    "kill -9": killed,
    "SIGTERM": terminated,
    "SIGSTOP": frozen,
    "cut network": cut,
    "half-open network": half_open,
    "answers lost": mute,
    "slow network": slow,
    "Redis restarted, empty": of_redis(restarted),
    "FLUSHALL": of_redis(flushed),
    "SCRIPT FLUSH": of_redis(scripts_flushed),
    "CLIENT KILL": of_redis(clients_killed),
    "Redis full": of_redis(full),
    "RabbitMQ kill -9": of_rabbitmq(Broker.killed),
    "RabbitMQ queue deleted": of_rabbitmq(Broker.queue_deleted),
    "RabbitMQ memory alarm": of_rabbitmq(Broker.blocked),
    "RabbitMQ connections closed": of_rabbitmq(Broker.redelivery_storm),
    "PostgreSQL kill -9": of_the_database(Database.down),
    "PostgreSQL connections killed": of_the_database(Database.connections_killed),
    "PostgreSQL slow": of_the_database(Database.slow),
    "PostgreSQL deadlocks": of_the_database(Database.deadlocks),
}


@pytest.fixture
async def town(
    house: House,
    settings: Settings,
    pool_redis: Redis,
    pool_server: RedisServer,
    rabbit_server: RabbitServer,
    postgres_server: PostgresServer,
) -> AsyncIterator[Town]:
    assert isinstance(house.app.exchange, RabbitExchange)
    await declared_for_good(house.app.exchange, rabbit_server)
    async with contextlib.AsyncExitStack() as stack:
        proxies, here = [], settings
        for store in PROXIED:
            proxy, here = await stack.enter_async_context(behind_proxy(here, store))
            proxies.append(proxy)
        database = Database(postgres_server, settings.database_url.get_secret_value())
        stack.push_async_callback(database.engine.dispose)
        yield Town(
            house=house,
            settings=here,
            redis=pool_redis,
            redis_server=pool_server,
            broker=Broker(rabbit_server, settings),
            database=database,
            proxies=proxies,
        )


async def test_everything_at_once(town: Town) -> None:
    house = town.house
    print(f"\nCHAOS_SEED={house.seed} CHAOS_SECONDS={SECONDS:g}")
    struck: Counter[str] = Counter()
    memory: dict[int, list[float]] = {}
    await town.keep_up()
    until = time.monotonic() + SECONDS
    async with house.steadily(per_second=PER_SECOND):
        while time.monotonic() < until:
            name = house.random.choice(sorted(FAULTS))
            print(f"{until - time.monotonic():6.1f} s left: {name}", flush=True)
            with house.outage():
                await FAULTS[name](town)
                await town.keep_up()
                # A process that has just been started needs a moment to serve.
                await asyncio.sleep(QUIET_SECONDS)
            struck[name] += 1
            for process in town.processes.values():
                if process.popen.poll() is None:
                    memory.setdefault(process.popen.pid, []).append(memory_mib(process))
            await asyncio.sleep(QUIET_SECONDS)
    verdict = await house.verdict(late_seconds=LATE_SECONDS)
    growth = max(
        (samples[-1] - samples[1] for samples in memory.values() if len(samples) > 10), default=0.0
    )
    highest = max(max(samples) for samples in memory.values())
    print(f"memory: {highest:.0f} MiB at most, grown by {growth:.0f} MiB at most")
    assert growth < GROWTH_MIB
    await nothing_is_left_over(town)
    house.report(
        verdict,
        fault=f"all kinds at random, for {SECONDS / 60:.0f} min",
        tried=f"{len(struck)} kinds; memory {highest:.0f} MiB at most, seed {house.seed}",
        times=struck.total(),
    )


async def nothing_is_left_over(town: Town) -> None:
    """No orphan keys; and without our processes no connections."""
    keys = {bytes(key).decode() for key in await town.redis.keys("*")}  # type: ignore[arg-type]
    name = town.settings.executing_pool
    assert keys <= {f"{{{name}}}:reconciled_run_id", f"{name}:reconciler", f"{name}:surveyor"}, keys
    for process in town.processes.values():
        assert await asyncio.to_thread(process.stop, 60) == 0

    await town.house.app.ledger.engine.dispose()  # the load's own

    async def only_ours() -> bool:
        ((others,),) = await town.database.run(
            "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND "
            f"datname = '{town.database.name}' AND pid <> pg_backend_pid()"
        )
        list_connections = ("list_connections", "--silent", "pid")
        found = await asyncio.to_thread(town.broker.server.ctl, *list_connections)
        return not others and len(found.split()) <= 1  # the load publishes nothing, but looks

    await wait_until(only_ours, 20)
