"""What each step costs, in counts: statements, round trips, commands, messages. They do not flake.

A change that makes one of these grow has a reason, or is a mistake.
"""

import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from redis.asyncio import Redis
from sqlalchemy import event, insert

from node_timeout.arming.tracker import Tracker
from node_timeout.dispatch.scanner import Scanner
from node_timeout.domain.run import DueRun, Outcome, RunState
from node_timeout.stores.memory.exchange import MemoryExchange
from node_timeout.stores.redis.pool import RedisPool
from node_timeout.stores.sql.ledger import SqlLedger
from node_timeout.stores.sql.tables import runs as ledger_table
from tests.integration.test_scanner import QUEUE, Collector, collector
from tests.integration.test_worker import Bench, bench
from tests.support import armed_row, config, configure, gone, left, run, started

__all__ = ["bench", "collector"]  # fixtures

NODES = 250


class Statements(Counter[str]):
    """SQL statements by their first word; ``commit`` counts transactions."""


@contextlib.contextmanager
def counted(ledger: SqlLedger) -> Iterator[Statements]:
    statements = Statements()
    engine = ledger.engine.sync_engine

    def executed(*args: object) -> None:
        word = str(args[2]).split(maxsplit=1)[0]
        if word != "BEGIN":  # SQLite's
            statements[word] += 1

    def committed(_: object) -> None:
        statements["commit"] += 1

    event.listen(engine, "before_cursor_execute", executed)
    event.listen(engine, "commit", committed)
    try:
        yield statements
    finally:
        event.remove(engine, "before_cursor_execute", executed)
        event.remove(engine, "commit", committed)


@contextlib.asynccontextmanager
async def commands(redis: Redis) -> AsyncIterator[Counter[str]]:
    """Redis commands by name, those that scripts call not counted."""
    found: Counter[str] = Counter()
    await redis.config_resetstat()
    yield found
    for name, stats in (await redis.info("commandstats")).items():
        found[name.removeprefix("cmdstat_")] += int(stats["calls"])
    inside = ("z", "time", "publish", "config", "info", "get", "set")
    for name in [name for name in found if name.startswith(inside)]:
        del found[name]


async def test_a_batch_costs_a_worker_two_transactions_and_three_statements(bench: Bench) -> None:
    due = await bench.armed(*(f"n{i}" for i in range(NODES)))
    with counted(bench.ledger) as statements:
        report = await bench.handle(due, concurrency=NODES)
    assert report.outcomes == {RunState.HANDLED: NODES}
    # All strategies end at about the same time; now and then a second group is recorded.
    groups = statements["commit"] - 1
    assert groups in (1, 2)
    assert statements == {"SELECT": 1, "UPDATE": 1 + groups, "commit": 1 + groups}


async def test_a_batch_costs_postgresql_one_statement_each_way(postgres_url: str) -> None:
    ledger = SqlLedger(postgres_url)
    names = [f"n{i}" for i in range(NODES)]
    await configure(ledger, *(config(name) for name in names))
    due = await ledger.arm(started([run(name) for name in names]), 1000.0)
    with counted(ledger) as statements:
        taking = await ledger.take(due, now=2000.0, lease_seconds=60, max_attempts=1)
        handled = [Outcome(node=node, state=RunState.HANDLED) for node in taking.taken]
        assert await ledger.record(handled, owner=taking.owner, now=2001.0) == NODES
    assert statements == {"UPDATE": 2, "commit": 2}
    await ledger.close()


async def test_a_batch_that_is_tried_again_costs_three_statements(any_ledger: SqlLedger) -> None:
    """Though each has a time of its own, and the strategy had something else to say of each.

    The rows are read, and written; their errors go into the history.
    """
    names = [f"n{i}" for i in range(NODES)]
    await configure(any_ledger, *(config(name) for name in names))
    due = await any_ledger.arm(started([run(name) for name in names]), 1000.0)
    taking = await any_ledger.take(due, now=2000.0, lease_seconds=60, max_attempts=9)
    failed = [
        Outcome(node=node, state=RunState.ARMED, message=node.node_id, due_at=2010.0 + i)
        for i, node in enumerate(taking.taken)
    ]
    with counted(any_ledger) as statements:
        assert await any_ledger.record(failed, owner=taking.owner, now=2001.0) == NODES
    assert statements == {"SELECT": 1, "INSERT": 2, "commit": 1}


