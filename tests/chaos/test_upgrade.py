"""Fault 14: old and new versions side by side, of the schema and of the messages."""

import asyncio
import json

import aio_pika
import pytest
from sqlalchemy import text

from node_timeout import Settings
from node_timeout.domain.errors import SchemaError
from node_timeout.stores.sql.schema import Schema
from node_timeout.stores.sql.tables import HEAD_REVISION
from tests.chaos.house import House
from tests.servers import RabbitServer


async def migrate(house: House, revision: str) -> None:
    schema = Schema(house.settings.database_url.get_secret_value())
    await schema.migrate(revision)
    await schema.close()


async def execute(house: House, *statements: str) -> None:
    async with house.app.ledger.engine.begin() as connection:
        for statement in statements:
            await connection.execute(text(statement))


async def test_a_database_without_tables_is_refused_and_served_after_the_migration(
    house: House,
) -> None:
    """There is no schema before the first."""
    house.row.of(
        fault="rolling upgrade: no tables yet, this version",
        tried="refused with the way out; served after the migration",
        times=2,
    )
    await migrate(house, "base")
    try:
        for role in ("scan", "worker"):
            process = await house.spawn(role, ready="")
            assert await asyncio.to_thread(process.wait) != 0
            assert "run: node-timeout migrate" in process.output
    finally:
        await migrate(house, "head")
    await house.spawn("scan")
    await house.spawn("worker")
    runs = await house.arm(10, 0.2)
    verdict = await house.verdict()
    assert verdict.effects == len(runs)


async def test_the_next_schema_serves_this_version_if_its_migration_says_so(house: House) -> None:
    """A rolling upgrade migrates first: what still runs, and restarts, is of this version."""
    house.row.of(
        fault="rolling upgrade: the next schema, this version",
        tried="migrated under load, a worker restarted behind it",
        times=1,
    )
    later = f"9999_since_{HEAD_REVISION.partition('_')[0]}"
    await house.spawn("scan")
    worker = await house.spawn("worker")
    async with house.steadily(per_second=50):
        await house.until_armed(50)
        await execute(
            house,
            "ALTER TABLE node_timeout_run ADD COLUMN of_the_future TEXT",
            f"UPDATE node_timeout_alembic_version SET version_num = '{later}'",
        )
        try:
            await house.until_armed(100)
            assert await asyncio.to_thread(worker.stop) == 0
            await house.spawn("worker")
            await house.until_armed(150)
        finally:
            await execute(
                house,
                "ALTER TABLE node_timeout_run DROP COLUMN of_the_future",
                f"UPDATE node_timeout_alembic_version SET version_num = '{HEAD_REVISION}'",
            )
    await house.verdict(late_seconds=5)


@pytest.mark.parametrize("found", ["9999", "9999_since_9998", "0000", "nonsense"])
async def test_a_schema_that_does_not_say_so_is_refused(house: House, found: str) -> None:
    house.row.of(fault=f"rolling upgrade: a schema of revision {found}", tried="refused", times=1)
    update = "UPDATE node_timeout_alembic_version SET version_num = "
    await execute(house, f"{update}'{found}'")
    try:
        with pytest.raises(SchemaError, match=found):
            await house.app.ledger.check_schema()
    finally:
        await execute(house, f"{update}'{HEAD_REVISION}'")
    await house.verdict()


async def test_a_message_of_an_unknown_schema_is_kept_and_its_nodes_are_not_lost(
    house: House, settings: Settings, rabbit_server: RabbitServer
) -> None:
    """It waits, unchanged, for those who can read it; the ledger brings its nodes again."""
    house.row.of(
        fault="rolling upgrade: a message of an unknown schema",
        tried="kept in the dead-letter queue; its nodes come from the ledger",
        times=1,
    )
    await house.spawn("worker")
    runs = await house.arm(10, 0.2)
    nodes = [{"node": run.node_id, "run": run.version} for run in runs]
    body = json.dumps({"schema": 2, "timed_out": nodes}).encode()
    # As a scanner of the next version would: published, then out of the pool.
    await house.app.exchange.publish(settings.dispatch_queue, body, 5)
    await house.app.pool.disarm([run.run_id for run in runs])
    async with await aio_pika.connect(rabbit_server.url) as connection:
        channel = await connection.channel()
        dead = await channel.get_queue(f"{settings.dispatch_queue}.dead")
        kept = await dead.get(timeout=20, fail=False)
        while kept is None:
            await asyncio.sleep(0.05)
            kept = await dead.get(timeout=20, fail=False)
        assert kept.body == body
        assert "schema 2 is unknown" in str(kept.headers["x-node-timeout-reason"])
        await kept.ack()
    await house.spawn("scan")
    verdict = await house.verdict()
    assert verdict.effects == len(runs)
