"""How many nodes a second bamboo-engine runs: without us, with our Django app, with bamboo's own.

Run with the Python of the tests with bamboo-pipeline:

    .venv-bamboo/bin/python -m benchmarks.bamboo_pipelines [--on mariadb] [--rounds 5]

60 pipelines of 17 nodes that end at once, by four processes of Celery. Each side has a Celery, its
queues and a database; they take turns. No scanner and no worker runs: no deadline comes.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.bamboo_states import ANSWER, ORIGINAL, OURS, SIDES, answer, store
from benchmarks.stores import Servers, Stores

QUEUES = {"neither": "", OURS: "dropin", ORIGINAL: "pools"}
"""Of Celery, as the tests' project has them."""
APPS = {
    OURS: ["node_timeout.contrib.bamboo"],
    # The second imports the signal handlers of the first, which it does not do itself.
    ORIGINAL: ["pipeline.contrib.node_timeout", "tests.bamboo.dropin"],
}
PROJECT = "tests.bamboo.project"
PIPELINES, NODES = 60, 17
CELERY_PROCESSES = 4
CONFIGS = ("no config", "config")
TIME_LIMIT = 300.0


class Side:
    """Starts pipelines, and waits for their end; it lives in a process of its own."""

    def __init__(self, name: str) -> None:
        import django

        django.setup()
        self.name = name

    def round(self, kind: str) -> float:
        """Nodes a second, from the first pipeline's start to the last one's end."""
        from bamboo_engine import api
        from pipeline.eri.models import State
        from pipeline.eri.runtime import BambooDjangoRuntime

        trees = [self._tree(kind) for _ in range(PIPELINES)]
        queue = {"queue": QUEUES[self.name]} if QUEUES[self.name] else {}
        began = time.perf_counter()
        for tree in trees:
            result = api.run_pipeline(runtime=BambooDjangoRuntime(), pipeline=tree, **queue)
            assert result.result, result.exc_trace
        roots = [tree["id"] for tree in trees]
        ended = State.objects.filter(node_id__in=roots, name="FINISHED")
        while ended.count() < PIPELINES:
            assert time.perf_counter() - began < TIME_LIMIT, "the pipelines have not ended"
            time.sleep(0.05)
        return PIPELINES * NODES / (time.perf_counter() - began)

    def _tree(self, kind: str) -> dict[str, Any]:
        from bamboo_engine.builder import (
            EmptyEndEvent,
            EmptyStartEvent,
            ServiceActivity,
            Var,
            build_tree,
        )

        start = EmptyStartEvent()
        last = start
        for _ in range(NODES):
            node = ServiceActivity(component_code="test_busy")
            node.component.inputs.seconds = Var(type=Var.PLAIN, value=0)
            node.component.inputs.file = Var(type=Var.PLAIN, value=os.devnull)
            last = last.extend(node)
        last.extend(EmptyEndEvent())
        tree: dict[str, Any] = build_tree(start)
        if kind == "config":
            for node in tree["activities"].values():
                node["timeout_config"] = {"enable": True, "action": "forced_fail", "seconds": 600}
            store(self.name, tree)
        return tree


def serve(name: str) -> None:
    """The process of a side: a round for each line that it reads."""
    side = Side(name)
    print(f"{ANSWER}ready", flush=True)
    for line in sys.stdin:
        print(f"{ANSWER}{json.dumps(side.round(line.strip()))}", flush=True)


@dataclass(frozen=True, slots=True)
class Running:
    """The two processes of a side."""

    driver: "subprocess.Popen[str]"
    celery: "subprocess.Popen[bytes]"

    def round(self, kind: str) -> float:
        assert self.driver.stdin
        self.driver.stdin.write(f"{kind}\n")
        self.driver.stdin.flush()
        found: float = json.loads(answer(self.driver))
        return found


@contextmanager
def started(name: str, stores: Stores) -> Iterator[Running]:
    environment = os.environ | {
        "DJANGO_SETTINGS_MODULE": f"{PROJECT}.settings",
        "BAMBOO_TEST_DATABASE_URL": stores.database,
        "BAMBOO_TEST_REDIS_URL": stores.redis,
        "BAMBOO_TEST_BROKER_URL": stores.amqp,
        "BAMBOO_TEST_APPS": json.dumps(APPS.get(name, [])),
    }
    migrate = [sys.executable, "-m", "django", "migrate", "--verbosity", "0"]
    # bamboo-pipeline looks for its tables before they are made, and complains at length.
    subprocess.run(migrate, env=environment, check=True, stderr=subprocess.DEVNULL)
    driver = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.bamboo_pipelines", "--side", name],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert answer(driver) == "ready"
    suffix = f"_{QUEUES[name]}" if QUEUES[name] else ""
    queues = f"er_execute{suffix},er_schedule{suffix}"
    celery = subprocess.Popen(
        [
            *(sys.executable, "-m", "celery", "-A", PROJECT, "worker", "-c", str(CELERY_PROCESSES)),
            *("-Q", queues, "-n", f"{len(suffix)}@bench", "--without-mingle", "--without-gossip"),
        ],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield Running(driver, celery)
    finally:
        for process in (driver, celery):
            process.terminate()
        for process in (driver, celery):
            process.wait(60)


def measure(database: str, rounds: int) -> None:
    found: dict[tuple[str, str], list[float]] = {
        (name, kind): [] for name in SIDES for kind in CONFIGS
    }
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        servers = stack.enter_context(Servers(Path(directory), database).running())
        sides = {name: stack.enter_context(started(name, servers.fresh())) for name in SIDES}
        for side in sides.values():
            side.round("config")  # a round that does not count
        for number in range(rounds):
            for name in SIDES[number % 3 :] + SIDES[: number % 3]:
                for kind in CONFIGS:
                    found[name, kind].append(sides[name].round(kind))
    print(
        "| nodes | "
        + " | ".join(f"{name}, nodes/s" for name in SIDES)
        + " | lost by ours | by its |"
    )
    print("|---|---:|---:|---:|---:|---:|")
    for kind in CONFIGS:
        medians = [statistics.median(found[name, kind]) for name in SIDES]
        cells = [
            f"{median:.0f} ({min(found[name, kind]):.0f} … {max(found[name, kind]):.0f})"
            for name, median in zip(SIDES, medians, strict=True)
        ]
        lost = [f"{100 * (1 - median / medians[0]):.0f} %" for median in medians[1:]]
        print(f"| {kind} | {' | '.join([*cells, *lost])} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--on", choices=["postgresql", "mariadb"], default="postgresql")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        serve(options.side)
    else:
        measure(options.on, options.rounds)


if __name__ == "__main__":
    main()
