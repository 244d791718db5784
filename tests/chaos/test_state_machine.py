"""Fault 9: events, changes and deadlines at the same instant, in any order Hypothesis finds."""

import asyncio
import contextlib
import itertools
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from sqlalchemy import select

from node_timeout import NodeTimeout, Settings
from node_timeout.domain import lifecycle
from node_timeout.domain.changes import Verdict as ChangeVerdict
from node_timeout.domain.run import NodeRun, TimedOutNode
from node_timeout.operations.changing import ChangeReport
from node_timeout.stores.ledger_rows import rows_of
from node_timeout.stores.sql.run_rows import ROW_COLUMNS
from node_timeout.stores.sql.tables import runs as ledger_table
from tests.chaos.history import Event, Kind, Verdict, check, told
from tests.chaos.house import changed, scaled
from tests.chaos.results import Row
from tests.support import ROOT, FakeEngine, config, run, wait_until

SECONDS = (0.001, 0.02, 0.05)
NODES = 4
EVENTS = ["arm", "leave", "retry", "come_back", "suspend", "configure"]
CHANGES = ["pause", "resume", "extend", "reconfigure", "fire", "cancel"]
SETTLE_SECONDS = 40.0
EXAMPLES = scaled(25, 300)

_unique = itertools.count()


class Machine(RuleBasedStateMachine):
    """Every operation of a step runs at once, while scanner and worker are at work."""

    store_settings: Settings
    total: Verdict
    """Over all examples."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.events: list[Event] = []
        self.engine = FakeEngine()
        self.names = [f"m{next(_unique)}" for _ in range(NODES)]
        self.versions = itertools.count(1)
        self.newest: dict[str, str] = {}
        self.do(self._start())

    def do(self, work: Awaitable[Any]) -> Any:
        return self.loop.run_until_complete(work)

    async def _start(self) -> None:
        self.app = await NodeTimeout(self.store_settings).__aenter__()
        self.app.use_engine(self.engine)
        self.engine.acted = self._acted
        self.stop = asyncio.Event()
        self.services = asyncio.ensure_future(self.app.scan_and_work(self.stop))

    def _acted(self, node: TimedOutNode) -> None:
        self.note(Kind.EFFECT, node.run)

    def note(self, kind: Kind, run: NodeRun, at: float | None = None, **more: Any) -> None:
        at = self.now() if at is None else at
        self.events.append(Event(kind=kind, at=at, process="test", run=run, **more))

    def now(self) -> float:
        return self.app.pool._clock.now()

    async def arm(self, node: str) -> None:
        """The node starts, or its engine says once more that it did."""
        if (ROOT, node) not in self.engine.versions:
            self.engine.versions[ROOT, node] = self._next_version(node)
        version = self.engine.versions[ROOT, node]
        await self._arm(run(node, version))

    def _next_version(self, node: str) -> str:
        self.newest[node] = f"v{next(self.versions)}"
        return self.newest[node]

    async def _arm(self, run: NodeRun, happened_at: float | None = None) -> None:
        self.note(Kind.ARMING, run, happened_at, seconds=min(SECONDS))
        await self.app.nodes_started([self._told(run)], happened_at=happened_at)
        self.note(Kind.ARMED, run)

    async def leave(self, node: str) -> None:
        version = self.engine.versions.pop((ROOT, node), None)
        if version is not None:
            await self._leave(run(node, version))

    async def _leave(
        self, run: NodeRun, happened_at: float | None = None, *, suspended: bool = False
    ) -> None:
        self.note(Kind.DISARMING, run)
        node_id, version, root = self._told(run)
        tell = self.app.node_paused if suspended else self.app.node_left
        await tell(node_id, version, root, happened_at=happened_at)
        self.note(Kind.DISARMED, run)

    def _told(self, run: NodeRun) -> tuple[str, str, str | None]:
        """The root of every other one is left to be looked up."""
        return run.node_id, run.version, run.root_pipeline_id if next(_unique) % 2 else None

    async def retry(self, node: str) -> None:
        """The engine moves on to a new version; its two events come at once, in any order.

        So they say when they happened: which version is the newer one is told by nothing else.
        """
        old, new = self.engine.versions.get((ROOT, node)), self._next_version(node)
        self.engine.versions[ROOT, node] = new
        now = self.now()
        both = [self._arm(run(node, new), now)]
        if old is not None:
            both.append(self._leave(run(node, old), now - 0.000_01))
        await asyncio.gather(*both)

    async def come_back(self, node: str) -> None:
        """It leaves, and the same version goes on with the time it had left."""
        await self._away(node, suspended=False)

    async def suspend(self, node: str) -> None:
        """Its engine suspends and resumes it."""
        await self._away(node, suspended=True)

    async def _away(self, node: str, *, suspended: bool) -> None:
        version = self.engine.versions.pop((ROOT, node), None)
        if version is not None:
            resumed = run(node, version)
            await self._leave(resumed, suspended=suspended)
            if self.newest[node] == version:  # an engine never goes back to an older one
                self.engine.versions[ROOT, node] = version
                await self._arm(resumed)

    async def pause(self, node: str) -> None:
        await self._change(node, self.app.pause, Kind.PAUSING, Kind.PAUSED)

    async def resume(self, node: str) -> None:
        await self._change(node, self.app.resume, Kind.RESUMING, Kind.RESUMED)

    async def fire(self, node: str) -> None:
        await self._change(node, self.app.fire, Kind.FIRING, Kind.FIRED)

    async def cancel(self, node: str) -> None:
        await self._change(node, self.app.cancel, Kind.CANCELLING, Kind.CANCELLED)

    async def extend(self, node: str) -> None:
        await self._change(node, partial(self.app.extend, by=0.05), None, Kind.EXTENDED)

    async def reconfigure(self, node: str) -> None:
        await self._change(node, self.app.reconfigure, None, Kind.RECONFIGURED)

    async def _change(
        self,
        node: str,
        change: Callable[..., Awaitable[ChangeReport]],
        asking: Kind | None,
        answered: Kind,
    ) -> None:
        if node not in self.newest:
            return
        changed, since = run(node, self.newest[node]), self.now()
        if asking:
            self.note(asking, changed, since)
        report = await change(node, changed.version, ROOT)
        for each in report.runs:
            if each.verdict is ChangeVerdict.DONE:
                deadline = (each.row.deadline if each.row else None) or 0.0
                self.note(answered, changed, since=since, until=deadline)
            elif answered in (Kind.RESUMED, Kind.FIRED):  # it changed nothing
                self.note(answered, changed)

    async def configure(self, node: str) -> None:
        seconds = SECONDS[next(_unique) % len(SECONDS)]
        await self.app.ledger.save_configs([config(node, seconds)], [])

    @rule(
        chosen=st.lists(
            st.tuples(
                st.sampled_from(EVENTS + CHANGES),
                st.integers(0, NODES - 1),
            ),
            min_size=1,
            max_size=8,
        ),
        wait=st.sampled_from([0.0, 0.001, 0.02, 0.06]),
    )
    def at_once(self, chosen: list[tuple[str, int]], wait: float) -> None:
        operations: list[Callable[[str], Awaitable[None]]] = [
            getattr(self, name) for name, _ in chosen
        ]
        nodes = [self.names[i] for _, i in chosen]

        async def together() -> None:
            await asyncio.gather(*(self.configure(node) for node in self.names))
            calls = zip(operations, nodes, strict=True)
            await asyncio.gather(*(operation(node) for operation, node in calls))
            await asyncio.sleep(wait)

        self.do(together())

    def teardown(self) -> None:
        self.do(self._settle_and_check())
        self.loop.close()

    async def _settle_and_check(self) -> None:
        async def quiet() -> bool:
            counts = await self.app.ledger.counts(await self.app.pool.now())
            return not (counts.armed or counts.executing or (await self.app.pool.counts()).armed)

        try:
            await self._resume_all()
            with contextlib.suppress(AssertionError):
                await wait_until(quiet, SETTLE_SECONDS)  # else the checker says what is open
            async with self.app.ledger.engine.connect() as connection:
                query = select(*ROW_COLUMNS).where(ledger_table.c.node_id.in_(self.names))
                rows = rows_of(await connection.execute(query))
            verdict = check(self.events, rows)
            type(self).total.add(verdict)
            assert not verdict.violations, told(verdict.violations, self.events, rows)
            assert await quiet(), "something is left in the pool"
        finally:
            self.stop.set()
            await self.services
            await self.app.__aexit__()

    async def _resume_all(self) -> None:
        """Whatever version an operator has paused, or the engine, which went on to another one.

        While a worker has its lease on one that the engine has paused, an operator is refused.
        """
        for paused in {event.run for event in self.events if event.kind is Kind.PAUSED}:
            self.note(Kind.RESUMING, paused)

        async def resumed() -> bool:
            reports = [await self.app.resume(name, root_pipeline_id=ROOT) for name in self.names]
            found = [each.verdict for report in reports for each in report.runs]
            return ChangeVerdict.EXECUTING not in found

        await wait_until(resumed, SETTLE_SECONDS)


async def test_everything_at_the_same_instant(
    settings: Settings, row: Row, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "LOOK_AGAIN_SECONDS", 1.0)
    row.of(
        fault="events, changes and deadlines at one instant",
        tried="in any order that Hypothesis finds, as a state machine over real Redis and SQL",
        times=EXAMPLES,
    )
    Machine.total = Verdict()
    Machine.store_settings = changed(
        settings, amqp_url="memory://", handlers={}, reconcile_pause=0.2, redispatch_after=0.5
    )
    try:
        await asyncio.to_thread(explore, row.seed)
    finally:
        row.judged(Machine.total)


def explore(seed: str) -> None:
    run_state_machine_as_test(
        hypothesis.seed(seed)(Machine),
        settings=hypothesis.settings(
            max_examples=EXAMPLES,
            stateful_step_count=12,
            deadline=None,
            # What a race needed is not found again by shrinking.
            phases=(hypothesis.Phase.explicit, hypothesis.Phase.generate),
            suppress_health_check=list(hypothesis.HealthCheck),
        ),
    )
