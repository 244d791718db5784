"""The floor: bare loops over the same clients and the same statements, with nothing around them.

No ledger states to sort, no leases to watch, no engine, no retries, no metrics, no logs, no care
for what fails: what any design of this shape has to pay at least.

    claim   the Lua claim alone, on a pool of due members
    scan    claim, publish, confirm, remove: 16 batches in flight, one process
    burst   scan, and two processes that consume, take and record rows, and count each node
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import Any

import aio_pika
from sqlalchemy import select
from sqlalchemy import update as sql_update
from sqlalchemy.ext.asyncio import AsyncConnection

from benchmarks.house import ROOT, House, drained, until_empty
from benchmarks.stores import Stores
from benchmarks.tally import Tally
from node_timeout.domain.run import DueRun, RunState
from node_timeout.domain.taking import Lease
from node_timeout.stores.redis.client import RedisClient
from node_timeout.stores.sql.database import create_engine, in_autocommit
from node_timeout.stores.sql.postgres_fast_paths import TAKE_DUE, take_due_values
from node_timeout.stores.sql.run_rows import Keys
from node_timeout.stores.sql.tables import runs as ledger
from node_timeout.wire import dispatch

POOL = "executing_node_pool"
QUEUE = "floor"
BATCH = 250
IN_FLIGHT = 16
LEASE = Lease(owner="floor", until=9e9)
CLAIM_SECONDS = 300.0
TIME_LIMIT = 300.0
Result = dict[str, Any]


async def declared(channel: aio_pika.abc.AbstractChannel) -> aio_pika.abc.AbstractQueue:
    return await channel.declare_queue(QUEUE, durable=True, arguments={"x-queue-type": "quorum"})


async def scanner(stores: Stores, at: float) -> None:
    """At this instant begin to claim, publish, confirm, remove, until the pool is empty."""
    client = RedisClient(stores.redis)
    slots = asyncio.Semaphore(IN_FLIGHT)
    async with await aio_pika.connect(stores.amqp) as connection:
        channel = await connection.channel()
        await declared(channel)
        exchange = channel.default_exchange

        async def send(members: list[bytes], lease: bytes) -> None:
            due = [DueRun(run_id=member.decode(), due_at=1.0) for member in members]
            body = aio_pika.Message(
                dispatch.encode(due), delivery_mode=aio_pika.DeliveryMode.PERSISTENT
            )
            await exchange.publish(body, QUEUE, mandatory=True)
            await client.call("finish", POOL, lease, *members)
            slots.release()

        await asyncio.sleep(at - time.time())
        sending: set[asyncio.Task[None]] = set()
        while True:
            await slots.acquire()
            _, lease, _, *pairs = await client.call("claim", POOL, BATCH, repr(CLAIM_SECONDS), "0")
            if not pairs:
                break
            task = asyncio.create_task(send(pairs[::2], lease))
            sending.add(task)
            task.add_done_callback(sending.discard)
        await asyncio.gather(*sending)
    await client.close()


async def worker(stores: Stores, ready: Path) -> None:
    """Consume, take the rows, count each node, record them, acknowledge."""
    engine = create_engine(stores.database)
    autocommit_engine = in_autocommit(engine)
    keys = Keys(arrays=engine.dialect.name == "postgresql")
    is_mysql = engine.dialect.name != "postgresql"
    tally = Tally()
    with_action = select(
        ledger.c.root_pipeline_id,
        ledger.c.node_id,
        ledger.c.version,
        ledger.c.next_at,
        ledger.c.action,
    )

    async def take(connection: AsyncConnection, runs: list[str]) -> list[Any]:
        if not is_mysql:
            values = take_due_values(runs, LEASE, now=time.time(), ahead_seconds=0.0)
            return list(await connection.execute(TAKE_DUE, values))
        query = with_action.where(keys.of(runs)).order_by(ledger.c.run_id)
        found = list(await connection.execute(query.with_for_update()))
        await connection.execute(
            sql_update(ledger)
            .where(keys.of(runs))
            .values(
                state=RunState.EXECUTING,
                next_at=None,
                lease_until=LEASE.until,
                lease_owner=LEASE.owner,
                attempts=ledger.c.attempts + 1,
            )
        )
        return found

    async with await aio_pika.connect(stores.amqp) as broker:
        channel = await broker.channel()
        await channel.set_qos(prefetch_count=16)
        queue = await declared(channel)
        async with engine.connect():
            ready.touch()
        arrived: deque[Any] = deque()
        news = asyncio.Event()

        async def receive(delivery: Any) -> None:
            arrived.append(delivery)
            news.set()

        await queue.consume(receive)
        while True:
            while not arrived:
                news.clear()
                await news.wait()
            delivery = arrived.popleft()
            due, _ = dispatch.decode(delivery.body)
            runs = [each.run_id for each in due if isinstance(each, DueRun)]
            async with engine.begin() as transaction:
                found = await take(transaction, runs)
            for _ in found:
                tally.add()
            async with autocommit_engine.begin() as connection:
                await connection.execute(
                    sql_update(ledger)
                    .where(keys.of(runs), ledger.c.lease_owner == LEASE.owner)
                    .values(
                        state=RunState.HANDLED,
                        lease_until=None,
                        lease_owner=None,
                        finished_at=time.time(),
                        message="",
                    )
                )
            await delivery.ack()


async def claim(house: House, options: argparse.Namespace) -> Result:
    await house.fill([1.0] * options.count, "empty", "f")
    client = RedisClient(house.stores.redis)
    claimed, began = 0, time.perf_counter()
    while claimed < options.count:
        reply = await client.call("claim", POOL, BATCH, repr(CLAIM_SECONDS), "0")
        claimed += (len(reply) - 3) // 2
    seconds = time.perf_counter() - began
    await client.close()
    return {"nodes_per_second": claimed / seconds}


def start(house: House, role: str, ready: Path, at: float = 0.0) -> "subprocess.Popen[bytes]":
    environment = {**os.environ, "BENCH_TALLY": str(house.tally), "BENCH_READY": str(ready)}
    command = [sys.executable, "-m", "benchmarks.sides.floor", role, "--at", repr(at)]
    return subprocess.Popen(command, env=environment, cwd=ROOT)


async def scan(house: House, options: argparse.Namespace) -> Result:
    """The scanner alone; who reads its queue does nothing with it."""
    await house.fill([1.0] * options.count, "empty", "f")
    async with await aio_pika.connect(house.stores.amqp) as connection:
        await declared(await connection.channel())
    at = time.time() + 4
    process = start(house, "scanner", house.tally.parent / "ready", at)
    try:
        async with drained(house.stores.amqp, QUEUE):
            seconds = await until_empty(house) - at
    finally:
        process.wait()
    return {"nodes": options.count, "nodes_per_second": options.count / seconds}


async def burst(house: House, options: argparse.Namespace) -> Result:
    await house.fill([1.0] * options.count, "empty", "f")
    at = time.time() + 6
    ready = [house.tally.parent / f"ready{i}" for i in range(options.workers)]
    processes = [start(house, "worker", path) for path in ready]
    processes.append(start(house, "scanner", house.tally.parent / "ready", at))
    try:
        while not all(path.exists() for path in ready):  # noqa: ASYNC110 - files have no event
            await asyncio.sleep(0.05)
        counted = await house.until_counted(options.count, TIME_LIMIT)
    finally:
        for process in processes:
            process.terminate()
            process.wait()
    return {"nodes": options.count, "nodes_per_second": options.count / (counted.last_at - at)}


WORKLOADS = {"claim": claim, "scan": scan, "burst": burst}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("command", choices=[*WORKLOADS, "scanner", "worker"])
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--strategy", choices=["empty"], default="empty")
    parser.add_argument("--at", type=float, default=0.0)
    options = parser.parse_args()
    stores = Stores.from_json(os.environ["BENCH_STORES"])

    async def run() -> Result:
        with tempfile.TemporaryDirectory() as directory:
            house = House(stores, Path(directory))
            await house.prepare()
            return await WORKLOADS[options.command](house, options)

    if options.command == "scanner":
        asyncio.run(scanner(stores, options.at))
    elif options.command == "worker":
        asyncio.run(worker(stores, Path(os.environ["BENCH_READY"])))
    else:
        print(json.dumps(asyncio.run(run())))


if __name__ == "__main__":
    main()
