"""The embedded form, ``node-timeout dev``: one process, on SQLite and the Valkey of the wheel.

    burst     all nodes are due at one instant: from the first claim to the last strategy's call
    lateness  deadlines evenly spread: strategy called minus deadline

BENCH_STORES has the JSON of ``Stores``, of which only Redis is used, by the strategy.
"""

import argparse
import asyncio
import json
import os
import re
import tempfile
import time
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from benchmarks.house import STRATEGIES, House, Process, memory_mib
from benchmarks.stores import Stores
from benchmarks.strategies import CALLS

WARM = 200
TIME_LIMIT = 300.0
FILL_PER_SECOND = 4_000
Result = dict[str, Any]


def started(directory: Path, strategies_redis: str) -> Process:
    """A ``node-timeout dev`` that is ready."""
    variables = {
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "BENCH_TALLY": str(directory / "tally"),
        "BENCH_REDIS": strategies_redis,
        "XDG_DATA_HOME": str(directory),
        "NODE_TIMEOUT_HANDLERS": json.dumps(STRATEGIES),
        "NODE_TIMEOUT_LOG_LEVEL": "WARNING",
    }
    process = Process("dev", {**os.environ, **variables}, directory / "dev.log")
    process.wait_until_ready()
    return process


def stores_of(process: Process) -> Stores:
    """What it says how another process finds its stores."""
    said = dict(re.findall(r"export NODE_TIMEOUT_(\w+)='(.*)'", process.log.read_text("utf-8")))
    return Stores(
        redis=said["REDIS_URL"], amqp=said["AMQP_URL"], database=said["DATABASE_URL"], redis_pid=0
    )


async def run(options: argparse.Namespace, directory: Path) -> Result:
    (directory / "tally").mkdir()
    redis_url = Stores.from_json(os.environ["BENCH_STORES"]).redis
    process = started(directory, redis_url)
    try:
        house = House(stores_of(process), directory)
        await house.fill([time.time()] * WARM, "empty", "warm")
        await house.until_counted(WARM, 60)
        async with Redis.from_url(redis_url) as redis:
            await redis.delete(CALLS)
            first = time.time() + 3 + options.count / FILL_PER_SECOND
            step = options.seconds / options.count if options.workload == "lateness" else 0.0
            deadlines = [first + i * step for i in range(options.count)]
            await house.fill(deadlines, options.strategy, "b")
            assert time.time() < first, "the first deadline came before all were armed"
            counted = await house.until_counted(WARM + options.count, TIME_LIMIT)
            await asyncio.sleep(0.5)
            calls = [each.split() for each in await redis.lrange(CALLS, 0, -1)]
        memory = {"dev_mib": round(memory_mib(process.popen.pid, "VmHWM"), 1)}
        if options.workload == "lateness":
            late = [float(called) - float(deadline) for called, deadline in calls]
            assert len(late) == options.count
            return {"lateness": late, **memory}
        seconds = counted.last_at - (first - house.settings.dispatch_ahead)
        return {"nodes": options.count, "nodes_per_second": options.count / seconds, **memory}
    finally:
        process.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("workload", choices=["burst", "lateness"])
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--strategy", choices=["rpush", "empty"], default="rpush")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        print(json.dumps(asyncio.run(run(options, Path(directory)))))


if __name__ == "__main__":
    main()
