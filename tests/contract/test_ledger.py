"""The contract of the ledger, on each database and in memory; and what is SQL's own."""

import asyncio
from typing import Any

import pytest
from sqlalchemy import event, insert

from node_timeout.domain.run import RunState
from node_timeout.ports.directory import Cursor, RunFilter
from node_timeout.ports.ledger import Ledger
from node_timeout.stores.sql.ledger import SqlLedger
from node_timeout.stores.sql.postgres_sessions import PLANNER
from node_timeout.stores.sql.tables import runs as ledger_table
from node_timeout.testing.contracts.ledger import *  # noqa: F403 - the suite
from node_timeout.testing.contracts.ledger.acts import NOW, states
from tests.support import armed_row, config, configure, gone, id_of, left, run, started


@pytest.fixture
def ledger(any_store: Ledger) -> Ledger:
    return any_store


async def test_a_leaving_waits_for_a_start_that_is_being_written(any_ledger: SqlLedger) -> None:
    if any_ledger.engine.dialect.name == "sqlite":
        pytest.skip("it has one writer at a time")
    await configure(any_ledger, config("a"))
    event = gone("a", "v1", remember=True)
    row = armed_row(run("a"), config("a"), NOW, NOW + 10)
    async with any_ledger.engine.begin() as connection:
        await connection.execute(insert(ledger_table), [row])
        leaving = asyncio.create_task(any_ledger.disarm([event], NOW + 1))
        await asyncio.sleep(0.3)
        assert not leaving.done()
    assert (await leaving).cancelled == (run("a"),)
    assert await states(any_ledger, "a") == {"v1": RunState.CANCELLED}


async def test_a_resume_waits_for_a_leaving_under_way(
    any_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two listeners: one has read the row when the other cancels it."""
    if any_database_url.startswith("sqlite"):
        return  # has one writer at a time
    one, two = SqlLedger(any_database_url), SqlLedger(any_database_url)
    await configure(one, config("a", 100))
    await one.arm(started([run("a")], happened_at=NOW), NOW)
    configs = one._configs

    async def slowly(*args: Any) -> Any:
        found = await configs(*args)
        await two.disarm(left(["a"], "v1", happened_at=NOW + 2), NOW + 2)
        return found

    monkeypatch.setattr(one, "_configs", slowly)
    (armed,) = await one.arm(started([run("a")], happened_at=NOW + 3), NOW + 3)
    assert armed.due_at == pytest.approx(NOW + 101)
    assert await states(one, "a") == {"v1": RunState.ARMED}
    await one.close()
    await two.close()


async def test_a_page_of_runs_costs_what_it_returns(
    any_ledger: SqlLedger, request: pytest.FixtureRequest
) -> None:
    """Not what there is: each filter of the directory is answered by an index."""
    runs = [run(f"n{i}", root=f"r{i // 10}") for i in range(5_000)]
    rows = [
        armed_row(each, config(each.node_id), NOW, NOW + i)
        | ({"state": RunState.HANDLED, "next_at": None, "finished_at": NOW + i} if i % 2 else {})
        for i, each in enumerate(runs)
    ]
    async with any_ledger.engine.begin() as connection:
        await connection.execute(insert(ledger_table), rows)
    dialect = any_ledger.engine.dialect.name
    analyze = "ANALYZE TABLE" if dialect == "mysql" else "ANALYZE"
    explain = "EXPLAIN QUERY PLAN" if dialect == "sqlite" else "EXPLAIN"
    statements: list[tuple[str, Any]] = []

    def executed(*args: Any) -> None:
        statements.append((args[2], args[3]))

    for index, wanted in {
        "next": RunFilter(state=RunState.ARMED),
        "next ": RunFilter(due_by=NOW + 100),
        "finished": RunFilter(state=RunState.HANDLED),
        "root": RunFilter(root_pipeline_id="r7"),
        "root ": RunFilter(root_pipeline_id="r7", state=RunState.ARMED),
        "node": RunFilter(node_id="n77"),
    }.items():
        event.listen(any_ledger.engine.sync_engine, "before_cursor_execute", executed)
        statements.clear()
        await any_ledger.find(wanted, 5, Cursor(NOW, id_of("n0")))
        event.remove(any_ledger.engine.sync_engine, "before_cursor_execute", executed)
        statement, values = next(each for each in statements if "ORDER BY" in each[0])
        async with any_ledger.engine.connect() as connection:
            await connection.exec_driver_sql(f"{analyze} {ledger_table.name}")
            plan = await connection.exec_driver_sql(f"{explain} {statement}", values)
            text = "\n".join(str(row) for row in plan)
        assert f"ix_node_timeout_run_{index.strip()}" in text, text
        if dialect == "mysql" and index.strip() in ("next", "finished"):
            assert "'range'" in text, "it reads all that is before the page"


async def test_postgresql_plans_each_statement_for_the_table_as_it_is(postgres_url: str) -> None:
    ledger = SqlLedger(postgres_url)
    async with ledger.engine.connect() as connection:
        for name, value in PLANNER.items():
            assert (await connection.exec_driver_sql(f"SHOW {name}")).scalar_one() == value
    await ledger.close()
