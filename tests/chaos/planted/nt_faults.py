"""Faults planted in a process under test, by the variable NT_FAULTS (JSON); nothing without it.

    history   URL of the Redis that keeps the history; every event is stamped with its clock
    process   name of this process in the history
    die       {"at": "after shard.claim", "nth": 3}: dies as by `kill -9` the third time it is there
    halt      {"at": …, "every": 20}: stops as by SIGSTOP each twentieth time, until it is continued
    lose      {"pool": 0.1, …}: so often a call of this port takes effect, and its answer is lost
    refuse    {"pool": 0.1, …}: so often a call of this port fails before it is made
    seed      of what is left to chance
    clock     seconds that this host's clock is off
    lease     seconds that a worker's lease lasts
    memory    MiB of address space beyond what it has at the start (RLIMIT_AS)
    measure   true: the pool's Redis keeps each script's longest time on its core (CPU_SECONDS)

A failpoint stands before and after each call that a service makes to a store or to the engine:
that is every line between two side effects.
"""

import json
import os
import random
import resource
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import wraps
from hashlib import sha1
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from node_timeout.domain.errors import (
    EngineUnavailableError,
    ExchangeUnavailableError,
    LedgerUnavailableError,
    NotConfirmedError,
    PoolUnavailableError,
)
from node_timeout.domain.run import DueRun, NodeRun
from node_timeout.domain.run_id import is_run_id
from node_timeout.stores.rabbitmq.consumer import RabbitConsumer, RabbitDelivery
from node_timeout.stores.rabbitmq.exchange import RabbitExchange
from node_timeout.stores.redis.client import RedisClient
from node_timeout.stores.redis.pool import RedisPool, RedisShard
from node_timeout.stores.sql.ledger import SqlLedger
from node_timeout.wire import dispatch

HISTORY = "history"
RECORD = """
local time = redis.call('TIME')
local at = string.format('%.6f', tonumber(time[1]) + tonumber(time[2]) / 1e6)
for i = 1, #ARGV do
  local event = cjson.decode(ARGV[i])
  event['at'] = at
  redis.call('RPUSH', KEYS[1], cjson.encode(event))
end
return at
"""

CPU_SECONDS = "cpu_seconds"
"""ZSET in the pool's Redis: the CPU time of the longest call of each script, by its name."""
MEASURED = """%(head)s
local function used()
  local of = redis.call('INFO', 'cpu')
  return tonumber(string.match(of, 'used_cpu_sys_main_thread:(%%S+)'))
    + tonumber(string.match(of, 'used_cpu_user_main_thread:(%%S+)'))
end
local began = used()
local answer = (function()
%(body)s
end)()
redis.call('ZADD', '%(key)s', 'GT', used() - began, '%(name)s')
return answer
"""

PORTS: dict[str, tuple[type, tuple[str, ...]]] = {
    "pool": (
        RedisPool,
        (
            "arm",
            "lower",
            "put_back",
            "disarm",
            "behind",
            "lead",
            "may_have_lost_data",
            "mark_reconciled",
        ),
    ),
    "shard": (RedisShard, ("claim", "finish", "release")),
    "exchange": (RabbitExchange, ("ensure", "publish", "dead_letter")),
    "ledger": (
        SqlLedger,
        (
            *("actions", "adopt", "take", "owners", "renew", "record", "change"),
            *("open_runs", "expired_runs", "purgeable", "purge"),
            *("arm", "disarm", "untracked", "configs", "configured", "roots"),
        ),
    ),
    "delivery": (RabbitDelivery, ("ack", "requeue")),
    "consumer": (RabbitConsumer, ("get", "stop")),
}
ERRORS: dict[str, Callable[[str], Exception]] = {
    "pool": PoolUnavailableError,
    "shard": PoolUnavailableError,
    "exchange": ExchangeUnavailableError,
    "ledger": LedgerUnavailableError,
    "engine": EngineUnavailableError,
}
CALLS_THAT_ANSWER_LATE = {"exchange.publish"}


def named(run: NodeRun | str) -> dict[str, str]:
    """How a line of the history tells a run: by its id, and by what that is made of, if known."""
    if isinstance(run, str):
        return {"run_id": run}
    return {
        "run_id": run.run_id,
        "root_pipeline_id": run.root_pipeline_id,
        "node_id": run.node_id,
        "version": run.version,
    }


class History:
    """Appends to the history; a no-op without a URL."""

    def __init__(self, url: str | None, process: str) -> None:
        self._url = url
        self._process = process
        self._redis: Redis | None = None

    async def record(self, kind: str, runs: Sequence[NodeRun | str], **more: Any) -> None:
        if not self._url or not runs:
            return
        self._redis = self._redis or Redis.from_url(self._url)
        lines = [
            json.dumps({"kind": kind, **named(run), "process": self._process, **more})
            for run in runs
        ]
        for i in range(0, len(lines), 1000):
            await self._redis.eval(RECORD, 1, HISTORY, *lines[i : i + 1000])

    async def now(self) -> float:
        """Unix seconds by the clock that stamps the lines."""
        assert self._url, "no history"
        self._redis = self._redis or Redis.from_url(self._url)
        seconds, micros = await self._redis.time()
        return float(seconds) + micros / 1e6

    async def count(self, what: str, more: int) -> None:
        if self._url and more:
            self._redis = self._redis or Redis.from_url(self._url)
            await self._redis.incrby(what, more)

    async def arrived(self, body: bytes, *, again: bool) -> None:
        """Count what has reached a worker before and comes again.

        A broker also delivers anew, and says so, what crosses with the end of a consumer: it takes
        it back before it has reached anyone.
        """
        if self._url:
            self._redis = self._redis or Redis.from_url(self._url)
            is_new = await self._redis.sadd("arrived", body)
            await self.count("arrived_twice", int(again and not is_new))

    async def close(self) -> None:
        if self._redis:
            await self._redis.aclose()


