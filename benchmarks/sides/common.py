"""What the other sides share: their commands, their processes, the rounds, and the strategy.

A side is a module that is run as ``python -m benchmarks.sides.NAME COMMAND``, with the JSON of
``Stores`` in BENCH_STORES. It starts the processes it needs, runs one round, stops them, and prints
one JSON object as its last line. It fails if a node was lost.

    burst     all nodes are due at one instant and were armed before it
    lateness  deadlines evenly spread, armed before the first of them

Its processes are the same module with another command, its role. They find in their environment
BENCH_STORES, BENCH_STRATEGY, BENCH_TALLY (see ``tally.py``) and BENCH_READY, the file that they
make once they serve.
"""

import argparse
import contextlib
import json
import os
import signal
import struct
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import kombu
import redis
import redis.asyncio

from benchmarks.stores import Stores
from benchmarks.tally import Count, Tally, count

ROOT = Path(__file__).parents[2]
CALLS = "bench:calls"
READY_SECONDS = 60.0
STOP_SECONDS = 30.0
STALL_SECONDS = 30.0
"""Without a call for so long, what is missing is taken for lost."""
LEAD_SECONDS = 3.0
"""From the end of arming, as it is foreseen, to the first deadline."""

Item = TypeVar("Item")
Result = dict[str, Any]
Command = Callable[[argparse.Namespace, "Processes"], Result]


def stores() -> Stores:
    return Stores.from_json(os.environ["BENCH_STORES"])


class Strategy:
    """Called for a node that is due: counted and, if so named, one RPUSH of "<instant> <deadline>".

    Its connection is made at the first call, that is after a fork.
    """

    def __init__(self) -> None:
        self._tally = Tally()
        self._redis: redis.Redis | None = None
        self._pushes = os.environ["BENCH_STRATEGY"] == "rpush"

    def call(self, deadline: float) -> None:
        now = self._tally.add()
        if self._pushes:
            if self._redis is None:
                self._redis = redis.Redis.from_url(stores().redis)
            self._redis.rpush(CALLS, f"{now!r} {deadline!r}")


class AsyncStrategy:
    """The same where the worker is asyncio's."""

    def __init__(self) -> None:
        self._tally = Tally()
        self._redis = redis.asyncio.Redis.from_url(stores().redis)
        self._pushes = os.environ["BENCH_STRATEGY"] == "rpush"

    async def call(self, deadline: float) -> None:
        now = self._tally.add()
        if self._pushes:
            await self._redis.rpush(CALLS, f"{now!r} {deadline!r}")

    async def close(self) -> None:
        await self._redis.aclose()


def tell_ready() -> None:
    """Said by a process of a side once it serves."""
    Path(os.environ["BENCH_READY"]).touch()


class Processes:
    """The processes of a round, each with its log; leaving the context stops them all."""

    def __init__(self, module: str, directory: Path) -> None:
        self._module = module
        self.directory = directory
        self.tally = directory / "tally"
        self.tally.mkdir()
        self._started: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for process in self._started.values():
            process.terminate()
        for name, process in self._started.items():
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                print(f"{name} did not stop within {STOP_SECONDS:g} s", file=sys.stderr)
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self._started.clear()

    def start(self, role: str, name: str = "") -> int:
        """Start a process of this role, wait until it is ready, return its pid."""
        name = name or role
        log, ready = self.directory / f"{name}.log", self.directory / f"{name}.ready"
        environment = os.environ | {"BENCH_READY": str(ready), "BENCH_TALLY": str(self.tally)}
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", self._module, role],
                cwd=ROOT,
                env=environment,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._started[name] = process
        until = time.monotonic() + READY_SECONDS
        while not ready.exists():
            if process.poll() is not None or time.monotonic() > until:
                sys.exit(f"{name} did not start:\n{self._end_of(log)}")
            time.sleep(0.02)
        return process.pid

    def resident_mib(self, role: str) -> float:
        """Resident memory of the processes of this role and their children.

        A page that several of them share counts in each.
        """
        pids = [p.pid for name, p in self._started.items() if name.startswith(role)]
        return round(sum(_resident_kib(pid) for pid in pids) / 1024, 1)

    def logs(self) -> str:
        """The last lines of each log that is not empty."""
        ends = {log.stem: self._end_of(log) for log in sorted(self.directory.glob("*.log"))}
        return "\n".join(f"{name}: {end}" for name, end in ends.items() if end)

    @staticmethod
    def _end_of(log: Path) -> str:
        return log.read_text(errors="replace")[-2000:].strip()


def _resident_kib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text("ascii")
    own = int(status.partition("VmRSS:")[2].split()[0])
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()
    return own + sum(_resident_kib(int(child)) for child in children)


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Side(ABC):
    """One way to have a function called at a deadline, on the given stores."""

    arms_per_second: ClassVar[float]
    """Never slower than this, also on a busy machine; the first deadline is chosen by it."""
    worker_processes: ClassVar[int] = 1

    def __init__(self, on: Stores) -> None:
        self.stores = on

    def start(self, processes: Processes) -> None:
        """Start what is needed; return when all of it is ready."""
        for i in range(self.worker_processes):
            processes.start("worker", f"worker-{i}")

    @abstractmethod
    def arm(self, deadlines: Sequence[float]) -> None:
        """Have the strategy called at each of these (Unix seconds, ascending).

        Returns when all of them are where they wait for their instant.
        """

    @abstractmethod
    def clear(self) -> None:
        """Remove from Redis and RabbitMQ what a round has left there."""

    def claimed_at(self, due: float) -> float:
        """The instant at which work on nodes due at ``due`` began."""
        return due


