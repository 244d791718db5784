"""bamboo-pipeline with Celery workers, and node-timeout beside it, on private servers.

The database is that which ``BAMBOO_TEST_DATABASE`` names: ``mariadb`` or ``postgresql``. Django is
set up once a process, so another database is another run.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from node_timeout.domain.run import RunState
from tests.acceptance.conftest import NODE_TIMEOUT, Process
from tests.servers import MariadbServer, PostgresServer, RabbitServer, RedisServer

ROOT = Path(__file__).parents[2]
PROJECT = "tests.bamboo.project"
DATABASE = os.environ.get("BAMBOO_TEST_DATABASE", "postgresql")
OWN_APP = "node_timeout.contrib.bamboo"
BAMBOO_APP = "pipeline.contrib.node_timeout"
DROPIN_APP = "tests.bamboo.dropin"
QUEUES = "er_execute,er_schedule"


def elsewhere(house: "House") -> dict[str, str]:
    """The same database by a name that Django does not know it by: it is none of the project's."""
    url = house.env["BAMBOO_TEST_DATABASE_URL"]
    assert "@127.0.0.1:" in url
    return {"BAMBOO_TEST_LEDGER_URL": url.replace("@127.0.0.1:", "@127.1:")}


class House:
    """Everything that runs, and the hands of a user of bamboo-pipeline."""

    def __init__(self, directory: Path, env: dict[str, str]) -> None:
        self.directory = directory
        self.env = env
        self._count = 0
        self.processes: list[Process] = []
        """All of them; also those that did not become ready."""
        self.workers: list[Process] = []

    def start(self, command: list[str], ready: str, **others: str) -> Process:
        self._count += 1
        process = Process(command, self.env | others, self.directory / f"{self._count}.log")
        self.processes.append(process)
        process.wait_for(ready, 60)
        return process

    def start_celery(
        self, queues: str = QUEUES, *, pool: tuple[str, ...] = ("-c", "3"), **others: str
    ) -> Process:
        command = [sys.executable, "-m", "celery", "-A", PROJECT, "worker", *pool]
        name = f"w{self._count}@test"
        options = ["-Q", queues, "-l", "info", "-n", name, "--without-mingle", "--without-gossip"]
        return self.start([*command, *options], "Connected to amqp", **others)

    @contextlib.contextmanager
    def celery(
        self, queues: str, *, pool: tuple[str, ...] = ("-c", "3"), **others: str
    ) -> Iterator[Process]:
        """One test's own Celery. It ends with the test, lest it take tasks of the next one."""
        process = self.start_celery(queues, pool=pool, **others)
        try:
            yield process
        finally:
            end(process)

    def start_scan(self) -> Process:
        return self.start([*NODE_TIMEOUT, "scan"], "started")

    def start_worker(self, command: Sequence[str] = (), **others: str) -> Process:
        worker = self.start([*(command or [*NODE_TIMEOUT, "worker"])], "started", **others)
        self.workers.append(worker)
        return worker

    def ensure_workers(self, count: int = 2) -> None:
        self.workers = [each for each in self.workers if each.popen.poll() is None]
        while len(self.workers) < count:
            self.start_worker()

    def only_worker(self, command: Sequence[str] = (), **others: str) -> Process:
        """End the workers there are; start one."""
        for worker in self.workers:
            if worker.popen.poll() is None:
                worker.stop()
        self.workers = []
        return self.start_worker(command, **others)

    def stop(self) -> None:
        """End what is still running; bamboo's workers may be busy with nodes that hang."""
        for process in self.processes:
            if process.popen.poll() is None:
                process.popen.terminate()
        for process in self.processes:
            end(process)

    # The hands of a user

    def client(self) -> Any:
        from node_timeout.contrib.bamboo import client

        return client()

    def activity(self, code: str = "test_poll", **inputs: Any) -> Any:
        from bamboo_engine.builder import ServiceActivity, Var

        node = ServiceActivity(component_code=code)
        for key, value in inputs.items():
            setattr(node.component.inputs, key, Var(type=Var.PLAIN, value=value))
        return node

    def tree(self, *nodes: Any, data: Any = None) -> dict[str, Any]:
        from bamboo_engine.builder import EmptyEndEvent, EmptyStartEvent, build_tree

        start = EmptyStartEvent()
        last = start
        for node in [*nodes, EmptyEndEvent()]:
            last = last.extend(node)
        tree: dict[str, Any] = build_tree(start, data=data)
        return tree

    def run(self, tree: dict[str, Any], configs: dict[str, Any] | None = None, **how: Any) -> str:
        """Store the configs (by node id), run the pipeline; return its id."""
        from node_timeout.contrib.bamboo import apply_node_timeout_configs

        root: str = tree["id"]
        tree = apply_node_timeout_configs(tree, configs or {})
        stored = self.client().batch_create_node_timeout_config(root, tree)
        assert stored["result"], stored
        self.act("run_pipeline", pipeline=tree, **how)
        return root

    def act(self, name: str, **call: Any) -> Any:
        """Call ``bamboo_engine.api``."""
        from bamboo_engine import api
        from pipeline.eri.runtime import BambooDjangoRuntime

        result = getattr(api, name)(runtime=BambooDjangoRuntime(), **call)
        assert result.result, result.exc_trace
        return result.data

    def state(self, node_id: str) -> Any:
        from pipeline.eri.models import State

        return State.objects.filter(node_id=node_id).first()

    def name(self, node_id: str) -> str:
        state = self.state(node_id)
        return state.name if state else ""

    def outputs(self, node_id: str) -> dict[str, Any]:
        from pipeline.eri.runtime import BambooDjangoRuntime

        outputs: dict[str, Any] = BambooDjangoRuntime().get_execution_data_outputs(node_id)
        return outputs

    def rows(self, node_id: str) -> list[Any]:
        rows: list[Any] = self.client().rows(node_id)
        return rows

    def handled(self, node_id: str) -> Any:
        """The row of the run that was dealt with, once it is."""
        return self.wait(
            lambda: [row for row in self.rows(node_id) if row.state is RunState.HANDLED]
        )[0]

    def row(self, node_id: str) -> Any:
        (row,) = self.rows(node_id)
        return row

    def wait(self, condition: Callable[[], Any], time_limit: float = 40) -> Any:
        until = time.monotonic() + time_limit
        while not (found := condition()):
            assert time.monotonic() < until, f"not within {time_limit} s"
            time.sleep(0.05)
        return found

    def wait_for(self, node_id: str, state: str, time_limit: float = 40) -> None:
        until = time.monotonic() + time_limit
        while (name := self.name(node_id)) != state:
            assert time.monotonic() < until, f"{name}, not {state} within {time_limit} s"
            time.sleep(0.05)

    def wait_for_run(self, node_id: str, state: RunState) -> None:
        """Until the one run of a node, which may not be in the ledger yet, has this state."""
        self.wait(lambda: [row.state for row in self.rows(node_id)] == [state])


