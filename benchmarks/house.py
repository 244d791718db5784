"""node-timeout in processes of its own, filled with node runs, for the benchmarks."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any, Self
from urllib.request import urlopen

import aio_pika
from redis.asyncio import Redis
from sqlalchemy import insert, text

from benchmarks.stores import Stores
from benchmarks.tally import Count, count, reset
from node_timeout import NodeTimeout, Settings
from node_timeout.domain.run import DueRun, NodeRun
from node_timeout.domain.timeout_config import TimeoutConfig
from node_timeout.stores.sql.schema import Schema
from node_timeout.stores.sql.tables import configs
from node_timeout.stores.sql.tables import runs as ledger
from tests.servers import free_port
from tests.support import armed_row

ROOT = Path(__file__).parents[1]
COMMAND = [sys.executable, "-c", "from node_timeout.cli.main import main; main()"]
STRATEGIES = {
    "rpush": "benchmarks.strategies:Rpush",
    "empty": "benchmarks.strategies:Empty",
    "slow": "benchmarks.strategies:Slow",
}
ROWS_AT_ONCE = 5_000
READY_SECONDS = 30.0
DAY = 86_400.0


class Process:
    """A process of node-timeout, and what it costs."""

    def __init__(self, role: str, environment: dict[str, str], log: Path) -> None:
        self.role = role
        self.log = log
        self.port = free_port()
        environment = {**environment, "NODE_TIMEOUT_METRICS_PORT": str(self.port)}
        with log.open("ab") as output:
            self.popen = subprocess.Popen(
                [*COMMAND, role], env=environment, stdout=output, stderr=output, cwd=ROOT
            )

    def wait_until_ready(self) -> None:
        until = time.monotonic() + READY_SECONDS
        while not self._is_ready():
            if self.popen.poll() is not None or time.monotonic() > until:
                sys.exit(f"{self.role} did not start: {self.log.read_text()[-2000:]}")
            time.sleep(0.02)

    def _is_ready(self) -> bool:
        with (
            contextlib.suppress(OSError),
            urlopen(f"http://127.0.0.1:{self.port}/readyz") as answer,
        ):
            return bool(answer.status == HTTPStatus.OK)
        return False

    def stop(self) -> None:
        self.popen.terminate()
        self.popen.wait(60)


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_mib(pid: int, what: str = "VmRSS") -> float:
    """Resident memory; ``VmHWM`` for the highest so far."""
    status = Path(f"/proc/{pid}/status").read_text("ascii")
    return int(status.partition(f"{what}:")[2].split()[0]) / 1024


class House:
    """Stores with the tables made, and the processes on them."""

    def __init__(self, stores: Stores, directory: Path, **changes: Any) -> None:
        self.stores = stores
        self.tally = directory / "tally"
        self.tally.mkdir(exist_ok=True)
        self._directory = directory
        self._changes = changes
        self.processes: list[Process] = []
        values: dict[str, Any] = {
            "database_url": stores.database,
            "redis_url": stores.redis,
            "amqp_url": stores.amqp,
            "engine": "dry_run",
            "handlers": STRATEGIES,
            "log_level": "WARNING",
            **changes,
        }
        self.settings = Settings(**values)
        self._variables = {
            f"NODE_TIMEOUT_{name.upper()}": json.dumps(value) if name == "handlers" else str(value)
            for name, value in values.items()
        }

    def with_pool(self, name: str) -> Self:
        """The same with a pool of its own."""
        return type(self)(self.stores, self._directory, **self._changes, executing_pool=name)

    async def prepare(self) -> None:
        schema = Schema(self.stores.database)
        await schema.migrate()
        await schema.close()
        async with Redis.from_url(self.stores.redis) as redis:
            await redis.flushall()
            await redis.slowlog_reset()

    @contextlib.contextmanager
    def running(self, scanners: int = 1, workers: int = 2) -> Iterator[None]:
        """With processes that are ready; their counts begin at none."""
        reset(self.tally)
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "BENCH_TALLY": str(self.tally),
            "BENCH_REDIS": self.stores.redis,
        }
        environment |= self._variables
        roles = ["scan"] * scanners + ["worker"] * workers
        try:
            for i, role in enumerate(roles):
                log = self._directory / f"{role}-{i}.log"
                log.unlink(missing_ok=True)
                self.processes.append(Process(role, environment, log))
            for process in self.processes:
                process.wait_until_ready()
            yield
        finally:
            for process in self.processes:
                process.stop()
            self.processes = []

    def counted(self) -> Count:
        return count(self.tally)

    async def until_counted(self, calls: int, time_limit: float) -> Count:
        until = time.monotonic() + time_limit
        while (counted := self.counted()).calls < calls:
            if time.monotonic() > until:
                sys.exit(f"only {counted.calls} of {calls} were handled in {time_limit:g} s")
            await asyncio.sleep(0.05)
        return counted

    async def fill(
        self, deadlines: Sequence[float], action: str, prefix: str, *, pool: bool = True
    ) -> None:
        """Rows, configs and members, as arming leaves them, but faster than arming."""
        async with NodeTimeout(self.settings) as app:
            for first in range(0, len(deadlines), ROWS_AT_ONCE):
                part = deadlines[first : first + ROWS_AT_ONCE]
                runs = [run_of(f"{prefix}{first + i}") for i in range(len(part))]
                rows = []
                for run, deadline in zip(runs, part, strict=True):
                    config = config_of(run, action, 60)
                    rows.append((config.as_dict(), armed_row(run, config, deadline - 60, deadline)))
                async with app.ledger.engine.begin() as connection:
                    await connection.execute(insert(configs), [config for config, _ in rows])
                    await connection.execute(insert(ledger), [row for _, row in rows])
                if pool:
                    both = zip(runs, part, strict=True)
                    await app.pool.arm([DueRun(run_id=run.run_id, due_at=at) for run, at in both])
            await self._analyze(app)

    async def fill_pool(self, count: int, prefix: str) -> None:
        """Members that are due in a day; who put them there did not tell the ledger."""
        far = time.time() + DAY
        async with Redis.from_url(self.stores.redis) as redis:
            for first in range(0, count, ROWS_AT_ONCE):
                members = {
                    run_of(f"{prefix}{i}").run_id: far + i * 0.001
                    for i in range(first, min(first + ROWS_AT_ONCE, count))
                }
                await redis.zadd(self.settings.executing_pool, members)

    async def _analyze(self, app: NodeTimeout) -> None:
        """What the database does in its own time."""
        names = f"{configs.name}, {ledger.name}"
        statements = {"postgresql": f"ANALYZE {names}", "sqlite": "ANALYZE"}
        statement = statements.get(app.ledger.engine.dialect.name, f"ANALYZE TABLE {names}")
        async with app.ledger.engine.begin() as connection:
            await connection.execute(text(statement))


def run_of(name: str, root: str = "root") -> NodeRun:
    """Ids as long as bamboo-engine's: 32 characters and 32."""
    return NodeRun(root_pipeline_id=root, node_id=f"n{name:0>31}", version=f"v{name:0>31}")


def config_of(run: NodeRun, action: str, seconds: float) -> TimeoutConfig:
    return TimeoutConfig(
        node_id=run.node_id,
        root_pipeline_id=run.root_pipeline_id,
        action=action,
        timeout=seconds,
    )


def told(run: NodeRun) -> tuple[str, str, str]:
    """As an engine's receiver tells of it: bamboo's knows the root as well."""
    return run.node_id, run.version, run.root_pipeline_id


async def until_empty(house: House) -> float:
    """Wait until the last member has left the pool; return when that was."""
    async with Redis.from_url(house.stores.redis) as redis:
        until = time.time() + 300
        while await redis.zcard(house.settings.executing_pool):
            if time.time() > until:
                sys.exit("the pool does not get empty")
            await asyncio.sleep(0.005)
    return time.time()


@contextlib.asynccontextmanager
async def drained(amqp: str, name: str) -> AsyncIterator[None]:
    """Read a queue and do nothing with its messages."""
    async with await aio_pika.connect(amqp) as connection:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=100)
        queue = await channel.declare_queue(name, passive=True)
        await queue.consume(lambda delivery: delivery.ack())
        yield
