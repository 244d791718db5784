"""A whole node-timeout in processes of its own, the load on it, and the look at what came of it."""

import asyncio
import contextlib
import itertools
import json
import os
import random
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from nt_chaos import EFFECTS, RUNNING
from nt_faults import HISTORY, History
from redis.asyncio import Redis
from sqlalchemy import select

from node_timeout import NodeTimeout, Settings
from node_timeout.adapters.ledger_rows import ledger_rows_of
from node_timeout.adapters.tables import ledger as ledger_table
from node_timeout.errors import TemporaryError
from node_timeout.node import NodeRun
from node_timeout.ports import LedgerRow
from node_timeout.service import sleep
from node_timeout.timeout_config import TimeoutConfig
from tests.acceptance.conftest import Process, environment
from tests.chaos.history import Event, Kind, Outage, Verdict, check, summary
from tests.chaos.proxy import Proxy
from tests.support import wait_until

PLANTED = Path(__file__).parent / "planted"
COMMAND = [
    sys.executable,
    "-c",
    "import nt_faults; nt_faults.plant(); from node_timeout.cli import main; main()",
]
ACTIONS = {
    "chaos": "Chaos",
    "slow": "Slow",
    "tally": "Tally",
    "hangs": "Hangs",
    "hangs_after": "HangsAfter",
    "raises": "Raises",
    "exits": "Exits",
    "eats_memory": "EatsMemory",
    "overloaded": "Overloaded",
}
# Short, so that a test sees what happens behind them.
SETTINGS: dict[str, Any] = {
    "engine": "chaos",
    "handlers": {action: f"nt_chaos:{name}" for action, name in ACTIONS.items()},
    "lease_seconds": 2,
    "strategy_timeout": 1,
    "redispatch_after": 3,
    "reconcile_pause": 1,
    "retry_backoff": 0.2,
    "retry_backoff_max": 1,
    "max_attempts": 50,
}
WORKER_LEASE = 3.0
SETTLE_SECONDS = 60.0
LONG = "CHAOS_LONG" in os.environ
"""Everything is tried as often as the documents say; else, quickly."""


def scaled(quick: int, long: int) -> int:
    return long if LONG else quick


