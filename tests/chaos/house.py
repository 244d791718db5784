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
from nt_faults import CPU_SECONDS, HISTORY, Faults, History
from redis.asyncio import Redis
from sqlalchemy import select

from node_timeout import NodeTimeout, Settings
from node_timeout.domain.changes import Verdict as ChangeVerdict
from node_timeout.domain.errors import TemporaryError
from node_timeout.domain.run import LedgerRow, NodeRun, foreign_member
from node_timeout.operations.changing import ChangeReport
from node_timeout.runtime.loop import sleep
from node_timeout.stores.ledger_rows import rows_of
from node_timeout.stores.sql.run_rows import ROW_COLUMNS
from node_timeout.stores.sql.tables import runs as ledger_table
from tests.acceptance.conftest import Process, environment
from tests.chaos.history import Event, Kind, Outage, Verdict, check, read, told
from tests.chaos.pace import Pace
from tests.chaos.proxy import Proxy
from tests.chaos.results import Row
from tests.support import config, run, wait_until

PLANTED = Path(__file__).parent / "planted"
COMMAND = [
    sys.executable,
    "-c",
    "import nt_faults; nt_faults.plant(); from node_timeout.cli.main import main; main()",
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
    "sleeps": "Sleeps",
}
# Short, so that a test sees what happens behind them.
SETTINGS: dict[str, Any] = {
    "engine": "chaos",
    "handlers": {action: f"nt_chaos:{name}" for action, name in ACTIONS.items()},
    "lease_seconds": 2,
    "strategy_timeout": 1,
    "redispatch_after": 1.5,
    "reconcile_pause": 1,
    "retry_backoff": 0.2,
    "retry_backoff_max": 1,
    "max_attempts": 50,
}
WORKER_LEASE = 3.0
SETTLE_SECONDS = 90.0
LONGEST_CALL_SECONDS = 0.010
# Of a steady load: so many leave, move on to their next version, are extended, and so on.
LEAVING, MOVING = 0.1, 0.05
CHANGED = 0.03
SECONDS = (0.2, 0.4, 0.8, 1.5)
LONG = "CHAOS_LONG" in os.environ
"""Everything is tried as often as the documents say; else, quickly."""


def scaled(quick: int, long: int) -> int:
    return long if LONG else quick