def end(process: Process) -> None:
    if process.popen.poll() is None:
        process.popen.terminate()
    try:
        process.popen.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()


def fail(seconds: float = 2) -> dict[str, Any]:
    return {"enable": True, "action": "forced_fail", "seconds": seconds}


def skip(seconds: float = 2) -> dict[str, Any]:
    return {"enable": True, "action": "forced_fail_and_skip", "seconds": seconds}


@pytest.fixture(scope="session")
def house(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    redis_server: RedisServer,
    rabbit_server: RabbitServer,
) -> Iterator[House]:
    house = build(request, tmp_path_factory.mktemp("house"), redis_server, rabbit_server)
    try:
        house.start_celery()
        house.start_scan()
        yield house
    finally:
        house.stop()


def build(
    request: pytest.FixtureRequest, directory: Path, redis: RedisServer, rabbit: RabbitServer
) -> House:
    """Databases migrated, Django set up in this process; nothing runs yet."""
    server: MariadbServer | PostgresServer = request.getfixturevalue(
        {"mariadb": "mariadb_server", "postgresql": "postgres_server"}[DATABASE]
    )
    url = server.create_database("bamboo")
    variables = {
        "DJANGO_SETTINGS_MODULE": f"{PROJECT}.settings",
        "BAMBOO_TEST_DATABASE_URL": url,
        "BAMBOO_TEST_REDIS_URL": redis.url,
        "BAMBOO_TEST_BROKER_URL": rabbit.url,
        "BAMBOO_TEST_APPS": json.dumps([OWN_APP]),
    }
    all_apps = {"BAMBOO_TEST_APPS": json.dumps([OWN_APP, BAMBOO_APP])}
    daemons = {
        "NODE_TIMEOUT_DATABASE_URL": url,
        "NODE_TIMEOUT_REDIS_URL": redis.url,
        "NODE_TIMEOUT_AMQP_URL": rabbit.url,
        "NODE_TIMEOUT_ENGINE": "bamboo",
        "NODE_TIMEOUT_STRATEGY_TIMEOUT": "5",
        "NODE_TIMEOUT_LEASE_SECONDS": "3",
        "NODE_TIMEOUT_SURVEY_PAUSE": "1",
        "NODE_TIMEOUT_RETRY_BACKOFF_MAX": "2",
        "NODE_TIMEOUT_CANARY_INTERVAL": "0",
    }
    os.environ |= variables
    inherited = {name: value for name, value in os.environ.items() if name[:13] != "NODE_TIMEOUT_"}
    env = inherited | variables | daemons
    env |= {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    house = House(directory, env)
    for command in (
        [sys.executable, "-m", "django", "migrate", "--verbosity", "0"],
        [*NODE_TIMEOUT, "migrate"],
    ):
        migration = Process(command, env | all_apps, directory / "migrate.log")
        assert migration.popen.wait(300) == 0, migration.output
    import django

    django.setup()
    return house
