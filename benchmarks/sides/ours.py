"""node-timeout itself: one round of a workload, as the other sides run theirs.

    burst     all nodes are due at one instant: from the first claim to the last strategy's call
    pools     the same from a pool that holds nothing else and from one that is large, in turn
    scan      the scanner alone: from the first claim until all is confirmed and removed
    lateness  deadlines evenly spread: strategy called minus deadline
    idle      deadlines far away: what waiting costs
    arm       calls of the library, one by one and in batches
    storm     everything is overdue at the start, and newcomers fall due meanwhile
    slow      strategies that wait for 50 ms

BENCH_STORES has the JSON of ``Stores``. One scanner, two workers, if not said otherwise. The engine
is ``dry_run``, which says that every node is running; logs at WARNING, as the other sides' are.
"""

import argparse
import asyncio
import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from sqlalchemy import text

from benchmarks.house import (
    DAY,
    House,
    config_of,
    cpu_seconds,
    drained,
    memory_mib,
    run_of,
    told,
    until_empty,
)
from benchmarks.stores import Stores
from benchmarks.strategies import CALLS
from node_timeout import BlockingNodeTimeout, NodeTimeout

TIME_LIMIT = 900.0

WARM = 200
Result = dict[str, Any]


async def longest_redis_call_ms(house: House) -> float:
    """Of our scripts; calls shorter than a millisecond are not noted."""
    async with Redis.from_url(house.stores.redis) as redis:
        calls = await redis.slowlog_get(10_000)
    ours = [call["duration"] / 1000 for call in calls if call["command"].startswith(b"EVAL")]
    return max(ours, default=1.0)


def highest_memory(house: House) -> Result:
    roles: dict[str, float] = {}
    for process in house.processes:
        here = memory_mib(process.popen.pid, "VmHWM")
        roles[process.role] = max(here, roles.get(process.role, 0.0))
    return {f"{role}_mib": round(mib, 1) for role, mib in roles.items()}


async def warm(house: House, prefix: str = "") -> None:
    """Each process has connected, and done each thing once."""
    await house.fill([time.time()] * WARM, "empty", f"{prefix}warm")
    await house.until_counted(WARM, 60)
    await asyncio.sleep(1.0)


async def burst(house: House, options: argparse.Namespace, prefix: str = "") -> Result:
    instant = time.time() + 6 + options.count / 4000
    await house.fill([instant] * options.count, options.strategy, f"{prefix}b")
    with house.running(options.scanners, options.workers):
        await warm(house, prefix)
        if (early := instant - time.time()) < 0:
            sys.exit(f"the burst was due {-early:.1f} s before everything was ready")
        counted = await house.until_counted(WARM + options.count, TIME_LIMIT)
        memory = highest_memory(house)
    seconds = counted.last_at - (instant - house.settings.dispatch_ahead)  # the first claim
    return {
        "nodes": options.count,
        "seconds": seconds,
        "nodes_per_second": options.count / seconds,
        "longest_redis_call_ms": await longest_redis_call_ms(house),
        **memory,
    }


async def pools(house: House, options: argparse.Namespace) -> list[Result]:
    """Two pools in one Redis, on the same tables and queues."""
    large = house.with_pool("large")
    await large.fill_pool(options.others, "x")
    results: list[Result] = []
    for number in range(options.rounds):
        alone = await burst(house, options, f"{number}s")
        beside = await burst(large, options, f"{number}l")
        results.append(
            {
                f"nodes_per_second_{options.count}": alone["nodes_per_second"],
                f"nodes_per_second_{options.others}": beside["nodes_per_second"],
                "cost_over": alone["nodes_per_second"] / beside["nodes_per_second"],
                "longest_redis_call_ms": beside["longest_redis_call_ms"],
            }
        )
    return results


async def scan(house: House, options: argparse.Namespace) -> Result:
    """The scanner alone; who reads its queue does nothing with it."""
    instant = time.time() + 5 + options.count / 4000
    await house.fill([instant] * options.count, "empty", "f")
    with house.running(scanners=1, workers=0):
        async with drained(house.stores.amqp, house.settings.dispatch_queue):
            first_claim = instant - house.settings.dispatch_ahead
            seconds = await until_empty(house) - first_claim
    return {"nodes": options.count, "nodes_per_second": options.count / seconds}


