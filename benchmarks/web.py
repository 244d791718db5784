"""What the HTTP API and the console cost: events a second, a single read, every page, idleness.

Run: python -m benchmarks.web [--rows 10000000] [--on mariadb] [--viewers 20]

The server is a process of its own (`node-timeout serve`), beside PostgreSQL or MariaDB, Redis and
RabbitMQ on the same machine. Events come in batches of 100 from four callers at once; half of them
start runs, half let them leave. Pages are asked for 20 times each, in a ledger of so many rows.
"""

import argparse
import asyncio
import itertools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from benchmarks.directory import PER_ROOT, fill
from benchmarks.house import cpu_seconds
from benchmarks.stores import Servers, Stores
from node_timeout.stores.sql.ledger import SqlLedger
from node_timeout.stores.sql.schema import Schema
from node_timeout.testing.words import config
from tests.servers import free_port

BATCH = 100
CALLERS = 4
SECONDS = 15.0
READS = 300
TIMES = 20
IDLE_SECONDS = 60.0
RATE = "1000000"


@asynccontextmanager
async def serving(stores: Stores) -> AsyncIterator[tuple[httpx.AsyncClient, int]]:
    """The server in a process of its own, and a client; its process id."""
    port = free_port()
    env = os.environ | {
        "NODE_TIMEOUT_DATABASE_URL": stores.database,
        "NODE_TIMEOUT_REDIS_URL": stores.redis,
        "NODE_TIMEOUT_AMQP_URL": stores.amqp,
        "NODE_TIMEOUT_WEB_PORT": str(port),
        "NODE_TIMEOUT_WEB_RATE": RATE,
    }
    command = [sys.executable, "-c", "from node_timeout.cli.main import main; main()", "serve"]
    process = await asyncio.create_subprocess_exec(
        *command, env=env, stderr=asyncio.subprocess.DEVNULL
    )
    limits = httpx.Limits(max_connections=100)
    try:
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", timeout=60, limits=limits
        ) as client:
            while True:
                try:
                    if (await client.get("/readyz")).status_code == 200:
                        break
                except httpx.TransportError:
                    pass
                await asyncio.sleep(0.1)
            yield client, process.pid
    finally:
        process.terminate()
        await process.wait()


async def events(client: httpx.AsyncClient, pid: int) -> None:
    """Starts and leavings of nodes with a config, in turn."""
    numbers = itertools.count()
    told = 0
    ends = time.perf_counter() + SECONDS

    async def tell() -> None:
        nonlocal told
        while time.perf_counter() < ends:
            number = next(numbers)
            runs = [
                {"node_id": f"e{i}", "version": f"{number}", "root_pipeline_id": "bench"}
                for i in range(BATCH)
            ]
            for kind in ("node_running", "node_left"):
                batch = [{"event": kind, "happened_at": time.time(), **run} for run in runs]
                answer = await client.post("/api/v1/events", json={"schema": 1, "events": batch})
                answer.raise_for_status()
                assert answer.json()["refused"] == []
                told += BATCH

    before = cpu_seconds(pid)
    began = time.perf_counter()
    await asyncio.gather(*(tell() for _ in range(CALLERS)))
    took = time.perf_counter() - began
    used = cpu_seconds(pid) - before
    print(f"| events a second, batches of {BATCH} | {told / took:,.0f} |")
    print(f"| the same for a second of the server's CPU | {told / used:,.0f} |")


async def one_run(client: httpx.AsyncClient) -> str:
    """Of those that the events have made: the others have no computed run id."""
    page = (await client.get("/api/v1/runs?root_pipeline_id=bench&limit=1")).json()
    return str(page["runs"][0]["run_id"])


async def reads(client: httpx.AsyncClient) -> None:
    took = await timed(client, f"/api/v1/run?run_id={await one_run(client)}", READS)
    print(f"| a single read, ms: p50, p99 | {took[len(took) // 2]:.1f}, {took[-4]:.1f} |")


async def timed(client: httpx.AsyncClient, path: str, times: int) -> list[float]:
    """Milliseconds, the shortest first."""
    took: list[float] = []
    for _ in range(times):
        began = time.perf_counter()
        answer = await client.get(path)
        took.append(1000 * (time.perf_counter() - began))
        assert answer.status_code == 200, answer.text
    return sorted(took)


async def pages(client: httpx.AsyncClient, rows: int, viewers: int) -> None:
    root = f"r{rows // 2 // PER_ROOT}"
    paths = {
        "/": "/",
        **{f"/runs, {tab}": f"/runs?tab={tab}" for tab in ("armed", "overdue", "handled", "dead")},
        "/run": f"/run?run_id={await one_run(client)}",
        "/search": f"/search?q={root}",
        "/search, what begins so": "/search?q=n",  # all nodes, and none is called so
        "/pipeline": f"/pipeline?root_pipeline_id={root}",
        "/lateness": "/lateness",
        "/api/v1/lateness": "/api/v1/lateness",
        "/configs": "/configs",
        "/processes": "/processes",
    }
    print(f"\n| page at {rows:,} rows | median, ms | slowest of {TIMES}, ms |")
    print("|---|---:|---:|")
    for name, path in paths.items():
        client.follow_redirects = True
        took = await timed(client, path, TIMES)
        print(f"| {name} | {statistics.median(took):.0f} | {took[-1]:.0f} |", flush=True)

    async def viewer() -> list[float]:
        found = []
        for _ in range(6):
            found += await timed(client, "/", 1)
            await asyncio.sleep(5)
        return found

    looks: list[Any] = await asyncio.gather(*(viewer() for _ in range(viewers)))
    every = sorted(each for some in looks for each in some)
    print(f"| / for {viewers} viewers, each every 5 s | {statistics.median(every):.0f} |", end="")
    print(f" {every[-1]:.0f} |")


async def idle(pid: int) -> None:
    before = cpu_seconds(pid)
    await asyncio.sleep(IDLE_SECONDS)
    print(f"| idle, CPU seconds a minute | {cpu_seconds(pid) - before:.2f} |")


async def run(stores: Stores, database: str, rows: int, viewers: int) -> None:
    schema = Schema(stores.database)
    await schema.migrate()
    await schema.close()
    ledger = SqlLedger(stores.database)
    await fill(ledger, database, rows)
    await ledger.save_configs([config(f"e{i}", 3600, root="bench") for i in range(BATCH)], [])
    await ledger.close()
    print(f"{database}, {rows:,} rows\n\n| figure | |\n|---|---:|")
    async with serving(stores) as (client, pid):
        await asyncio.sleep(2)
        await idle(pid)
        await events(client, pid)
        await reads(client)
        await pages(client, rows, viewers)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--on", choices=["postgresql", "mariadb"], default="postgresql")
    parser.add_argument("--viewers", type=int, default=20)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as directory,
        Servers(Path(directory), options.on).running() as servers,
    ):
        asyncio.run(run(servers.fresh(), options.on, options.rows, options.viewers))


if __name__ == "__main__":
    main()