class House:
    """Processes that scan and work, and the stores and the engine that they use."""

    def __init__(self, settings: Settings, engine_url: str, directory: Path) -> None:
        self.settings = settings
        self.engine_url = engine_url
        self.engine = Redis.from_url(engine_url)
        self.app = NodeTimeout(settings)
        self.history = History(engine_url, "load")
        self.outages: list[Outage] = []
        self.processes: list[Process] = []
        self.armed = 0
        self._directory = directory
        self.seed = os.environ.get("CHAOS_SEED") or str(random.randrange(1_000_000))
        self.random = random.Random(self.seed)

    async def __aenter__(self) -> Self:
        await self.engine.flushall()
        await self.app.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        for process in self.processes:
            if process.popen.poll() is None:
                process.kill()
        await self.history.close()
        await self.engine.aclose()
        await self.app.__aexit__()

    async def spawn(
        self,
        *arguments: str,
        settings: Settings | None = None,
        ready: str = "started",
        command: Sequence[str] = (),
        **orders: Any,
    ) -> Process:
        """Start a command with faults planted in it: see planted/nt_faults.py."""
        name = f"{arguments[0]}-{len(self.processes)}"
        orders = {
            "history": self.engine_url,
            "process": name,
            "seed": self.random.random(),
            "lease": WORKER_LEASE,
            **orders,
        }
        variables = environment(settings or self.settings) | {
            "ENGINE_REDIS_URL": self.engine_url,
            "NT_FAULTS": json.dumps(orders),
            "PYTHONPATH": f"{PLANTED}{os.pathsep}{PLANTED / 'metadata'}",
        }
        process = Process(
            [*(command or [*COMMAND, *arguments])], variables, self._directory / f"{name}.log"
        )
        self.processes.append(process)
        if ready:
            await asyncio.to_thread(process.wait_for, ready)
        return process

    async def arm(
        self,
        count: int,
        seconds: float | Callable[[], float],
        *,
        action: str = "chaos",
        prefix: str = "n",
        version: str = "v1",
    ) -> list[NodeRun]:
        """Let the engine run that many nodes, and tell node-timeout until it has acknowledged."""
        each_seconds = [seconds() if callable(seconds) else seconds for _ in range(count)]
        runs = [NodeRun(node_id=f"{prefix}{i}", version=version) for i in range(count)]
        await self.arm_runs(dict(zip(runs, each_seconds, strict=True)), action)
        return runs

    async def arm_runs(self, runs: dict[NodeRun, float], action: str = "chaos") -> None:
        configs = [
            TimeoutConfig(
                node_id=run.node_id, root_pipeline_id="root", action=action, seconds=seconds
            )
            for run, seconds in runs.items()
        ]
        for part in _parts(configs):
            await insist(partial(self.app.ledger.save_configs, "root", part, []))
        for chunk in _parts(list(runs)):
            await self.engine.hset(RUNNING, mapping={run.node_id: run.version for run in chunk})
            by_seconds: dict[float, list[NodeRun]] = {}
            for run in chunk:
                by_seconds.setdefault(runs[run], []).append(run)
            for seconds, same in by_seconds.items():
                await self.history.record("arming", same, seconds=seconds)
            pairs = [(run.node_id, run.version) for run in chunk]
            await insist(partial(self.app.nodes_started, pairs))
            await self.history.record("armed", chunk)
            self.armed += len(chunk)

    async def leave(self, runs: Sequence[NodeRun]) -> None:
        """Let the nodes leave RUNNING, and tell node-timeout until it has acknowledged."""
        if not runs:
            return
        await self.engine.hdel(RUNNING, *(run.node_id for run in runs))
        await self.history.record("disarming", list(runs))
        pairs = [(run.node_id, run.version) for run in runs]
        await insist(lambda: self.app.nodes_left(pairs))
        await self.history.record("disarmed", list(runs))

    async def until_armed(self, count: int, time_limit: float = 600) -> None:
        """Wait until the load has armed that many nodes."""
        await wait_until(lambda: self.armed >= count, time_limit)

    async def effect_count(self, at_least: int) -> bool:
        """Whether the engine has done so much; asked without reading the history."""
        return int(await self.engine.get(EFFECTS) or 0) >= at_least

    async def events(self) -> list[Event]:
        return [Event.of(json.loads(each)) for each in await self.engine.lrange(HISTORY, 0, -1)]

    async def rows(self) -> list[LedgerRow]:
        async with self.app.ledger.engine.connect() as connection:
            return ledger_rows_of(await connection.execute(select(ledger_table)))

    async def rows_of(self, prefix: str) -> list[LedgerRow]:
        """The rows of nodes with this prefix, by the index of their key."""
        query = select(ledger_table).where(
            ledger_table.c.node_id >= prefix, ledger_table.c.node_id < f"{prefix}\x7f"
        )
        async with self.app.ledger.engine.connect() as connection:
            return ledger_rows_of(await connection.execute(query))

    async def closed(self, prefix: str, count: int) -> bool:
        """Whether so many runs of nodes with this prefix are closed in the ledger."""
        rows = await self.rows_of(prefix)
        return sum(row.finished_at is not None for row in rows) >= count

    async def worst_lateness(self, prefix: str) -> float:
        """Of the effects so far on nodes with this prefix, seconds."""
        deadlines = {row.node_id: row.deadline for row in await self.rows()}
        return max(
            event.at - deadlines[event.run.node_id]
            for event in await self.events()
            if event.kind is Kind.EFFECT and event.run.node_id.startswith(prefix)
        )

    async def settled(self, time_limit: float = SETTLE_SECONDS) -> None:
        """Wait until nothing is in the pool, in a queue, or open in the ledger."""
        seen: object = None

        async def quiet() -> bool:
            nonlocal seen
            try:
                counts = await self.app.ledger.counts(await self.app.pool.now())
                depths = await self.app.exchange.depths()
                pool = await self.app.pool.counts()
            except TemporaryError as error:
                seen = error
                return False
            seen = counts, depths, pool
            return not (counts.armed or counts.executing or pool.armed or any(depths.values()))

        try:
            await wait_until(quiet, time_limit)
        except AssertionError:
            raise AssertionError(f"not quiet within {time_limit} s: {seen}") from None

    async def verdict(self, late_seconds: float | None = None, **options: Any) -> Verdict:
        """Settle, check every invariant, and fail with what was broken."""
        await self.settled()
        verdict = check(
            await self.events(),
            await self.rows(),
            late_seconds=late_seconds,
            outages=self.outages,
            **options,
        )
        assert not verdict.violations, summary(verdict.violations)
        return verdict

    @contextlib.contextmanager
    def outage(self) -> Iterator[None]:
        """What falls due inside need not be in time before the end."""
        begin = time.time()
        yield
        self.outages.append(Outage(begin=begin, end=time.time()))

    @contextlib.asynccontextmanager
    async def steadily(
        self,
        per_second: int = 50,
        seconds: Callable[[], float] | None = None,
        leaving: float = 0.1,
        action: str = "chaos",
    ) -> AsyncIterator[None]:
        """Arm nodes all the time; of some the engine says later that they left."""
        numbers = itertools.count()
        stop = asyncio.Event()

        async def load() -> None:
            while not stop.is_set():
                began = time.monotonic()
                prefix = f"s{next(numbers)}_"
                runs = await self.arm(
                    max(1, per_second // 5),
                    seconds or (lambda: self.random.choice([0.2, 0.4, 0.8, 1.5])),
                    prefix=prefix,
                    action=action,
                )
                await self.leave([run for run in runs if self.random.random() < leaving])
                await sleep(0.2 - (time.monotonic() - began), stop)

        loading = asyncio.create_task(load())
        try:
            yield
        finally:
            stop.set()
            await loading

    def report(self, verdict: Verdict, *, fault: str, tried: str, times: int) -> None:
        """Print a line of the results; CHAOS_RESULTS names a file to add it to.

        A failed test does not get here.
        """
        line = json.dumps(
            {
                "fault": fault,
                "tried": tried,
                "times": times,
                "deadlines": verdict.due,
                "lost": verdict.lost,
                "twice": verdict.twice,
                "had_outage": bool(self.outages),
                "recovery_seconds": verdict.recovery_seconds,
            }
        )
        print(line)
        if path := os.environ.get("CHAOS_RESULTS"):
            with Path(path).open("a", encoding="utf-8") as file:
                file.write(f"{line}\n")


def changed(settings: Settings, **changes: object) -> Settings:
    known = {name: getattr(settings, name) for name in settings.model_fields_set}
    return Settings(**{**known, **changes})


@contextlib.asynccontextmanager
async def behind_proxy(settings: Settings, store: str) -> AsyncIterator[tuple[Proxy, Settings]]:
    """A proxy before a store, and the settings that lead there."""
    url = getattr(settings, store).get_secret_value()
    async with Proxy(urlsplit(url).port or 0) as proxy:
        yield proxy, changed(settings, **{store: proxy.url(url)})


async def insist(call: Callable[[], Awaitable[Any]], time_limit: float = 60.0) -> None:
    """Repeat a call of the library as long as it says that a later try may succeed."""
    until = time.monotonic() + time_limit
    while True:
        try:
            await call()
        except TemporaryError:
            assert time.monotonic() < until, "no acknowledgement"
            await asyncio.sleep(0.05)
        else:
            return


def _parts(items: Sequence[Any], size: int = 500) -> Iterable[Any]:
    return (items[i : i + size] for i in range(0, len(items), size))