async def test_postgresql_finds_the_rows_of_a_batch_by_their_keys(postgres_url: str) -> None:
    """In a table so small that the planner would read all of it, and compare each with each."""
    ledger = SqlLedger(postgres_url)
    rows = [armed_row(run(f"n{i}"), config(f"n{i}"), 900.0, 1000.0) for i in range(10_000)]
    async with ledger.engine.begin() as connection:
        await connection.execute(insert(ledger_table), rows)
        await connection.exec_driver_sql(f"ANALYZE {ledger_table.name}")
    found: list[tuple[str, tuple[object, ...]]] = []

    def executed(*args: object) -> None:
        statement = str(args[2])
        if "INSERT" not in statement:  # which looks for no row
            found.append((statement, tuple(args[3])))  # type: ignore[arg-type]

    event.listen(ledger.engine.sync_engine, "before_cursor_execute", executed)
    due = [DueRun(run_id=run(f"n{i}").run_id, due_at=1000.0) for i in range(NODES)]
    taking = await ledger.take(due, now=2000.0, lease_seconds=60, max_attempts=1)
    half = NODES // 2
    handled = [Outcome(node=node, state=RunState.HANDLED) for node in taking.taken[:half]]
    failed = [
        Outcome(node=node, state=RunState.ARMED, due_at=2010.0 + i)
        for i, node in enumerate(taking.taken[half:])
    ]
    for outcomes in (handled, failed):
        assert await ledger.record(outcomes, owner=taking.owner, now=2001.0) == len(outcomes)
    event.remove(ledger.engine.sync_engine, "before_cursor_execute", executed)
    async with ledger.engine.connect() as connection:
        driver: Any = (await connection.get_raw_connection()).driver_connection
        for statement, values in found:
            plan = [row[0] for row in await driver.fetch(f"EXPLAIN {statement}", *values)]
            scans = [line for line in plan if "Index Scan" in line]
            assert len(scans) == 1, plan
            assert f"{ledger_table.name}_pkey" in scans[0], plan
            assert not any("Seq Scan" in line for line in plan), plan
    assert len(found) == 3, "take, record what is handled, read what is tried again"
    await ledger.close()


async def test_handling_a_batch_costs_redis_next_to_nothing(bench: Bench, redis: Redis) -> None:
    due = await bench.armed(*(f"n{i}" for i in range(NODES)))
    async with commands(redis) as found:
        await bench.handle(due, concurrency=NODES)
    assert found.total() <= 10, found  # its clock; never a call for a node


async def test_nodes_that_came_ahead_cost_a_worker_one_read_more(bench: Bench) -> None:
    due = await bench.armed("a", "b", "c", seconds=2)  # ahead still, however slow the machine
    with counted(bench.ledger) as statements:
        await bench.handle(due, dispatch_ahead=4)
    assert statements["SELECT"] == 2
    assert statements["UPDATE"] <= 3


@pytest.mark.parametrize("batches", [1, 4])
async def test_a_batch_costs_a_scanner_one_claim_one_message_and_one_removal(
    pool: RedisPool,
    memory_exchange: MemoryExchange,
    redis: Redis,
    collector: Collector,
    batches: int,
) -> None:
    count = NODES * batches
    await pool.lower([DueRun(run_id=run(f"n{i}").run_id, due_at=1.0) for i in range(count)])
    scanner = Scanner(
        shard=pool.shards[0],
        exchange=memory_exchange,
        queue=QUEUE,
        batch_size=NODES,
        lease_seconds=10,
        scan_interval=1,
        shutdown_timeout=1,
    )
    async with commands(redis) as found:
        report = await scanner.once()
    assert (report.finished, collector.messages) == (count, batches)
    # One claim more, to see that nothing is left.
    assert found["evalsha"] <= 2 * batches + 1


async def test_arming_and_disarming_cost_the_same_for_one_node_and_for_many(
    ledger: SqlLedger, pool: RedisPool, redis: Redis
) -> None:
    tracker = Tracker(ledger=ledger, pool=pool)
    names = [f"n{i}" for i in range(NODES)]
    await configure(ledger, *(config(name) for name in [*names, "alone"]))
    await pool.now()
    costs = []
    for chosen in (["alone"], names):
        with counted(ledger) as statements:
            async with commands(redis) as found:
                await tracker.nodes_started(started([run(name) for name in chosen]))
                await tracker.nodes_left(left(chosen))
        assert found["evalsha"] <= 2, "arm, and perhaps the clock"
        costs.append(statements)
    one, many = costs
    assert one["commit"] == many["commit"] == 2
    assert many.total() <= one.total() + 2, "to see which rows were new"


async def test_leavings_at_different_instants_are_written_in_one_statement(
    any_ledger: SqlLedger,
) -> None:
    names = [f"n{i}" for i in range(NODES)]
    await configure(any_ledger, *(config(name) for name in names))
    await any_ledger.arm(started([run(name) for name in names]), 1000.0)
    events = [gone(name, "v1", happened_at=1001.0 + i / 7) for i, name in enumerate(names)]
    with counted(any_ledger) as statements:
        disarming = await any_ledger.disarm(events, 1100.0)
    assert len(disarming.cancelled) == NODES
    assert statements == {"SELECT": 1, "UPDATE": 1, "commit": 1}
    for event_, name in zip(events, names, strict=True):
        (row,) = await any_ledger.rows(name)
        assert (row.state, row.finished_at) == (RunState.CANCELLED, event_.happened_at)