def parts(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    return (items[first : first + size] for first in range(0, len(items), size))


def delete_queues(amqp: str, *names: str) -> None:
    """Those that are not there are no error."""
    with kombu.Connection(amqp) as connection:
        for name in names:
            connection.default_channel.queue_delete(name)


def wait_until_delivered(amqp: str, queue: str, time_limit: float) -> None:
    """Until a queue holds nothing that no consumer has."""
    until = time.monotonic() + time_limit
    with kombu.Connection(amqp) as connection:
        while left := connection.default_channel.queue_declare(queue, passive=True).message_count:
            if time.monotonic() > until:
                sys.exit(f"{left} messages were not delivered within {time_limit:g} s")
            time.sleep(0.1)


class Round:
    """A side that serves, and what it has called so far."""

    def __init__(self, side: Side, processes: Processes) -> None:
        self._side = side
        self._processes = processes
        self._redis = redis.Redis.from_url(side.stores.redis)

    def run(self, offsets: Sequence[float]) -> tuple[float, Count]:
        """Arm deadlines at these seconds after the first; return that one and the final count."""
        self._side.start(self._processes)
        lead = LEAD_SECONDS + len(offsets) / self._side.arms_per_second
        first = round(time.time() + lead, 3)
        deadlines = [round(first + offset, 6) for offset in offsets]
        self._side.arm(deadlines)
        if time.time() > first:
            sys.exit(f"arming {len(deadlines)} nodes took longer than the {lead:g} s foreseen")
        return first, self._wait_for_calls(len(deadlines), deadlines[-1])

    def calls(self) -> list[tuple[float, float]]:
        """Instant and deadline of each call."""
        entries = self._redis.lrange(CALLS, 0, -1)
        assert isinstance(entries, list)
        pairs = [entry.split() for entry in entries]
        return [(float(called_at), float(deadline)) for called_at, deadline in pairs]

    def _wait_for_calls(self, expected: int, last_deadline: float) -> Count:
        seen, changed_at = 0, last_deadline
        while seen < expected:
            if (calls := self._count().calls) > seen:
                seen, changed_at = calls, max(time.time(), last_deadline)
            elif time.time() > changed_at + STALL_SECONDS:
                lost = f"{expected - seen} of {expected} nodes were lost"
                sys.exit(f"{self._processes.logs()}\n{lost}")
            time.sleep(0.05)
        time.sleep(1)  # for a second call of a node, were there one
        return self._count()

    def _count(self) -> Count:
        while True:
            with contextlib.suppress(struct.error):  # a file is being made
                return count(self._processes.tally)


def burst(side: Side, arguments: argparse.Namespace, processes: Processes) -> Result:
    os.environ["BENCH_STRATEGY"] = arguments.strategy
    this = Round(side, processes)
    due, counted = this.run([0.0] * arguments.count)
    if arguments.strategy == "rpush" and len(this.calls()) != counted.calls:
        sys.exit(f"{counted.calls} calls, but {len(this.calls())} effects")
    seconds = counted.last_at - side.claimed_at(due)
    memory = {role: processes.resident_mib(role) for role in ("worker", "scanner")}
    return {
        "nodes": arguments.count,
        "calls": counted.calls,
        "seconds": seconds,
        "nodes_per_second": arguments.count / seconds,
        "from_due_seconds": counted.last_at - due,
        "rss_mib": {role: mib for role, mib in memory.items() if mib},
    }


def lateness(side: Side, arguments: argparse.Namespace, processes: Processes) -> Result:
    os.environ["BENCH_STRATEGY"] = "rpush"
    this = Round(side, processes)
    this.run([i * arguments.seconds / arguments.count for i in range(arguments.count)])
    calls = this.calls()
    if (struck := len({deadline for _, deadline in calls})) != arguments.count:
        sys.exit(f"{arguments.count - struck} of {arguments.count} nodes were lost")
    return {"lateness": [called_at - deadline for called_at, deadline in calls]}


def main(
    module: str,
    description: str | None,
    side: Side,
    roles: Mapping[str, Callable[[], None]],
    measures: Mapping[str, Command] | None = None,
) -> None:
    """The command line of a side; ``measures`` are its own commands beside burst and lateness."""
    commands: dict[str, Command] = {
        "burst": lambda arguments, processes: burst(side, arguments, processes),
        "lateness": lambda arguments, processes: lateness(side, arguments, processes),
        **(measures or {}),
    }
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    choices = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in commands:
        command = choices.add_parser(name, help=f"one round of {name}")
        command.add_argument("--count", type=int, required=True, help="of nodes")
        if name in {"lateness", "idle"}:
            command.add_argument("--seconds", type=float, required=True)
        if name == "burst":
            command.add_argument("--strategy", choices=["rpush", "empty"], default="rpush")
    for role in roles:
        choices.add_parser(role)  # the side starts these itself
    arguments = parser.parse_args()
    if arguments.command in roles:
        roles[arguments.command]()
        return
    with _round(module, side) as processes:
        result = commands[arguments.command](arguments, processes)
    print(json.dumps(result), flush=True)


@contextlib.contextmanager
def _round(module: str, side: Side) -> Iterator[Processes]:
    """With stores that are clear before and after; a SIGTERM leaves them so as well."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped by SIGTERM"))
    _clear(side)
    try:
        with (
            tempfile.TemporaryDirectory() as directory,
            Processes(module, Path(directory)) as processes,
        ):
            yield processes
    finally:
        _clear(side)


def _clear(side: Side) -> None:
    side.clear()
    redis.Redis.from_url(side.stores.redis).delete(CALLS)
