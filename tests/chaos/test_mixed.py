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
from pathlib import Path
from random import Random
from statistics import median

import aio_pika
import pytest
from redis.asyncio import Redis

from node_timeout import Settings
from node_timeout.stores.rabbitmq.consumer import REASON_HEADER
from node_timeout.stores.rabbitmq.exchange import RabbitExchange
from tests.acceptance.conftest import Process
from tests.chaos.house import House, behind_proxy
from tests.chaos.proxy import Proxy
from tests.chaos.test_backlog import memory_mib
from tests.chaos.test_database import Database
from tests.chaos.test_poison import MESSAGES
from tests.chaos.test_rabbitmq import Broker
from tests.chaos.test_redis import (
    clients_killed,
    flushed,
    full,
    paused,
    readonly,
    restarted,
    restored_from_a_snapshot,
    scripts_flushed,
)
from tests.integration.test_rabbit import declared_for_good
from tests.servers import PostgresServer, RabbitServer, RedisServer
from tests.support import wait_until

SECONDS = float(os.environ.get("CHAOS_SECONDS", "0"))
PER_SECOND = 40
QUIET_SECONDS = 1.5
LATE_SECONDS = 30.0
SETTLE_SECONDS = 240.0
STOP_SECONDS = 120.0
PROXIED = ("redis_url", "amqp_url", "database_url")
# Resident memory of a process, a sample a second: not those of its first seconds, and only of a
# process that lived so long. By so much the median of its last quarter may exceed the first's.
WARM_UP_SAMPLES = 15
ENOUGH_SAMPLES = 60
GROWTH_MIB = 15.0
LONG_RUN_SECONDS = 600.0
# Of one process to one store, when all is quiet.
MOST_CONNECTIONS = {"redis_url": 6, "amqp_url": 3, "database_url": 6}

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
    memory: dict[str, list[float]] = field(default_factory=dict)
    """Samples of each process that ever was, by its name in the history."""
    random: Random = field(default_factory=Random)
    """Of the strike that is on: what one draws moves no other."""
    strikes: int = 0
    letters: set[tuple[bytes, object]] = field(default_factory=set)
    """What was put aside, and why, since it was poison."""

    async def keep_up(self) -> None:
        """Start what is not there: two of each role, as a supervisor does."""
        for name in ("scan 0", "scan 1", "worker 0", "worker 1"):
            process = self.processes.get(name)
            if process is None or process.popen.poll() is not None:
                lost = dict.fromkeys(("shard", "pool", "exchange", "ledger", "engine"), 0.01)
                self.processes[name] = await self.house.spawn(
                    name.split()[0], settings=self.settings, lose=lost, refuse=lost, ready=""
                )

    async def strike(self) -> str:
        """A fault at random, each kind before any comes again; a seed has its own order."""
        round_number, position = divmod(self.strikes, len(FAULTS))
        names = sorted(FAULTS)
        self.house.random_of(f"order/{round_number}").shuffle(names)
        name = names[position]
        self.random = self.house.random_of(f"faults/{self.strikes}")
        self.strikes += 1
        print(f"{time.strftime('%X')} {name}", flush=True)
        await FAULTS[name](self)
        return name

    async def one_of_them(self) -> Process:
        """A process that has said that it started."""
        names = sorted(self.processes)
        self.random.shuffle(names)
        found: list[Process] = []

        async def any_started() -> bool:
            await self.keep_up()
            found[:] = [
                process
                for process in (self.processes[name] for name in names)
                if process.popen.poll() is None and "started" in process.output
            ]
            return bool(found)

        await wait_until(any_started, STOP_SECONDS)
        return found[0]

    async def watch_memory(self) -> None:
        while True:
            for process in self.processes.values():
                # One that has just ended has no memory left to be told.
                with contextlib.suppress(OSError, IndexError):
                    samples = self.memory.setdefault(self.house.name_of(process), [])
                    samples.append(memory_mib(process))
            await asyncio.sleep(1)


async def killed(town: Town) -> None:
    (await town.one_of_them()).kill()


async def terminated(town: Town) -> None:
    process = await town.one_of_them()
    process.popen.send_signal(signal.SIGTERM)
    code = await asyncio.to_thread(process.wait, STOP_SECONDS)
    assert code == 0, process.output[-2000:]


