"""The original: ``pipeline.contrib.node_timeout`` of bamboo-pipeline, at its best.

Its own scanner command in one process, its own Celery tasks in a worker (``-c 4``, prefork) that
consumes both of its queues, its own tables filled so that all its checks pass. In its favour:

- connections to the database are kept, by Django (CONN_MAX_AGE) and by Celery (DB_REUSE_MAX,
  without which Celery opens one for each task);
- the tables have statistics, and each node a pipeline of its own;
- only errors are logged; results are ignored; the worker has no peers to talk to;
- the prefetch multiplier is Celery's default, 4: no other is faster, and 1 is slower by a third.

Tasks are sent and acknowledged as it does: without RabbitMQ's confirmation, and those that call
the strategy acknowledged before they run.

    idle  CPU and memory while nodes wait, their deadlines a day ahead
    arm   its receiver of bamboo's signal, in one process

The node id holds the deadline in microseconds, since the strategy is told nothing else.
"""

import argparse
import os
import secrets
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import celery
import django
import redis
from celery.signals import worker_ready
from django.conf import settings
from django.core.management import call_command

from benchmarks.sides import common

MODULE = "benchmarks.sides.original"
POOL = "executing_node_pool"
QUEUES = ("node_timeout_dispatch", "node_timeout_handle")
ACTION = "bench"
ROWS_AT_ONCE = 1_000
MEMBERS_AT_ONCE = 10_000
SETTLING_SECONDS = 3.0
DAY = 86_400.0


def node_id_of(deadline: float) -> str:
    return f"{round(deadline * 1_000_000):016x}{secrets.token_hex(8)}"


def deadline_of(node_id: str) -> float:
    return int(node_id[:16], 16) / 1_000_000


class Handler:
    """In the place of one of its strategies."""

    def __init__(self) -> None:
        self._strategy = common.Strategy()

    def deal_with_timeout_node(self, node_id: str, *_: Any, **__: Any) -> dict[str, Any]:
        self._strategy.call(deadline_of(node_id))
        return {"result": True, "message": "", "data": None}


class NotingRedis:
    """The scanner's Redis client; notes that it scans, and its first claim."""

    def __init__(self, client: Any, claim: Path) -> None:
        self._client = client
        self._claim = claim
        self._scans = False
        self._has_claimed = False

    def zrangebyscore(self, *args: Any) -> Any:
        members = self._client.zrangebyscore(*args)
        if members and not self._has_claimed:
            self._has_claimed = True
            self._claim.write_text(repr(time.time()))
        if not self._scans:
            self._scans = True
            common.tell_ready()
        return members

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


def set_up() -> Any:
    """Celery's app and Django in this process."""
    os.environ["DJANGO_SETTINGS_MODULE"] = "benchmarks.sides.original_settings"
    app = celery.Celery("bench", broker=common.stores().amqp)
    app.conf.update(
        CELERY_DB_REUSE_MAX=sys.maxsize,
        task_ignore_result=True,
        worker_enable_remote_control=False,
        worker_hijack_root_logger=False,
        broker_connection_retry_on_startup=True,
    )
    django.setup()
    return app


class Original(common.Side):
    arms_per_second = 800

    def __init__(self) -> None:
        super().__init__(common.stores())
        self._claim = Path(os.devnull)

    def start(self, processes: common.Processes) -> None:
        set_up()
        migrate()
        self._claim = processes.directory / "claim"
        os.environ["BENCH_CLAIM"] = str(self._claim)
        processes.start("scanner")
        super().start(processes)

    def arm(self, deadlines: Sequence[float]) -> None:
        nodes = [(node_id_of(each), secrets.token_hex(16), each) for each in deadlines]
        fill_tables([(node_id, version) for node_id, version, _ in nodes])
        client = redis.Redis.from_url(self.stores.redis)
        for part in common.parts(nodes, MEMBERS_AT_ONCE):
            client.zadd(POOL, {f"{node_id}_{version}": score for node_id, version, score in part})

    def clear(self) -> None:
        redis.Redis.from_url(self.stores.redis).delete(POOL)
        common.delete_queues(self.stores.amqp, *QUEUES)

    def claimed_at(self, due: float) -> float:
        claimed_at = float(self._claim.read_text("ascii"))
        assert claimed_at >= due
        return claimed_at


def migrate() -> None:
    """Make its tables and those of bamboo's that it reads, and no others."""
    call_command("migrate", "eri", verbosity=0)
    call_command("migrate", "node_timeout", verbosity=0)