async def lateness(house: House, options: argparse.Namespace) -> Result:
    step = options.seconds / options.count
    with house.running(options.scanners, options.workers):
        await warm(house)
        first = time.time() + 3 + options.count / 4000
        await house.fill([first + i * step for i in range(options.count)], "rpush", "l")
        if time.time() > first:
            sys.exit("the first deadline came before all were armed")
        await house.until_counted(WARM + options.count, TIME_LIMIT)
        await asyncio.sleep(0.5)
        memory = highest_memory(house)
    async with Redis.from_url(house.stores.redis) as redis:
        calls = [each.split() for each in await redis.lrange(CALLS, 0, -1)]
    late = [float(called) - float(deadline) for called, deadline in calls]
    if len(late) != options.count:
        sys.exit(f"{len(late)} calls for {options.count} nodes")
    if min(late) < 0:
        sys.exit(f"a strategy was called {-min(late) * 1000:.3f} ms early")
    return {"lateness": late, **memory}


async def idle(house: House, options: argparse.Namespace) -> list[Result]:
    redis_pid = house.stores.redis_pid
    async with Redis.from_url(house.stores.redis) as redis:
        empty = int((await redis.info("memory"))["used_memory"])
        far = time.time() + DAY
        if options.others:
            await house.fill_pool(options.others, "x")
        else:
            await house.fill([far + i * 0.001 for i in range(options.count)], "empty", "i")
        await redis.slowlog_reset()  # the filling's: megabytes
        full = int((await redis.info("memory"))["used_memory"])
    async with NodeTimeout(house.settings) as app:
        sql_bytes = await table_bytes(app)
    (alone,) = await spent_in(options.seconds / 2, redis_pid)
    armed = options.others or options.count
    results: list[Result] = []
    with house.running(scanners=1, workers=0):
        # The first sweep, as after any start of Redis, and what the fill left to do.
        await asyncio.sleep(5 + (0 if options.others else options.count / 15_000))
        for _ in range(options.rounds):
            pids = house.processes[0].popen.pid, redis_pid
            scanner, redis_ = await spent_in(options.seconds, *pids)
            results.append(
                {
                    "scanner_cpu_seconds_per_minute": scanner,
                    "redis_cpu_seconds_per_minute": redis_,
                    "redis_alone_cpu_seconds_per_minute": alone,
                    "redis_bytes_per_node": (full - empty) / armed,
                    "sql_bytes_per_node": sql_bytes / armed,
                    **highest_memory(house),
                }
            )
    return results


async def spent_in(seconds: float, *pids: int) -> list[float]:
    """CPU seconds a minute of each process, over so many seconds."""
    before = [cpu_seconds(pid) for pid in pids]
    await asyncio.sleep(seconds)
    spent = [cpu_seconds(pid) - then for pid, then in zip(pids, before, strict=True)]
    return [each * 60 / seconds for each in spent]


async def table_bytes(app: NodeTimeout) -> int:
    is_postgresql = app.ledger.engine.dialect.name == "postgresql"
    query = (
        "SELECT sum(pg_total_relation_size(relid)) FROM pg_stat_user_tables"
        if is_postgresql
        else "SELECT sum(data_length + index_length) FROM information_schema.tables "
        "WHERE table_schema = database()"
    )
    async with app.ledger.engine.connect() as connection:
        return int((await connection.execute(text(query))).scalar_one())


async def arm(house: House, options: argparse.Namespace) -> Result:
    """Configs are stored; each call is awaited before the next."""
    count = options.count
    async with NodeTimeout(house.settings) as app:
        runs = [run_of(f"a{kind}{i}") for kind in range(4) for i in range(count)]
        configs = [config_of(run, "empty", DAY) for run in runs]
        for i in range(0, len(configs), 5000):
            await app.ledger.save_configs(configs[i : i + 5000], [])
        ids = [told(run) for run in runs]
        parts = [ids[i * count : (i + 1) * count] for i in range(4)]

        async def each(part: list[tuple[str, str, str]]) -> None:
            for of_one in part:
                await app.node_started(*of_one)

        async def batches(part: list[tuple[str, str, str]]) -> None:
            for i in range(0, len(part), 500):
                await app.nodes_started(part[i : i + 500])

        single = await timed(lambda: each(parts[0]))
        batched = await timed(lambda: batches(parts[1]))

        async def leave() -> None:
            for i in range(0, count, 500):
                await app.nodes_left([*parts[1][i : i + 500]])

        disarmed = await timed(leave)
    with BlockingNodeTimeout(house.settings) as blocking:
        blocking.node_started(*parts[2][0])
        began = time.perf_counter()
        for of_one in parts[2][1:]:
            blocking.node_started(*of_one)
        blocking_single = time.perf_counter() - began
        began = time.perf_counter()
        for i in range(0, count, 500):
            blocking.nodes_started(parts[3][i : i + 500])
        blocking_batched = time.perf_counter() - began
    return {
        "single_per_second": count / single,
        "batched_per_second": count / batched,
        "disarm_batched_per_second": count / disarmed,
        "blocking_single_per_second": (count - 1) / blocking_single,
        "blocking_batched_per_second": count / blocking_batched,
    }


