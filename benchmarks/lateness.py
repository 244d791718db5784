"""1,000 deadlines spread over 10 s, two scanners, two workers, private servers: how late?

Run: make bench-lateness     (or: python benchmarks/lateness.py [--deadlines N] [--seconds S])

Every process shares one machine with the servers. The lateness of a node is the instant at which
its strategy is called, by the clock of Redis, minus its deadline. Prints the median of three
rounds, and fails if a node was handled twice, early, or not at all.
"""

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

from redis.asyncio import Redis

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "plugin")]

from node_timeout import NodeTimeout, Settings  # noqa: E402
from node_timeout.adapters.schema import Schema  # noqa: E402
from tests.servers import PostgresServer, RabbitServer, RedisServer  # noqa: E402

ROUNDS = 3
CLI = [sys.executable, "-c", "from node_timeout.cli import main; main()"]


async def one_round(
    settings: Settings, redis: Redis, deadlines: int, seconds: float
) -> list[float]:
    """Arm, wait for all effects, return the lateness of each node in seconds, sorted."""
    unique = uuid.uuid4().hex[:8]
    await redis.delete("engine:effects", "engine:running")
    nodes = {
        f"{unique}_{i}": {
            "type": "ServiceActivity",
            "timeout_config": {
                "enable": True,
                "action": "forced_fail",
                "seconds": 2 + seconds * i / deadlines,
            },
        }
        for i in range(deadlines)
    }
    async with NodeTimeout(settings) as app:
        await app.batch_create_node_timeout_config(unique, {"activities": nodes})
        await redis.hset("engine:running", mapping=dict.fromkeys(nodes, "v1"))
        await app.nodes_started([(node_id, "v1") for node_id in nodes])
    until = asyncio.get_running_loop().time() + seconds + 30
    while await redis.llen("engine:effects") < deadlines:
        if asyncio.get_running_loop().time() > until:
            sys.exit(f"only {await redis.llen('engine:effects')} of {deadlines} were handled")
        await asyncio.sleep(0.2)
    await asyncio.sleep(0.5)  # for a second strike, were there one
    effects = [json.loads(each) for each in await redis.lrange("engine:effects", 0, -1)]
    if len(effects) != deadlines or len({each["node_id"] for each in effects}) != deadlines:
        sys.exit(f"{len(effects)} effects for {deadlines} nodes")
    late = sorted(float(each["at"]) - float(each["deadline"]) for each in effects)
    if late[0] < 0:
        sys.exit(f"a node was struck {-late[0] * 1000:.3f} ms early")
    return late


def start(role: str, env: dict[str, str]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([*CLI, role], env=env)


async def measure(settings: Settings, deadlines: int, seconds: float) -> None:
    schema = Schema(settings.database_url.get_secret_value())
    await schema.migrate()
    await schema.close()
    env = os.environ | {
        "NODE_TIMEOUT_DATABASE_URL": settings.database_url.get_secret_value(),
        "NODE_TIMEOUT_REDIS_URL": settings.redis_url.get_secret_value(),
        "NODE_TIMEOUT_AMQP_URL": settings.amqp_url.get_secret_value(),
        "NODE_TIMEOUT_ENGINE": "recording",
        "NODE_TIMEOUT_LOG_LEVEL": "WARNING",
        "ENGINE_REDIS_URL": settings.redis_url.get_secret_value(),
        "PYTHONPATH": str(ROOT / "tests" / "plugin"),
    }
    processes = [start(role, env) for role in ("scan", "worker") * 2]
    try:
        async with Redis.from_url(settings.redis_url.get_secret_value()) as redis:
            await one_round(settings, redis, 50, 1)  # everyone is up and warm
            rounds = [await one_round(settings, redis, deadlines, seconds) for _ in range(ROUNDS)]
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"{deadlines} deadlines over {seconds:g} s, two scanners, two workers, {ROUNDS} rounds")
    for name, place in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("max", 1.0)):
        each = [late[min(int(len(late) * place), len(late) - 1)] * 1000 for late in rounds]
        shown = ", ".join(f"{ms:.1f}" for ms in each)
        print(f"{name}  {statistics.median(each):6.1f} ms   (rounds: {shown})")
    print("each handled exactly once, none early")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--deadlines", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=10.0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        with (
            RedisServer(directory) as redis,
            RabbitServer(directory) as rabbit,
            PostgresServer(directory) as postgres,
        ):
            settings = Settings(
                database_url=postgres.create_database("lateness"),
                redis_url=redis.url,
                amqp_url=rabbit.url,
            )
            asyncio.run(measure(settings, arguments.deadlines, arguments.seconds))


if __name__ == "__main__":
    main()