class Faults:
    """What goes wrong in this process."""

    def __init__(self, orders: dict[str, Any]) -> None:
        self._orders = orders
        self._random = random.Random(orders.get("seed"))
        self._visits: dict[str, int] = {}
        self.history = History(orders.get("history"), orders.get("process", "test"))

    def visit(self, point: str) -> None:
        """A failpoint: perhaps the end of this process."""
        die, halt = self._orders.get("die") or {}, self._orders.get("halt") or {}
        if point not in (die.get("at"), halt.get("at")):
            return
        visits = self._visits[point] = self._visits.get(point, 0) + 1
        if die.get("at") == point and visits >= die.get("nth", 1):
            os.kill(os.getpid(), signal.SIGKILL)
        if halt.get("at") == point and visits % halt.get("every", 1) == 0:
            os.kill(os.getpid(), signal.SIGSTOP)

    def happens(self, what: str, port: str) -> bool:
        share = (self._orders.get(what) or {}).get(port, 0.0)
        return bool(self._random.random() < share)

    def wrap(self, port: str, name: str, real: Callable[..., Awaitable[Any]]) -> Any:
        """Stand before and after a call of a port."""
        late = NotConfirmedError if f"{port}.{name}" in CALLS_THAT_ANSWER_LATE else ERRORS.get(port)

        @wraps(real)
        async def wrapped(*args: Any, **kwargs: Any) -> Any:
            self.visit(f"before {port}.{name}")
            await self._note_before(port, name, args)
            if port in ERRORS and self.happens("refuse", port):
                raise ERRORS[port](f"a planted fault: {port}.{name} was never made")
            result = await real(*args, **kwargs)
            await self._note_after(port, name, args, result)
            self.visit(f"after {port}.{name}")
            if late and self.happens("lose", port):
                raise late(f"a planted fault: {port}.{name} took effect, its answer was lost")
            return result

        return wrapped

    def noting(self, real: Callable[..., Any]) -> Any:
        """What makes receivers of messages, so that each one is noted, whether it is got or not."""

        def receiver(consumer: Any, queue: str) -> Any:
            receive = real(consumer, queue)

            async def received(incoming: Any) -> None:
                await receive(incoming)
                await self.history.arrived(incoming.body, again=incoming.redelivered)

            return received

        return receiver

    async def _note_before(self, port: str, name: str, args: Any) -> None:
        if (port, name) == ("ledger", "take"):
            await self.history.record("taking", [due.run_id for due in args[1]])

    async def _note_after(self, port: str, name: str, args: Any, result: Any) -> None:
        if (port, name) == ("shard", "claim"):
            # An engine's own are told once a worker has found out which runs they are.
            members = [claimed.member for claimed in result.members]
            await self.history.record("claimed", [each for each in members if is_run_id(each)])
        elif (port, name) == ("ledger", "take"):
            await self.history.record(
                "taken", [node.run for node in result.taken], until=result.lease_until
            )
        elif (port, name) == ("ledger", "renew"):
            await self.history.record("renewed", list(result), until=args[3])
        elif (port, name) == ("ledger", "record"):
            by_state: dict[str, list[NodeRun]] = {}
            for outcome in args[1] if result == len(args[1]) else ():
                by_state.setdefault(outcome.state, []).append(outcome.node.run)
            for state, runs in by_state.items():
                await self.history.record("outcome", runs, state=state)
        elif (port, name) == ("consumer", "get"):
            await self.history.count(
                "redelivered", sum(each._message.redelivered for each in result)
            )
        elif (port, name) == ("exchange", "publish"):
            due, _ = dispatch.decode(args[2])
            await self.history.record(
                "published", [each.run_id for each in due if isinstance(each, DueRun)]
            )


def measure_scripts(client: RedisClient) -> None:
    """Its scripts measure themselves; what the core does for others meanwhile does not count."""
    for name, script in client._scripts.items():
        text = script.text
        head, body = text.split("\n", 1) if text.startswith("#!") else ("", text)
        script.text = MEASURED % {"head": head, "body": body, "key": CPU_SECONDS, "name": name}
        script.sha = sha1(script.text.encode(), usedforsecurity=False).hexdigest()


def _measure() -> None:
    """Of each client to come."""
    real = RedisClient.__init__

    def init(self: RedisClient, *args: Any, **kwargs: Any) -> None:
        real(self, *args, **kwargs)
        measure_scripts(self)

    setattr(RedisClient, "__init__", init)  # noqa: B010


def _set_clock(seconds: float) -> None:
    real = time.time
    time.time = lambda: real() + seconds


def _limit_memory(mib: int) -> None:
    """To what the process has now, and so much more."""
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
    limit = pages * resource.getpagesize() + mib * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


ORDERS: dict[str, Any] = json.loads(os.environ.get("NT_FAULTS", "{}"))
FAULTS = Faults(ORDERS)


def plant() -> None:
    """Put the faults in place; before the services are made."""
    for port, (cls, names) in PORTS.items():
        for name in names:
            setattr(cls, name, FAULTS.wrap(port, name, getattr(cls, name)))
    setattr(RabbitConsumer, "_receiver", FAULTS.noting(RabbitConsumer._receiver))  # noqa: B010
    if ORDERS.get("measure"):
        _measure()
    if "clock" in ORDERS:
        _set_clock(ORDERS["clock"])
    if "memory" in ORDERS:
        _limit_memory(ORDERS["memory"])
    if "lease" in ORDERS:
        os.environ["NODE_TIMEOUT_WORKER_LEASE"] = str(ORDERS["lease"])  # read when they are made