async def timed(call: Callable[[], Awaitable[None]]) -> float:
    began = time.perf_counter()
    await call()
    return time.perf_counter() - began


async def storm(house: House, options: argparse.Namespace) -> Result:
    """Two hours' worth, overdue at the start; newcomers of one second all the time."""
    first = time.time() - 7200
    await house.fill([first + i * 7000 / options.count for i in range(options.count)], "empty", "o")
    curve: list[tuple[float, int]] = []
    newcomers = 0
    stop = asyncio.Event()

    async def arm_newcomers(app: NodeTimeout) -> None:
        nonlocal newcomers
        while not stop.is_set():
            runs = [run_of(f"new{newcomers + i}", "new") for i in range(10)]
            await app.ledger.save_configs([config_of(run, "rpush", 1) for run in runs], [])
            await app.nodes_started([told(run) for run in runs])
            newcomers += 10
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), 0.5)

    with house.running(options.scanners, options.workers):
        began = time.time()
        async with NodeTimeout(house.settings) as app:
            arming = asyncio.create_task(arm_newcomers(app))
            while (calls := house.counted().calls) < options.count:
                curve.append((time.time() - began, calls))
                if time.time() - began > TIME_LIMIT:
                    sys.exit(f"only {calls} of {options.count} in {TIME_LIMIT:g} s")
                await asyncio.sleep(0.25)
            curve.append((time.time() - began, calls))
            stop.set()
            await arming
        await house.until_counted(options.count + newcomers, 60)
        memory = highest_memory(house)
    async with Redis.from_url(house.stores.redis) as redis:
        calls_of = [each.split() for each in await redis.lrange(CALLS, 0, -1)]
    late = [float(called) - float(deadline) for called, deadline in calls_of]
    return {
        "nodes": options.count,
        "nodes_per_second": options.count / curve[-1][0],
        "last_tenth_over_first": rate(curve, 0.9, 1.0) / rate(curve, 0.02, 0.12),
        "curve": curve,
        "newcomers_late": late,
        "longest_redis_call_ms": await longest_redis_call_ms(house),
        **memory,
    }


def rate(curve: list[tuple[float, int]], first: float, last: float) -> float:
    """Nodes a second between two shares of the work."""
    total = curve[-1][1]
    begin = next(point for point in curve if point[1] >= first * total)
    end = next(point for point in curve if point[1] >= last * total)
    return (end[1] - begin[1]) / (end[0] - begin[0])


async def slow(house: House, options: argparse.Namespace) -> Result:
    """The worker's own pace: the middle of the work, so that start and end do not count."""
    await house.fill([time.time()] * options.count, "slow", "s")
    curve: list[tuple[float, int]] = []
    with house.running(1, options.workers):
        began = time.time()
        while (calls := house.counted().calls) < options.count:
            curve.append((time.time() - began, calls))
            await asyncio.sleep(0.05)
        curve.append((time.time() - began, calls))
    return {"nodes": options.count, "nodes_per_second": rate(curve, 0.2, 0.8)}


WORKLOADS: dict[str, Callable[[House, argparse.Namespace], Awaitable[Result | list[Result]]]] = {
    "burst": burst,
    "pools": pools,
    "scan": scan,
    "lateness": lateness,
    "idle": idle,
    "arm": arm,
    "storm": storm,
    "slow": slow,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("workload", choices=WORKLOADS)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--strategy", choices=["rpush", "empty"], default="rpush")
    parser.add_argument("--scanners", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--others", type=int, default=0, help="members of the pool, due much later")
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=1, help="of pools and idle, on one filling")
    options = parser.parse_args()

    async def run() -> Result | list[Result]:
        with tempfile.TemporaryDirectory() as directory:
            house = House(
                Stores.from_json(os.environ["BENCH_STORES"]),
                Path(directory),
                worker_concurrency=options.concurrency,
            )
            await house.prepare()
            return await WORKLOADS[options.workload](house, options)

    print(json.dumps(asyncio.run(run())))


if __name__ == "__main__":
    main()