async def frozen(town: Town) -> None:
    process = await town.one_of_them()
    process.popen.send_signal(signal.SIGSTOP)
    await asyncio.sleep(4)
    process.popen.send_signal(signal.SIGCONT)


async def cut(town: Town) -> None:
    proxy = town.random.choice(town.proxies)
    proxy.cut()
    await asyncio.sleep(2)
    proxy.heal()


async def half_open(town: Town) -> None:
    proxy = town.random.choice(town.proxies)
    proxy.half_open()
    await asyncio.sleep(3)
    proxy.heal()


async def mute(town: Town) -> None:
    proxy = town.random.choice(town.proxies)
    proxy.mute()
    await asyncio.sleep(3)
    proxy.heal()


async def slow(town: Town) -> None:
    proxy = town.random.choice(town.proxies)
    proxy.delay = 0.1
    await asyncio.sleep(2)
    proxy.heal()


async def poison_message(town: Town) -> None:
    """It is put aside, with its reason."""
    url = town.broker.server.url
    await read_copies(town)  # else one of them could be taken for what comes of this
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        exchange = await channel.get_exchange(town.broker.exchange)
        body = town.random.choice([MESSAGES[name] for name in sorted(MESSAGES) if name != "50 MB"])
        await exchange.publish(aio_pika.Message(body), town.broker.queue)
        dead = await channel.get_queue(f"{town.broker.queue}.dead")
        async with asyncio.timeout(30), dead.iterator() as letters:
            async for letter in letters:
                await letter.ack()
                assert letter.headers[REASON_HEADER]
                town.letters.add((letter.body, letter.headers[REASON_HEADER]))
                return


async def read_copies(town: Town) -> None:
    """Read what was put aside twice, as a confirm was lost. Anything else stays, and fails."""
    async with await aio_pika.connect(town.broker.server.url) as connection:
        channel = await connection.channel()
        dead = await channel.get_queue(f"{town.broker.queue}.dead")
        while letter := await dead.get(fail=False):
            assert (letter.body, letter.headers[REASON_HEADER]) in town.letters, letter.headers
            await letter.ack()


@contextlib.asynccontextmanager
async def copies_read(town: Town) -> AsyncIterator[None]:
    """A reading is never cut off: one that is cancelled while it connects leaves a connection."""
    over = asyncio.Event()

    async def read() -> None:
        while not over.is_set():
            await read_copies(town)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), 1)

    reading = asyncio.create_task(read())
    try:
        yield
    finally:
        over.set()
        await reading


def poison_strategy(action: str) -> "Fault":
    async def strike(town: Town) -> None:
        """A node or two whose strategy goes wrong twice, and whatever it breaks is mended."""
        prefix = f"poison{town.strikes}_"
        await town.house.arm(2, 0.1, action=action, prefix=prefix)
        until = time.monotonic() + 6
        while time.monotonic() < until:
            await town.keep_up()
            await asyncio.sleep(0.2)

    return strike


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
    "Redis read-only": of_redis(readonly),
    "Redis restored from an old snapshot": of_redis(restored_from_a_snapshot),
    "CLIENT PAUSE": of_redis(paused),
    "RabbitMQ kill -9": of_rabbitmq(Broker.killed),
    "RabbitMQ queue deleted": of_rabbitmq(Broker.queue_deleted),
    "RabbitMQ unroutable": of_rabbitmq(Broker.unroutable),
    "RabbitMQ memory alarm": of_rabbitmq(Broker.blocked),
    "RabbitMQ connections closed": of_rabbitmq(Broker.redelivery_storm),
    "PostgreSQL kill -9": of_the_database(Database.down),
    "PostgreSQL connections killed": of_the_database(Database.connections_killed),
    "PostgreSQL slow": of_the_database(Database.slow),
    "PostgreSQL deadlocks": of_the_database(Database.deadlocks),
    "poison message": poison_message,
    "strategy raises": poison_strategy("raises"),
    "strategy exits": poison_strategy("exits"),
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
    house, struck = town.house, Counter[str]()
    house.row.of(
        fault=f"all kinds at random, for {SECONDS / 60:.0f} min",
        tried=f"seed {house.row.seed}",
        times=0,
    )
    print(f"CHAOS_SECONDS={SECONDS:g}", flush=True)
    await town.keep_up()
    watching = asyncio.create_task(town.watch_memory())
    until = time.monotonic() + SECONDS
    try:
        async with house.steadily(per_second=PER_SECOND):
            while time.monotonic() < until:
                with house.outage():
                    struck[await town.strike()] += 1
                    house.row.times = struck.total()
                    await town.keep_up()
                    # A process that has just been started needs a moment to serve.
                    await asyncio.sleep(QUIET_SECONDS)
                await asyncio.sleep(QUIET_SECONDS)
        async with copies_read(town):
            await house.verdict(late_seconds=LATE_SECONDS, settle_seconds=SETTLE_SECONDS)
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    highest, growth = memory_is_flat(town)
    house.row.tried = (
        f"{len(struck)} kinds of {len(FAULTS)}; memory {highest:.0f} MiB at most, grown by "
        f"{growth:.0f} at most; seed {house.row.seed}"
    )
    connections_are_few(town)
    await nothing_is_left_over(town)