def fill_tables(nodes: Sequence[tuple[str, str]]) -> None:
    """Config, process and state of nodes that run, given with their versions."""
    from django.db import connection
    from pipeline.contrib.node_timeout.models import TimeoutNodeConfig
    from pipeline.eri.models import Process, State

    for part in common.parts(nodes, ROWS_AT_ONCE):
        roots = [secrets.token_hex(16) for _ in part]
        both = list(zip(part, roots, strict=True))
        TimeoutNodeConfig.objects.bulk_create(
            TimeoutNodeConfig(root_pipeline_id=root, action=ACTION, node_id=node_id, timeout=60)
            for (node_id, _), root in both
        )
        Process.objects.bulk_create(
            Process(root_pipeline_id=root, current_node_id=node_id, priority=100)
            for (node_id, _), root in both
        )
        State.objects.bulk_create(
            State(node_id=node_id, version=version, root_id=root, name="RUNNING")
            for (node_id, version), root in both
        )
    names = ", ".join(model._meta.db_table for model in (TimeoutNodeConfig, Process, State))  # noqa: SLF001
    table = "" if connection.vendor == "postgresql" else "TABLE"
    with connection.cursor() as cursor:
        cursor.execute(f"ANALYZE {table} {names}")


def worker() -> None:
    app = set_up()
    settings.PIPELINE_NODE_TIMEOUT_HANDLER = {ACTION: Handler()}
    worker_ready.connect(lambda **_: common.tell_ready(), weak=False)
    quiet = ["--without-mingle", "--without-gossip", "--loglevel", "ERROR"]
    app.worker_main(["worker", "--concurrency", "4", "--queues", ",".join(QUEUES), *quiet])


def scanner() -> None:
    set_up()
    settings.redis_inst = NotingRedis(settings.redis_inst, Path(os.environ["BENCH_CLAIM"]))
    call_command("start_node_timeout_process")


def idle(arguments: argparse.Namespace, processes: common.Processes) -> common.Result:
    on = common.stores()
    client = redis.Redis.from_url(on.redis)
    set_up()
    migrate()
    before = _used_memory(client)
    later = time.time() + DAY
    for first in range(0, arguments.count, MEMBERS_AT_ONCE):
        size = min(MEMBERS_AT_ONCE, arguments.count - first)
        members = {f"{secrets.token_hex(16)}_{secrets.token_hex(16)}": later for _ in range(size)}
        client.zadd(POOL, members)
    used = _used_memory(client) - before
    os.environ["BENCH_CLAIM"] = os.devnull
    pids = processes.start("scanner"), on.redis_pid
    time.sleep(SETTLING_SECONDS)
    since, started = time.monotonic(), [common.cpu_seconds(pid) for pid in pids]
    time.sleep(arguments.seconds)
    minutes = (time.monotonic() - since) / 60
    spent = [common.cpu_seconds(pid) - cpu for pid, cpu in zip(pids, started, strict=True)]
    if client.zcard(POOL) != arguments.count:
        sys.exit(f"{client.zcard(POOL)} of {arguments.count} nodes are in the pool")
    return {
        "scanner_cpu_seconds_per_minute": spent[0] / minutes,
        "redis_cpu_seconds_per_minute": spent[1] / minutes,
        "redis_bytes_per_node": used / arguments.count,
        "scanner_rss_mib": processes.resident_mib("scanner"),
    }


def _used_memory(client: Any) -> int:
    client.slowlog_reset()
    used: int = client.info("memory")["used_memory"]
    return used


def arm(arguments: argparse.Namespace, _: common.Processes) -> common.Result:
    set_up()
    migrate()
    from bamboo_engine import states
    from pipeline.contrib.node_timeout.signals import handlers

    deadline = time.time() + DAY
    nodes = [(node_id_of(deadline), secrets.token_hex(16)) for _ in range(arguments.count)]
    fill_tables(nodes)
    since = time.perf_counter()
    for node_id, version in nodes:
        handlers.bamboo_engine_eri_node_state_handler(
            sender=None,
            node_id=node_id,
            to_state=states.RUNNING,
            version=version,
            root_id="",
            parent_id="",
            loop=1,
        )
    seconds = time.perf_counter() - since
    armed = redis.Redis.from_url(common.stores().redis).zcard(POOL)
    if armed != arguments.count:
        sys.exit(f"{armed} of {arguments.count} nodes are in the pool")
    return {"nodes_per_second": arguments.count / seconds}


if __name__ == "__main__":
    common.main(
        MODULE,
        __doc__,
        Original(),
        roles={"worker": worker, "scanner": scanner},
        measures={"idle": idle, "arm": arm},
    )
