"""What a state change of bamboo-engine costs: without us, with our Django app, with bamboo's own.

Run with the Python of the tests with bamboo-pipeline:

    .venv-bamboo/bin/python -m benchmarks.bamboo_states [--on mariadb] [--rounds 5]
        [--threads 60 | --on mariadb --greenlets 500]

Each side is a process with a database of its own on the same server; they take turns. Milliseconds
of `set_state`, the median of the rounds' medians; with ``--threads`` of so many threads at once,
with the 99th percentile, and that of ours over that without us; with ``--greenlets`` of so many
greenlets of gevent, on MariaDB, whose driver gives way to others while it waits.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

OURS, ORIGINAL = "node-timeout", "bamboo's own app"
SIDES = ("neither", OURS, ORIGINAL)
APPS = {OURS: ["node_timeout.contrib.bamboo"], ORIGINAL: ["pipeline.contrib.node_timeout"]}
BAMBOO = [
    *("django.contrib.auth", "django.contrib.contenttypes", "django_celery_beat"),
    *("pipeline", "pipeline.engine", "pipeline.component_framework"),
    *("pipeline.variable_framework", "pipeline.eri"),
]
CHANGES = ("RUNNING", "FINISHED")
CONFIGS = ("no config", "config")
ANSWER = "answer: "
MODULE = "benchmarks.bamboo_states"
GREEN = f"import gevent.monkey; gevent.monkey.patch_all(); from {MODULE} import main; main()"
"""Patched before anything else, as Celery does it with ``-P gevent``."""
NODES_OF_A_PIPELINE = 17
NODES = 20 * NODES_OF_A_PIPELINE
"""Of a round, for each kind; with many at once two for each of them."""

Times = dict[str, list[float]]
"""Milliseconds, by "<config> → <state>"."""


class Side:
    """The engine's runtime with one of the apps installed; it lives in a process of its own."""

    def __init__(self, name: str, database: str, redis: str) -> None:
        import django
        import pymysql
        from django.conf import settings

        from tests.bamboo.django_urls import database_of, redis_of

        pymysql.install_as_MySQLdb()
        settings.configure(
            SECRET_KEY="not a secret",
            USE_TZ=True,
            DEFAULT_AUTO_FIELD="django.db.models.AutoField",
            INSTALLED_APPS=[*BAMBOO, *APPS.get(name, [])],
            DATABASES={"default": database_of(database) | {"CONN_MAX_AGE": None}},
            REDIS=redis_of(redis),
            NODE_TIMEOUT={"database_url": database, "redis_url": redis},
            LOGGING={"version": 1, "root": {"level": "ERROR"}},
        )
        django.setup()
        from django.core.management import call_command

        call_command("migrate", verbosity=0)
        if name == ORIGINAL:
            # The line that the app lacks: it never imports its signal handlers.
            import pipeline.contrib.node_timeout.signals.handlers  # noqa: F401
        self.name = name
        self._numbers = iter(range(10**9))

    def round(self, threads: int) -> Times:
        """Change states of nodes in pipelines of their own; the times of each change."""
        times: Times = {f"{kind} → {state}": [] for kind in CONFIGS for state in CHANGES}
        with ThreadPoolExecutor(threads) as pool:
            for kind in CONFIGS:
                count = max(NODES, 2 * threads) // NODES_OF_A_PIPELINE
                roots = [self._root(kind) for _ in range(count)]
                nodes = [f"{root}n{i}" for root in roots for i in range(NODES_OF_A_PIPELINE)]
                run: Callable[[str], list[float]] = self._run_node
                for took in (pool.map if threads > 1 else map)(run, nodes):
                    for state, each in zip(CHANGES, took, strict=True):
                        times[f"{kind} → {state}"].append(each)
            if threads > 1:
                together = threading.Barrier(threads)
                list(pool.map(_close_connections, [together] * threads))
        return times

    def _root(self, kind: str) -> str:
        root = f"p{os.getpid()}r{next(self._numbers)}"
        if kind == "config":
            config = {"enable": True, "action": "forced_fail", "seconds": 600}
            activity = {"type": "ServiceActivity", "timeout_config": config}
            nodes = {f"{root}n{i}": dict(activity) for i in range(NODES_OF_A_PIPELINE)}
            store(self.name, {"id": root, "activities": nodes})
        return root

    def _run_node(self, node_id: str) -> list[float]:
        from pipeline.eri.runtime import BambooDjangoRuntime

        runtime, root = BambooDjangoRuntime(), node_id.partition("n")[0]
        runtime.set_state(node_id=node_id, to_state="READY", root_id=root, parent_id=root)
        took = []
        for state in CHANGES:
            began = time.perf_counter()
            runtime.set_state(node_id=node_id, to_state=state, set_started_time=True)
            took.append(1000 * (time.perf_counter() - began))
        return took