class House:
    """Processes that scan and work, and the stores and the engine that they use."""

    def __init__(self, settings: Settings, engine_url: str, directory: Path, row: Row) -> None:
        self.settings = settings
        self.row = row
        self.engine_url = engine_url
        self.engine = Redis.from_url(engine_url)
        self.app = NodeTimeout(settings)
        self.history = History(engine_url, "load")
        self.outages: list[Outage] = []
        self.processes: list[Process] = []
        self.armed = 0
        self._pace = Pace()
        self._directory = directory
        self._names: dict[int, str] = {}
        self.random = self.random_of("faults")
        """For the test; the load and each process have their own, so that none disturbs another."""

    def random_of(self, what: object) -> random.Random:
        """The same numbers for the same seed, whatever else happens."""
        return random.Random(f"{self.row.seed}/{what}")

    async def __aenter__(self) -> Self:
        await self.engine.flushall()
        await self.app.__aenter__()
        self._pace.__enter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._pace.__exit__()
        for process in self.processes:
            if process.popen.poll() is None:
                process.kill()
        await self.history.close()
        await self.engine.aclose()
        await self.app.__aexit__()

    def allowed(self, seconds: float) -> float:
        """A time limit, on this machine, as it has been since the house was opened."""
        return seconds * self._pace.slowness

    async def spawn(
        self,
        *arguments: str,
        settings: Settings | None = None,
        ready: str = "started",
        command: Sequence[str] = (),
        engine_url: str = "",
        **orders: Any,
    ) -> Process:
        """Start a command with faults planted in it: see planted/nt_faults.py.

        It reaches the engine by ``engine_url``; the history, which no fault touches, always.
        """
        name = f"{arguments[0]}-{len(self.processes)}"
        orders = {
            "history": self.engine_url,
            "process": name,
            "seed": f"{self.row.seed}/{name}",
            "lease": WORKER_LEASE,
            **orders,
        }
        variables = environment(settings or self.settings) | {
            "ENGINE_REDIS_URL": engine_url or self.engine_url,
            "NT_FAULTS": json.dumps(orders),
            "PYTHONPATH": f"{PLANTED}{os.pathsep}{PLANTED / 'metadata'}",
        }
        process = Process(
            [*(command or [*COMMAND, *arguments])], variables, self._directory / f"{name}.log"
        )
        self.processes.append(process)
        self._names[process.popen.pid] = name
        if ready:
            await asyncio.to_thread(process.wait_for, ready)
        return process

    def lose_answers_to_the_load(self, share: float) -> None:
        """So often a call that arms, disarms or changes takes effect, and its answer is lost."""
        orders = {"lose": {"pool": share, "ledger": share}, "seed": f"{self.row.seed}/answers"}
        faults = Faults(orders)
        pool, ledger = ("pool", self.app.pool), ("ledger", self.app.ledger)
        for (port, of), last in ((pool, "lower"), (ledger, "change")):
            for name in ("arm", "disarm", last):
                setattr(of, name, faults.wrap(port, name, getattr(of, name)))

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
        runs = [run(f"{prefix}{i}", version) for i in range(count)]
        await self.arm_runs(dict(zip(runs, each_seconds, strict=True)), action)
        return runs

    async def arm_runs(self, runs: dict[NodeRun, float], action: str = "chaos") -> None:
        configs = [config(each.node_id, seconds, action) for each, seconds in runs.items()]
        for part in _parts(configs):
            await insist(partial(self.app.ledger.save_configs, part, []))
        for chunk in _parts(list(runs)):
            await self.engine.hset(RUNNING, mapping={each.node_id: each.version for each in chunk})
            by_seconds: dict[float, list[NodeRun]] = {}
            for each in chunk:
                by_seconds.setdefault(runs[each], []).append(each)
            for seconds, same in by_seconds.items():
                await self.history.record("arming", same, seconds=seconds)
            await insist(partial(self.app.nodes_started, _told(chunk)))
            await self.history.record("armed", chunk)
            self.armed += len(chunk)

    async def leave(self, runs: Sequence[NodeRun]) -> None:
        """Let the nodes leave RUNNING, and tell node-timeout until it has acknowledged."""
        if not runs:
            return
        await self.engine.hdel(RUNNING, *(each.node_id for each in runs))
        await self.history.record("disarming", runs)
        told = _told(runs)
        await insist(lambda: self.app.nodes_left([*told]))
        await self.history.record("disarmed", runs)

    async def extend(self, run: NodeRun, seconds: float) -> None:
        since, key = await self.history.now(), f"more of {run.run_id}"
        call = partial(self.app.extend, *_named(run), by=seconds, idempotency_key=key)
        for row in await self._acknowledged(call):
            await self.history.record("extended", [run], since=since, until=row.deadline)

    async def reconfigure(self, run: NodeRun, seconds: float, action: str) -> None:
        """It is given a config of so many seconds, and follows it."""
        await insist(
            partial(self.app.ledger.save_configs, [config(run.node_id, seconds, action)], [])
        )
        since, key = await self.history.now(), f"another config of {run.run_id}"
        call = partial(self.app.reconfigure, *_named(run), idempotency_key=key)
        for row in await self._acknowledged(call):
            await self.history.record("reconfigured", [run], since=since, until=row.deadline)

    async def pause(self, run: NodeRun) -> None:
        since = await self.history.now()
        await self.history.record("pausing", [run])
        if await self._acknowledged(partial(self.app.pause, *_named(run))):
            await self.history.record("paused", [run], since=since)

    async def resume(self, run: NodeRun) -> None:
        await self.history.record("resuming", [run])
        await self._acknowledged(partial(self.app.resume, *_named(run)))
        await self.history.record("resumed", [run])

    async def fire(self, run: NodeRun) -> None:
        await self.history.record("firing", [run])
        await self._acknowledged(partial(self.app.fire, *_named(run)))
        await self.history.record("fired", [run])

    async def _acknowledged(self, change: Callable[[], Awaitable[ChangeReport]]) -> list[LedgerRow]:
        """The run as it was then; none if the change was refused, as when a worker had it."""
        (changed_run,) = (await insist(change)).runs
        row = changed_run.row
        return [row] if changed_run.verdict is ChangeVerdict.DONE and row else []

    async def fill_pool(self, pool: Redis, node_id: str, seconds: float) -> None:
        """The engine runs a node, and puts it into the pool itself, as bamboo's own app does."""
        node = run(node_id)
        await insist(partial(self.app.ledger.save_configs, [config(node_id, seconds, "chaos")], []))
        await self.engine.hset(RUNNING, node_id, node.version)
        await self.history.record("arming", [node], seconds=seconds)
        member = foreign_member(node_id, node.version)
        await pool.zadd(self.settings.executing_pool, {member: time.time() + seconds})
        await self.history.record("armed", [node])

    async def _move_on(self, runs: dict[NodeRun, float], action: str) -> None:
        """The engine tries nodes again: their next version has so many seconds."""
        await self.leave(list(runs))
        again = {run(each.node_id, "v2"): seconds for each, seconds in runs.items()}
        await self.arm_runs(again, action)

    async def until_armed(self, count: int, time_limit: float = 600) -> None:
        """Wait until the load has armed that many nodes."""
        await wait_until(lambda: self.armed >= count, time_limit)

    async def effect_count(self, at_least: int) -> bool:
        """Whether the engine has done so much; asked without reading the history."""
        return int(await self.engine.get(EFFECTS) or 0) >= at_least

    async def redelivered(self) -> int:
        """How many messages came to a worker that the broker had sent to one before."""
        return int(await self.engine.get("redelivered") or 0)

    async def arrived_twice(self) -> int:
        """How many messages reached a worker though they had reached one before."""
        return int(await self.engine.get("arrived_twice") or 0)

    async def events(self) -> list[Event]:
        return read(await self.engine.lrange(HISTORY, 0, -1))

    async def rows(self) -> list[LedgerRow]:
        async with self.app.ledger.engine.connect() as connection:
            return rows_of(await connection.execute(select(*ROW_COLUMNS)))

    async def rows_of(self, prefix: str) -> list[LedgerRow]:
        """The rows of nodes with this prefix, by an index."""
        query = select(*ROW_COLUMNS).where(
            ledger_table.c.node_id >= prefix, ledger_table.c.node_id < f"{prefix}\x7f"
        )
        async with self.app.ledger.engine.connect() as connection:
            return rows_of(await connection.execute(query))

    async def assert_redis_was_not_held_up(self, pool: Redis) -> str:
        """Judge the longest call of a script, of all processes spawned to measure, and tell it.

        By its time on Redis's core: how long it waits for one is its neighbours' doing.
        """
        slow = await pool.slowlog_get(100_000)
        ours = [call["duration"] / 1000 for call in slow if call["command"].startswith(b"EVAL")]
        measured: Any = await pool.zrange(CPU_SECONDS, 0, -1, withscores=True)
        assert {b"arm", b"claim", b"finish"} <= {name for name, _ in measured}
        busiest = max(seconds for _, seconds in measured)
        told = (
            f"longest Redis call {max(ours, default=1.0):.1f} ms, {len(ours)} above 1 ms, "
            f"none more than {busiest * 1000:.1f} ms on its core"
        )
        assert busiest <= self.allowed(LONGEST_CALL_SECONDS), told
        return told

    def name_of(self, process: Process) -> str:
        """Its name in the history."""
        return self._names[process.popen.pid]

    async def closed(self, prefix: str, count: int) -> bool:
        """Whether so many runs of nodes with this prefix are closed in the ledger."""
        rows = await self.rows_of(prefix)
        return sum(row.finished_at is not None for row in rows) >= count

    async def worst_lateness(self, prefix: str) -> float:
        """Of the effects so far on nodes with this prefix, seconds."""
        deadlines = {row.run: row.deadline or 0.0 for row in await self.rows()}
        return max(
            event.at - deadlines[event.run]
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

    async def verdict(
        self,
        late_seconds: float | None = None,
        *,
        settle_seconds: float = SETTLE_SECONDS,
        **options: Any,
    ) -> Verdict:
        """Settle, check every invariant, report, and fail with what was broken."""
        try:
            await self.settled(settle_seconds)
        finally:  # what is lost by now is told even if it never becomes quiet
            events, rows = await self.events(), await self.rows()
            verdict = check(
                events,
                rows,
                late_seconds=None if late_seconds is None else self.allowed(late_seconds),
                outages=self.outages,
                **options,
            )
            self.row.judged(verdict)
            self.row.slowness = self._pace.slowness
        assert not verdict.violations, told(verdict.violations, events, rows)
        return verdict

    @contextlib.contextmanager
    def outage(self) -> Iterator[None]:
        """What falls due inside need not be in time before the end."""
        self.row.had_outage = True
        begin = time.time()
        try:
            yield
        finally:
            self.outages.append(Outage(begin=begin, end=time.time()))

    async def _change(self, fates: dict[NodeRun, float], action: str) -> list[NodeRun]:
        """Change some of those that neither leave nor move on; return what is paused."""
        paused = []
        for each, fate in fates.items():
            match (fate - LEAVING - MOVING) // CHANGED:
                case 0:
                    await self.extend(each, 0.3)
                case 1:
                    await self.pause(each)
                    paused.append(each)
                case 2:
                    await self.fire(each)
                case 3:
                    await self.reconfigure(each, max(SECONDS) + 0.3, action)
        return paused

    async def _resume(self, paused: list[NodeRun]) -> None:
        for each in paused:
            await self.resume(each)

    @contextlib.asynccontextmanager
    async def steadily(
        self,
        per_second: int = 50,
        action: str = "chaos",
    ) -> AsyncIterator[None]:
        """Arm nodes all the time. Some leave; others are tried again, at their next version; others
        are extended, paused and later resumed, fired, or given another config.

        Fewer a second on a slower machine.
        """
        stop = asyncio.Event()

        async def load() -> None:
            moving: dict[NodeRun, float] = {}
            paused: list[NodeRun] = []
            for number in itertools.count():
                if stop.is_set():
                    break
                began = time.monotonic()
                rng = self.random_of(f"load/{number}")
                draw = partial(rng.choice, SECONDS)
                count = max(1, per_second // 5)
                runs = await self.arm(count, draw, prefix=f"s{number}_", action=action)
                fates = {run: rng.random() for run in runs}
                await self.leave([run for run, fate in fates.items() if fate < LEAVING])
                await self._resume(paused)  # of the round before
                paused = await self._change(fates, action)
                await self._move_on(moving, action)  # some have just timed out, some have not
                moving = {
                    run: draw() for run, fate in fates.items() if LEAVING <= fate < LEAVING + MOVING
                }
                await sleep(self.allowed(0.2) - (time.monotonic() - began), stop)
            await self._move_on(moving, action)
            await self._resume(paused)

        loading = asyncio.create_task(load())
        try:
            yield
        finally:
            stop.set()
            await loading


def halted(process: Process) -> bool:
    """Whether it is stopped, as by SIGSTOP."""
    stat = Path(f"/proc/{process.popen.pid}/stat").read_text("ascii", errors="replace")
    return stat.rpartition(")")[2].split()[0] == "T"


def changed(settings: Settings, **changes: object) -> Settings:
    known = {name: getattr(settings, name) for name in settings.model_fields_set}
    return Settings(**{**known, **changes})


@contextlib.asynccontextmanager
async def behind_proxy(settings: Settings, store: str) -> AsyncIterator[tuple[Proxy, Settings]]:
    """A proxy before a store, and the settings that lead there."""
    url = getattr(settings, store).get_secret_value()
    async with Proxy(urlsplit(url).port or 0) as proxy:
        yield proxy, changed(settings, **{store: proxy.url(url)})


async def insist(call: Callable[[], Awaitable[Any]], time_limit: float = 60.0) -> Any:
    """Repeat a call of the library as long as it says that a later try may succeed."""
    until = time.monotonic() + time_limit
    while True:
        try:
            return await call()
        except TemporaryError:
            assert time.monotonic() < until, "no acknowledgement"
            await asyncio.sleep(0.05)


def _named(run: NodeRun) -> tuple[str, str, str]:
    return run.node_id, run.version, run.root_pipeline_id


def _told(runs: Sequence[NodeRun]) -> list[tuple[str, str, str | None]]:
    """As an engine tells of them: the root of every other one is left to be looked up."""
    return [
        (each.node_id, each.version, each.root_pipeline_id if i % 2 else None)
        for i, each in enumerate(runs)
    ]


def _parts(items: Sequence[Any], size: int = 500) -> Iterable[Any]:
    return (items[i : i + size] for i in range(0, len(items), size))
