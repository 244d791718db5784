"""`node-timeout import-bamboo`: the configs of bamboo's own app, on the three databases."""

import pytest
from click.testing import CliRunner
from sqlalchemy import text

from node_timeout.app import NodeTimeout
from node_timeout.cli.main import cli
from node_timeout.domain.errors import InvalidInputError, LedgerError, SettingsError
from node_timeout.settings import Settings
from node_timeout.stores.sql.bamboo_configs import BATCH_SIZE, OWN_APP, TABLES
from node_timeout.stores.sql.ledger import SqlLedger
from tests.support import config, configure

TABLE = """CREATE TABLE {table} (
    root_pipeline_id varchar(64) NOT NULL, action varchar(32) NOT NULL,
    node_id varchar(64) NOT NULL PRIMARY KEY, timeout integer NOT NULL{columns})"""
INSERT = (
    "INSERT INTO {table} (node_id, root_pipeline_id, action, timeout)"
    " VALUES (:node_id, :root, :action, :timeout)"
)


async def fill(
    ledger: SqlLedger, *rows: tuple[str, str, int], table: str = OWN_APP, columns: str = ""
) -> None:
    async with ledger.engine.begin() as connection:
        await connection.execute(text(f"DROP TABLE IF EXISTS {table}"))
        await connection.execute(text(TABLE.format(table=table, columns=columns)))
        if rows:
            await connection.execute(
                text(INSERT.format(table=table)),
                [
                    {"node_id": node_id, "root": "root", "action": action, "timeout": timeout}
                    for node_id, action, timeout in rows
                ],
            )


async def test_configs_are_copied_once_in_batches(
    any_ledger: SqlLedger, any_database_url: str
) -> None:
    number = BATCH_SIZE + 5
    await fill(any_ledger, *((f"n{i:05}", "forced_fail", i + 1) for i in range(number)))
    await configure(any_ledger, config("n00000", 99))
    seen: list[tuple[int, int]] = []
    async with NodeTimeout(Settings(database_url=any_database_url)) as app:
        for imported in (number - 1, 0):
            report = await app.import_bamboo_configs(
                any_database_url, lambda done, total: seen.append((done, total))
            )
            assert (report.read, report.imported, report.refused) == (number, imported, [])
    assert seen == [(BATCH_SIZE, number), (number, number)] * 2
    configs = await any_ledger.configs([("root", "n00000"), ("root", "n00001")])
    assert configs["root", "n00000"].timeout == 99, "a config that is here stays"
    assert (configs["root", "n00001"].timeout, configs["root", "n00001"].root_pipeline_id) == (
        2,
        "root",
    )


@pytest.mark.parametrize("table", TABLES[1:])
async def test_the_tables_of_bk_sops_and_bkflow_are_read(
    any_ledger: SqlLedger, any_database_url: str, table: str
) -> None:
    await fill(any_ledger)
    await fill(
        any_ledger, ("n", "forced_fail", 7), table=table, columns=", task_id bigint DEFAULT 42"
    )
    async with NodeTimeout(Settings(database_url=any_database_url)) as app:
        report = await app.import_bamboo_configs(any_database_url, lambda *_: None, table=table)
    assert (report.read, report.imported, report.refused) == (1, 1, [])
    found = (await any_ledger.configs([("root", "n")]))["root", "n"]
    assert (found.timeout, found.payload) == (7, {"task_id": 42})


async def test_another_table_is_refused(sqlite_url: str) -> None:
    async with NodeTimeout(Settings(database_url=sqlite_url)) as app:
        with pytest.raises(
            InvalidInputError, match="no table of timeout configs is called 'users'"
        ):
            await app.import_bamboo_configs(sqlite_url, lambda *_: None, table="users")


async def test_a_bad_row_is_named_and_the_others_are_copied(
    ledger: SqlLedger, sqlite_url: str
) -> None:
    await fill(ledger, ("bad", "forced_fail", -5), ("odd", "forced", 5), ("good", "forced_fail", 5))
    async with NodeTimeout(Settings(database_url=sqlite_url)) as app:
        report = await app.import_bamboo_configs(sqlite_url, lambda *_: None)
    assert (report.read, report.imported) == (3, 1)
    assert any("'bad': seconds is -5" in problem for problem in report.refused)
    assert any("did you mean 'forced_fail'" in problem for problem in report.refused)


async def test_a_source_that_is_none_says_so(sqlite_url: str, ledger: SqlLedger) -> None:
    async with ledger.engine.begin() as connection:
        await connection.execute(text("DROP TABLE IF EXISTS node_timeout_timeoutnodeconfig"))
    async with NodeTimeout(Settings(database_url=sqlite_url)) as app:
        with pytest.raises(LedgerError, match="node_timeout_timeoutnodeconfig"):
            await app.import_bamboo_configs(sqlite_url, lambda *_: None)
        with pytest.raises(SettingsError):
            await app.import_bamboo_configs("nonsense", lambda *_: None)


async def test_the_command_line_tells_what_it_did(
    ledger: SqlLedger, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import asyncio

    await fill(ledger, ("bad", "forced_fail", -5), ("good", "forced_fail", 5))
    monkeypatch.setenv("NODE_TIMEOUT_DATABASE_URL", sqlite_url)
    result = await asyncio.to_thread(
        CliRunner().invoke, cli, ["import-bamboo"], standalone_mode=False
    )
    assert result.return_value == 1
    assert "2 rows read: 1 imported, 0 here already, 1 refused" in result.output
    assert "refused: node 'bad'" in result.output
