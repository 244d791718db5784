"""The command line as subprocesses, on real servers, with the plug-in package installed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from node_timeout import BlockingNodeTimeout, NodeTimeout
from node_timeout.setting_rules import PREFIX
from node_timeout.settings import Settings
from tests.secret_watch import WATCH

PLUGIN = Path(__file__).parents[1] / "plugin"
# What `node-timeout` on the path is, with the tests' own interpreter.
NODE_TIMEOUT = [sys.executable, "-c", "from node_timeout.cli.main import main; main()"]


def environment(settings: Settings | None = None, **others: str) -> dict[str, str]:
    """The variables of a process that uses these settings."""
    found = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    found["PYTHONPATH"] = str(PLUGIN)
    found["PYTHONUNBUFFERED"] = "1"
    found[PREFIX + "CANARY_INTERVAL"] = "0"
    if settings:
        for name in settings.model_fields_set:
            value = getattr(settings, name)
            value = value.get_secret_value() if hasattr(value, "get_secret_value") else value
            if value is None:
                continue
            text = json.dumps(value) if isinstance(value, dict) else str(value)
            found[PREFIX + name.upper()] = text
        found["ENGINE_REDIS_URL"] = settings.redis_url.get_secret_value()
    return found | others


class Process:
    """A long-running command. Its log lines are in a file."""

    def __init__(self, command: list[str], env: dict[str, str], log: Path) -> None:
        self._log = log
        WATCH.follow(log)
        with log.open("wb") as output:
            self.popen = subprocess.Popen(
                command, env=env, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
            )

    @property
    def output(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def wait_for(self, text: str, time_limit: float = 30) -> None:
        """Wait until the process has written this text."""
        until = time.monotonic() + time_limit
        while text not in self.output:
            assert self.popen.poll() is None, f"ended with {self.popen.returncode}: {self.output}"
            assert time.monotonic() < until, f"no {text!r} in: {self.output}"
            time.sleep(0.02)

    def wait(self, time_limit: float = 30) -> int:
        return self.popen.wait(time_limit)

    def stop(self, time_limit: float = 30) -> int:
        """Ask it to stop, as a supervisor does; return its exit code."""
        self.popen.send_signal(signal.SIGTERM)
        return self.wait(time_limit)

    def kill(self) -> None:
        self.popen.kill()
        self.popen.wait()


Start = Callable[..., Process]


@pytest.fixture
def start(settings: Settings, tmp_path: Path) -> Iterator[Start]:
    """Start a command, by default with the test's settings; it is ended with the test."""
    started: list[Process] = []

    def start(
        *arguments: str, code: str = "", env: dict[str, str] | None = None, ready: str = "started"
    ) -> Process:
        """``code`` runs before the command line does: the place for a planted fault."""
        command = [sys.executable, "-c", f"{code}\nfrom node_timeout.cli.main import main; main()"]
        process = Process(
            command + list(arguments),
            environment(settings) if env is None else env,
            tmp_path / f"process{len(started)}.log",
        )
        started.append(process)
        if ready:
            process.wait_for(ready)
        return process

    yield start
    for process in started:
        if process.popen.poll() is None:
            process.popen.terminate()
    for process in started:
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()


@pytest.fixture
def run_cli(settings: Settings) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a command to its end."""

    def run(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        ended = subprocess.run(
            NODE_TIMEOUT + list(arguments),
            env=environment(settings) if env is None else env,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        WATCH.see(f"node-timeout {' '.join(arguments[:1])}", ended.stdout + ended.stderr)
        return ended

    return run


class EngineSide:
    """What a test sees and does on the side of the engine."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def run(self, *runs: tuple[str, str]) -> None:
        """The engine runs these nodes at these versions."""
        for node_id, version in runs:
            await self._redis.hset("engine:running", node_id, version)

    async def effects(self) -> list[dict[str, Any]]:
        return [json.loads(each) for each in await self._redis.lrange("engine:effects", 0, -1)]

    async def effect_of(self, node_id: str) -> str | None:
        found = [each["effect"] for each in await self.effects() if each["node_id"] == node_id]
        assert len(found) <= 1, f"acted on {node_id} {len(found)} times"
        return found[0] if found else None

    async def listed(self, key: str) -> list[str]:
        found: list[Any] = await self._redis.lrange(key, 0, -1)
        return [each.decode() for each in found]


@pytest.fixture
def engine_side(redis: Redis) -> EngineSide:
    return EngineSide(redis)


@pytest.fixture
async def settings(settings: Settings) -> Settings:
    """The real stores, and the engine of the plug-in package."""
    changes = {name: getattr(settings, name) for name in settings.model_fields_set}
    return Settings(**{**changes, "engine": "recording", "strategy_timeout": 2, "lease_seconds": 2})


@pytest.fixture
async def app(settings: Settings) -> Any:
    async with NodeTimeout(settings) as app:
        yield app


@pytest.fixture
def blocking(settings: Settings) -> Iterator[BlockingNodeTimeout]:
    with BlockingNodeTimeout(settings) as blocking:
        yield blocking
