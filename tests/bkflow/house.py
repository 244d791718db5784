"""A project with BKFlow's versions on Python 3.9, and the daemon beside it in this environment.

``BKFLOW_PROJECT_PYTHON`` names the interpreter of the project's environment, in which
node-timeout-bamboo is installed. The servers are private ones.
"""

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from node_timeout.setting_rules import PREFIX
from tests.acceptance.conftest import NODE_TIMEOUT, Process
from tests.secret_watch import WATCH
from tests.servers import SECRET, MariadbServer, RabbitServer, RedisServer, free_port

ROOT = Path(__file__).parents[2]
PYTHON = os.environ.get("BKFLOW_PROJECT_PYTHON", "")
PROJECT = "tests.bamboo.project"
TOKEN, KEY = f"{SECRET}-engine-token", f"{SECRET}-signing-key"
REASON = "node {node_id} ran longer than {seconds} s"


class Hands:
    """`tests/bkflow/hands.py` in a process of the project; its methods are the functions there."""

    def __init__(self, env: dict[str, str], log: Path) -> None:
        self._log = log
        WATCH.follow(log)
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                [PYTHON, "-m", "tests.bkflow.hands"],
                env=env,
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self.version = str(self._answer())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*of: Any, **how: Any) -> Any:
            assert self._process.stdin
            self._process.stdin.write(json.dumps({"call": name, "of": of, "with": how}) + "\n")
            self._process.stdin.flush()
            return self._answer()

        return call

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    @property
    def log(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def _answer(self) -> Any:
        assert self._process.stdout
        for line in self._process.stdout:
            if line.startswith(('{"answer"', '{"error"')):
                said = json.loads(line)
                assert "error" not in said, said["error"] + self.log
                return said["answer"]
        raise AssertionError(f"it ended: {self.log}")


class House:
    """Everything that runs."""

    def __init__(self, directory: Path, project: dict[str, str], daemon: dict[str, str]) -> None:
        self.directory = directory
        self.project = project
        """Environment of the project's processes."""
        self.daemon = daemon
        self.processes: list[Process] = []
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/node_timeout"

    def start(self, command: list[str], env: dict[str, str], ready: str) -> Process:
        log = self.directory / f"{len(self.processes)}.log"
        process = Process(command, env, log)
        self.processes.append(process)
        process.wait_for(ready, 60)
        return process

    def start_celery(self) -> Process:
        """As BKFlow starts it: with threads."""
        options = ["-P", "threads", "-c", "4", "-Q", "er_execute,er_schedule", "-l", "info"]
        options += ["--without-mingle", "--without-gossip"]
        command = [PYTHON, "-m", "celery", "-A", PROJECT, "worker", *options]
        return self.start(command, self.project, "Connected to amqp")

    def start_web(self, port: int | None = None, **others: str) -> Process:
        served = [
            "-k",
            "gthread",
            "--threads",
            "4",
            "-w",
            "1",
            "-b",
            f"127.0.0.1:{port or self.port}",
        ]
        command = [PYTHON, "-m", "gunicorn", "django.core.wsgi:get_wsgi_application()", *served]
        return self.start(command, self.project | others, "Booting worker")

    def start_daemon(self, role: str) -> Process:
        return self.start([*NODE_TIMEOUT, role], self.daemon, "started")

    def run(self, *command: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False
        )

    def check_engine(self, *options: str, **others: str) -> subprocess.CompletedProcess[str]:
        return self.run(*NODE_TIMEOUT, "check-engine", self.url, *options, env=self.daemon | others)

    def hands(self, **others: str) -> Hands:
        name = f"hands{time.monotonic_ns()}.log"
        return Hands(self.project | others, self.directory / name)

    def stop(self) -> None:
        for process in self.processes:
            if process.popen.poll() is None:
                process.popen.terminate()
        for process in self.processes:
            try:
                process.popen.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def wait(condition: Callable[[], Any], time_limit: float = 40) -> Any:
    until = time.monotonic() + time_limit
    while not (found := condition()):
        assert time.monotonic() < until, f"not within {time_limit} s"
        time.sleep(0.05)
    return found


def environments(
    directory: Path, database: str, redis: RedisServer, rabbit: RabbitServer
) -> tuple[dict[str, str], dict[str, str]]:
    """Of the project, and of the daemon."""
    inherited = {name: value for name, value in os.environ.items() if name[:13] != PREFIX}
    inherited |= {"PYTHONUNBUFFERED": "1"}
    project = {
        "PYTHONPATH": str(ROOT),
        "DJANGO_SETTINGS_MODULE": f"{PROJECT}.settings",
        "BAMBOO_TEST_DATABASE_URL": database,
        "BAMBOO_TEST_REDIS_URL": redis.url,
        "BAMBOO_TEST_BROKER_URL": rabbit.url,
        "BAMBOO_TEST_APPS": json.dumps(["node_timeout.contrib.bamboo"]),
        "NODE_TIMEOUT_ENGINE_TOKEN": TOKEN,
        "NODE_TIMEOUT_ENGINE_SIGNING_KEY": KEY,
    }
    daemon = {
        "NODE_TIMEOUT_DATABASE_URL": database,
        "NODE_TIMEOUT_REDIS_URL": redis.url,
        "NODE_TIMEOUT_AMQP_URL": rabbit.url,
        "NODE_TIMEOUT_ENGINE": "http",
        "NODE_TIMEOUT_CANARY_INTERVAL": "0",
        "NODE_TIMEOUT_ENGINE_TOKEN": TOKEN,
        "NODE_TIMEOUT_ENGINE_SIGNING_KEY": KEY,
        "NODE_TIMEOUT_REASON": REASON,
        "NODE_TIMEOUT_ENGINE_SURVEY": "true",
        "NODE_TIMEOUT_SURVEY_PAUSE": "1",
        "NODE_TIMEOUT_RETRY_BACKOFF_MAX": "1",
        "NODE_TIMEOUT_LEASE_SECONDS": "3",
        "NODE_TIMEOUT_RECONCILE_PAUSE": "1",
        "NODE_TIMEOUT_REDISPATCH_AFTER": "5",
    }
    return inherited | project, inherited | daemon


def migrated(house: House) -> str:
    """Django's tables by Django, ours by the daemon; what Django's command said."""
    django = house.run(PYTHON, "-m", "django", "migrate", env=house.project)
    assert django.returncode == 0, django.stderr
    ours = house.run(*NODE_TIMEOUT, "migrate", env=house.daemon)
    assert ours.returncode == 0, ours.stderr
    return django.stdout


@pytest.fixture(scope="session", name="house")
def a_house(
    tmp_path_factory: pytest.TempPathFactory,
    redis_server: RedisServer,
    rabbit_server: RabbitServer,
    mariadb_server: MariadbServer,
) -> Iterator[House]:
    directory = tmp_path_factory.mktemp("bkflow")
    url = mariadb_server.create_database("bkflow")
    house = House(directory, *environments(directory, url, redis_server, rabbit_server))
    house.daemon["NODE_TIMEOUT_ENGINE_URL"] = house.url
    try:
        assert "its tables are missing" in migrated(house)
        house.start_web()
        house.start_celery()
        house.start_daemon("scan")
        house.start_daemon("worker")
        yield house
    finally:
        house.stop()


@pytest.fixture(scope="session")
def hands(house: House) -> Iterator[Hands]:
    with house.hands() as hands:
        yield hands
