"""The surveyor: what the engine runs and the ledger has missed."""

import asyncio
import time
from collections.abc import Sequence

import pytest

from node_timeout.arming.surveyor import Surveyor
from node_timeout.arming.tracker import Tracker
from node_timeout.domain.errors import EngineUnavailableError
from node_timeout.domain.events import NodeStarted
from node_timeout.domain.run import Node, RunState
from node_timeout.runtime.loop import Health
from node_timeout.stores.redis.pool import RedisPool
from node_timeout.stores.sql.ledger import SqlLedger
from tests.support import config, configure, left, run, started


class SurveyableEngine:
    """Names the runs it was told of."""

    def __init__(self) -> None:
        self.runs: dict[str, NodeStarted] = {}
        self.asked: list[str] = []

    async def running(self, nodes: Sequence[Node]) -> list[NodeStarted]:
        node_ids = [node_id for _, node_id in nodes]
        self.asked += node_ids
        return [self.runs[node_id] for node_id in node_ids if node_id in self.runs]

    def start(self, node_id: str, version: str = "v1", *, seconds_ago: float = 60) -> None:
        at = time.time() - seconds_ago
        self.runs[node_id] = NodeStarted.of(run(node_id, version), happened_at=at)


@pytest.fixture
def engine() -> SurveyableEngine:
    return SurveyableEngine()


def surveyor_of(
    ledger: SqlLedger, pool: RedisPool, engine: SurveyableEngine, name: str = "one"
) -> Surveyor:
    return Surveyor(
        tracker=Tracker(ledger=ledger, pool=pool),
        ledger=ledger,
        pool=pool,
        engine=engine,
        name=name,
        lease_seconds=60,
        pause=1000,
    )


@pytest.fixture
def surveyor(ledger: SqlLedger, pool: RedisPool, engine: SurveyableEngine) -> Surveyor:
    return surveyor_of(ledger, pool, engine)


async def test_a_run_whose_event_was_lost_is_armed_from_its_start(
    surveyor: Surveyor, engine: SurveyableEngine, ledger: SqlLedger, pool: RedisPool
) -> None:
    await configure(ledger, config("lost", 100), config("known", 100), config("idle", 100))
    engine.start("lost", seconds_ago=40)
    engine.start("known", seconds_ago=40)
    engine.start("young", seconds_ago=1)
    await configure(ledger, config("young", 100))
    await ledger.arm(started([run("known")]), await pool.now())
    before = await ledger.rows("known")
    report = await surveyor.once()
    assert (report.asked, report.armed, report.surveyed) == (4, 1, True)
    (row,) = await ledger.rows("lost")
    assert row.state is RunState.ARMED
    assert row.deadline == pytest.approx(time.time() + 60, abs=2)
    assert await ledger.rows("known") == before
    assert await ledger.rows("young") == [], "its event may be under way"
    assert (await pool.counts()).armed == 1
    assert (await surveyor.once()).asked == 0, "it rests"


async def test_a_run_that_was_wrongly_cancelled_goes_on(
    surveyor: Surveyor, engine: SurveyableEngine, ledger: SqlLedger, pool: RedisPool
) -> None:
    await configure(ledger, config("a", 100))
    now = await pool.now()
    await ledger.arm(started([run("a")], happened_at=now - 50), now)
    await ledger.disarm(left(["a"]), now - 30)
    engine.start("a", seconds_ago=50)
    assert (await surveyor.once()).armed == 1
    assert [row.state for row in await ledger.rows("a")] == [RunState.ARMED]


async def test_it_walks_all_configs_in_pages(
    surveyor: Surveyor,
    engine: SurveyableEngine,
    ledger: SqlLedger,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("node_timeout.arming.surveyor.BATCH_SIZE", 2)
    await configure(ledger, *(config(name) for name in "abcd"))
    reports = [await surveyor.once() for _ in range(3)]
    assert [report.surveyed for report in reports] == [False, False, True]
    assert engine.asked == list("abcd")


async def test_a_silent_engine_neither_holds_it_nor_its_end(
    surveyor: Surveyor,
    engine: SurveyableEngine,
    ledger: SqlLedger,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def silent(_node_ids: Sequence[str]) -> list[NodeStarted]:
        asked.set()
        await asyncio.Event().wait()
        return []

    asked = asyncio.Event()
    monkeypatch.setattr(engine, "running", silent)
    await configure(ledger, config("a"))
    stop = asyncio.Event()
    running = asyncio.create_task(surveyor.run(stop, Health(name="surveyor")))
    await asked.wait()
    stop.set()
    await asyncio.wait_for(running, 5)
    monkeypatch.setattr("node_timeout.arming.surveyor.ANSWER_SECONDS", 0.05)
    with pytest.raises(EngineUnavailableError, match="no answer within"):
        await surveyor.once()


async def test_one_surveyor_at_a_time(
    surveyor: Surveyor, engine: SurveyableEngine, ledger: SqlLedger, pool: RedisPool
) -> None:
    await configure(ledger, config("a"))
    await surveyor.once()
    assert not (await surveyor_of(ledger, pool, engine, "two").once()).leading
    assert engine.asked == ["a"]