def _close_connections(together: threading.Barrier) -> None:
    """Each thread its own: they outlast the threads, and a server has only so many."""
    from django.db import connections

    together.wait()
    connections.close_all()


def store(side: str, tree: dict[str, Any]) -> None:
    """Store the configs of a tree as this side does."""
    if side == OURS:
        from node_timeout.contrib import bamboo as ours

        stored = ours.batch_create_node_timeout_config(tree["id"], tree)
    elif side == ORIGINAL:
        from pipeline.contrib.node_timeout import api as original

        stored = original.batch_create_node_timeout_config(tree["id"], tree)
    else:
        return
    assert stored["result"], stored


def serve(name: str) -> None:
    """The process of a side: a round for each line that it reads."""
    side = Side(name, os.environ["BENCH_DATABASE"], os.environ["BENCH_REDIS"])
    print(f"{ANSWER}ready", flush=True)
    for line in sys.stdin:
        print(f"{ANSWER}{json.dumps(side.round(int(line)))}", flush=True)


@contextmanager
def started(
    name: str, database: str, redis: str, *, has_greenlets: bool
) -> Iterator[subprocess.Popen[str]]:
    environment = os.environ | {"BENCH_DATABASE": database, "BENCH_REDIS": redis}
    process = subprocess.Popen(
        [sys.executable, *(["-c", GREEN] if has_greenlets else ["-m", MODULE]), "--side", name],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert answer(process) == "ready"
        yield process
    finally:
        process.kill()
        process.wait()


def ask(process: subprocess.Popen[str], threads: int) -> Times:
    assert process.stdin
    process.stdin.write(f"{threads}\n")
    process.stdin.flush()
    times: Times = json.loads(answer(process))
    return times


def answer(process: subprocess.Popen[str]) -> str:
    """What it says next; bamboo-pipeline prints lines of its own."""
    assert process.stdout
    for line in process.stdout:
        if line.startswith(ANSWER):
            return line.removeprefix(ANSWER).strip()
    raise RuntimeError("the process of a side has ended")


def percentile(times: list[float], share: float) -> float:
    return sorted(times)[min(len(times) - 1, int(len(times) * share))]


def measure(database: str, rounds: int, threads: int, *, has_greenlets: bool) -> None:
    from benchmarks.stores import Servers

    found: dict[str, list[Times]] = {name: [] for name in SIDES}
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        servers = stack.enter_context(Servers(Path(directory), database).running())
        processes = {}
        for name in SIDES:
            stores = servers.fresh()
            side = started(name, stores.database, stores.redis, has_greenlets=has_greenlets)
            processes[name] = stack.enter_context(side)
        for process in processes.values():
            ask(process, threads)  # a round that does not count
        for number in range(rounds):
            for name in SIDES[number % 3 :] + SIDES[: number % 3]:
                found[name].append(ask(processes[name], threads))
    tell(found, threads)


def tell(found: dict[str, list[Times]], threads: int) -> None:
    def figure(name: str, change: str, of: Callable[[list[float]], float]) -> float:
        return statistics.median(of(each[change]) for each in found[name])

    def p99(times: list[float]) -> float:
        return percentile(times, 0.99)

    more = " p99 of ours over none |" if threads > 1 else ""
    print(f"| change | {' | '.join(f'{name}, ms' for name in SIDES)} | ours over its |{more}")
    print(f"|---|---:|---:|---:|---:|{'---:|' if threads > 1 else ''}")
    for change in found[OURS][0]:
        medians = [figure(name, change, statistics.median) for name in SIDES]
        cells = [f"{each:.2f}" for each in medians]
        tail = ""
        if threads > 1:
            tail = f" {figure(OURS, change, p99) / figure(SIDES[0], change, p99):.2f} |"
            cells = [
                f"{cell} (p99 {figure(name, change, p99):.1f})"
                for name, cell in zip(SIDES, cells, strict=True)
            ]
        print(f"| {change} | {' | '.join(cells)} | {medians[1] / medians[2]:.2f} |{tail}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--on", choices=["postgresql", "mariadb"], default="postgresql")
    parser.add_argument("--rounds", type=int, default=5)
    many = parser.add_mutually_exclusive_group()
    many.add_argument("--threads", type=int, default=1)
    many.add_argument("--greenlets", type=int, default=0)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        serve(options.side)
    else:
        if options.greenlets and options.on != "mariadb":
            parser.error("psycopg2 stops every greenlet while it waits: --greenlets is for mariadb")
        at_once = options.greenlets or options.threads
        measure(options.on, options.rounds, at_once, has_greenlets=bool(options.greenlets))


if __name__ == "__main__":
    main()