def memory_is_flat(town: Town) -> tuple[float, float]:
    """The highest of all, and the largest growth of a process that lived long enough; MiB."""
    growths: dict[str, float] = {}
    for name, samples in town.memory.items():
        warm = samples[WARM_UP_SAMPLES:]
        if len(warm) >= ENOUGH_SAMPLES:
            quarter = len(warm) // 4
            growths[name] = median(warm[-quarter:]) - median(warm[:quarter])
    print(f"memory grown by, MiB: { {name: round(each, 1) for name, each in growths.items()} }")
    if SECONDS >= LONG_RUN_SECONDS:
        roles = {name.partition("-")[0] for name in growths}
        assert roles == {"scan", "worker"}, f"nobody lived long enough: {town.memory.keys()}"
    growth = max(growths.values(), default=0.0)
    assert growth < GROWTH_MIB, growths
    return max(max(samples) for samples in town.memory.values() if samples), growth


def connections_are_few(town: Town) -> None:
    """Of each process that runs, to each store: whatever has happened, it has not kept the old."""
    for name, process in town.processes.items():
        for store, proxy in zip(PROXIED, town.proxies, strict=True):
            count = connections(process, proxy.port)
            print(f"{name}: {count} connections to {store.removesuffix('_url')}")
            assert count <= MOST_CONNECTIONS[store], f"{name}: {count} to {store}"
            if store != "database_url":  # a scanner that does not lead needs none
                assert count, f"{name} has no connection to {store}, or they are not seen"


def connections(process: Process, port: int) -> int:
    """How many TCP sockets a process holds to a local port, in whatever state."""
    held = set()
    for link in Path(f"/proc/{process.popen.pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            held.add(str(link.readlink()))
    lines = Path(f"/proc/{process.popen.pid}/net/tcp").read_text("ascii").splitlines()[1:]
    sockets = [line.split() for line in lines]
    return sum(
        f"socket:[{socket[9]}]" in held and int(socket[2].rpartition(":")[2], 16) == port
        for socket in sockets
    )


async def nothing_is_left_over(town: Town) -> None:
    """No orphan keys; and without our processes no connections."""
    keys = {bytes(key).decode() for key in await town.redis.keys("*")}  # type: ignore[arg-type]
    name = town.settings.executing_pool
    ours = [f"{{%s}}:{each}" for each in ("reconciled_run_id", "ledger_id", "processes")]
    ours += ["%s:reconciler", "%s:surveyor"]
    assert keys <= {key % name for key in ours}, keys
    for process in town.processes.values():
        assert await asyncio.to_thread(process.stop, STOP_SECONDS) == 0

    await town.house.app.ledger.engine.dispose()  # the load's own

    async def only_ours() -> bool:
        ((others,),) = await town.database.run(
            "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND "
            f"datname = '{town.database.name}' AND pid <> pg_backend_pid()"
        )
        list_connections = ("list_connections", "--silent", "pid")
        found = await asyncio.to_thread(town.broker.server.ctl, *list_connections)
        clients = await town.redis.client_list()
        return (
            not others
            and len(found.split()) <= 1  # the load publishes nothing, but looks
            and len(clients) <= MOST_CONNECTIONS["redis_url"]  # the load's, and the test's
        )

    await wait_until(only_ours, 30)
