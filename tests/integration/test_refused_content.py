"""What a database refuses for its content costs its neighbours nothing, and is no outage."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from node_timeout.arming.listener import Listener
from node_timeout.arming.tracker import Tracker
from node_timeout.domain.config_check import ConfigRules
from node_timeout.domain.errors import LedgerError
from node_timeout.domain.events import NodeStarted
from node_timeout.domain.run import RunState, TimedOutNode
from node_timeout.stores.memory.exchange import MemoryExchange
from node_timeout.stores.redis.pool import RedisPool
from node_timeout.stores.sql.ledger import SqlLedger
from node_timeout.stores.sql.schema import Schema
from node_timeout.strategies.base import StrategyResult
from node_timeout.wire import dispatch, events
from tests.integration.test_worker import QUEUE, Bench
from tests.servers import MariadbServer, PostgresServer
from tests.support import config, foreign, gone, run, started

GRIN = "\N{GRINNING FACE}"


@pytest.fixture(params=["postgresql", "mariadb"])
async def narrow_ledger(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[SqlLedger]:
    """On a database that holds Western European letters only, which `migrate` itself refuses."""

    async def take(connection: AsyncConnection) -> None:
        pass

    monkeypatch.setattr("node_timeout.stores.sql.schema.require_unicode", take)
    name = f"narrow_{uuid.uuid4().hex[:8]}"
    if request.param == "postgresql":
        server: PostgresServer = request.getfixturevalue("postgres_server")
        url = server.create_database(name, encoding="LATIN1")
        schema = Schema(url)
        await schema.migrate()
    else:
        mariadb: MariadbServer = request.getfixturevalue("mariadb_server")
        url = mariadb.create_database(name)
        schema = Schema(url)
        await schema.migrate()
        async with schema.engine.begin() as connection:
            for table in ("node_timeout_run", "node_timeout_config"):
                await connection.execute(
                    text(f"ALTER TABLE {table} CONVERT TO CHARACTER SET latin1 COLLATE latin1_bin")
                )
    await schema.close()
    ledger = SqlLedger(url)
    yield ledger
    await ledger.close()


@pytest.fixture
def bench(pool: RedisPool, narrow_ledger: SqlLedger, memory_exchange: MemoryExchange) -> Bench:
    return Bench(pool, narrow_ledger, memory_exchange)


async def test_a_text_that_the_database_cannot_hold_is_recorded_in_ascii(bench: Bench) -> None:
    calls: list[str] = []

    async def smile(node: TimedOutNode) -> StrategyResult:
        calls.append(node.node_id)
        return StrategyResult(True, f"{GRIN} done" if node.node_id == "b" else "plainly done")

    bench.strategy("smile", smile)
    report = await bench.handle(await bench.armed("a", "b", "c", action="smile"))
    assert report.outcomes == {RunState.HANDLED: 3}
    assert sorted(calls) == ["a", "b", "c"], "no strategy is called again"
    assert await bench.state("a") == (RunState.HANDLED, "plainly done")
    assert await bench.state("b") == (RunState.HANDLED, "\\U0001f600 done")


async def test_a_run_that_the_database_cannot_hold_is_dead_lettered_and_its_neighbours_handled(
    bench: Bench,
) -> None:
    good = await bench.armed("a", "b", "c")
    bad = foreign(GRIN, due_at=1.0)
    report = await bench.handle([good[0], bad, *good[1:]])
    assert report.outcomes == {RunState.HANDLED: 3}
    ((body, reason),) = bench.exchange.dead
    assert dispatch.decode(body)[0] == [bad]
    assert reason.startswith("database: ")


async def test_an_event_that_the_database_cannot_hold_is_dead_lettered_and_holds_no_other_up(
    narrow_ledger: SqlLedger, pool: RedisPool, memory_exchange: MemoryExchange
) -> None:
    tracker = Tracker(ledger=narrow_ledger, pool=pool)
    listener = Listener(
        exchange=memory_exchange,
        tracker=tracker,
        ledger=narrow_ledger,
        pool=pool,
        queue=QUEUE,
        rules=ConfigRules(actions=("forced_fail",), max_seconds=1e6),
    )
    now = await pool.now()
    told = [
        NodeStarted.of(run(node_id), happened_at=now, config=config(node_id))
        for node_id in ("a", GRIN, "b", "c")
    ]
    left: list[Any] = [gone("d", GRIN, happened_at=now, remember=True)]
    async with memory_exchange.consume({QUEUE: 10}) as consumer:
        publishing = asyncio.create_task(
            memory_exchange.publish(QUEUE, events.encode([*told, *left]), 10)
        )
        report = await listener.once(consumer)
        await publishing
    assert (report.armed, report.unreadable) == (3, 2)
    letters = [json.loads(body)["events"] for body, _ in memory_exchange.dead]
    assert [[each["node_id"] for each in letter] for letter in letters] == [[GRIN], ["d"]]
    assert {reason[:10] for _, reason in memory_exchange.dead} == {"database: "}
    rules = ConfigRules(actions=("forced_fail",), max_seconds=1e6)
    again, _ = events.decode(memory_exchange.dead[0][0], rules, now)
    assert again == [told[1]], "it can be sent again once the database holds it"


async def test_what_is_refused_for_its_content_is_no_outage(narrow_ledger: SqlLedger) -> None:
    with pytest.raises(LedgerError):
        await narrow_ledger.arm([NodeStarted.of(run(GRIN), config=config(GRIN))], 1000.0)
    with pytest.raises(LedgerError):
        await narrow_ledger.save_configs([config(GRIN)], [])
    assert await narrow_ledger.arm(started([run("a")]), 1000.0) == []
