"""Processes that are set differently, or share not the same stores, are found out."""

import asyncio
import logging
from pathlib import Path

import pytest
from redis.asyncio import Redis

from node_timeout import BlockingNodeTimeout, NodeTimeout
from node_timeout.check import run_checks
from node_timeout.settings import Settings
from node_timeout.stores.redis.pool import RedisPool
from node_timeout.stores.sql.ledger import SqlLedger
from node_timeout.stores.sql.schema import Schema
from tests.integration.test_outages import arm, changed, serving
from tests.servers import RabbitServer, RedisServer
from tests.support import tree_of, wait_until

AGREES = "as those of the scanners, if any has started"


async def settings_line(settings: Settings) -> tuple[bool, str]:
    (found,) = [each for each in await run_checks(settings) if each.name == "settings"]
    return found.passed, found.text


@pytest.fixture
async def scanned(settings: Settings) -> Settings:
    """The settings of a scanner that has started, and stopped again."""
    async with serving(settings) as (app, _):
        await wait_until(app.pool.ledger_id)
    return settings


async def test_before_any_scanner_there_is_nothing_to_compare(settings: Settings) -> None:
    assert await settings_line(settings) == (True, AGREES)


async def test_equal_settings_agree(scanned: Settings) -> None:
    assert await settings_line(scanned) == (True, AGREES)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("executing_pool", "another_pool"),
        ("pool_shards", 4),
        ("dispatch_exchange", "another"),
        ("dispatch_queue", "another"),
        ("dispatch_ahead", 0.25),
    ],
)
async def test_check_names_a_setting_that_differs_and_both_values(
    scanned: Settings, name: str, value: object
) -> None:
    passed, text = await settings_line(changed(scanned, **{name: value}))
    assert not passed
    assert text == (
        f"NODE_TIMEOUT_{name.upper()} is '{value}' here and '{getattr(scanned, name)}' in the "
        f"scanners; give every process the same value, and restart the scanners first"
    )


async def test_another_virtual_host_is_named(
    scanned: Settings, rabbit_server: RabbitServer
) -> None:
    rabbit_server.ctl("add_vhost", "other")
    try:
        passed, text = await settings_line(changed(scanned, amqp_url=rabbit_server.url + "other"))
    finally:
        rabbit_server.ctl("delete_vhost", "other")
    assert not passed
    assert "vhost of NODE_TIMEOUT_AMQP_URL is '/other' here and '/' in the scanners" in text
    assert rabbit_server.password not in text


async def test_another_database_number_of_redis_is_found_out(
    scanned: Settings, redis_server: RedisServer
) -> None:
    passed, text = await settings_line(changed(scanned, redis_url=redis_server.url[:-1] + "5"))
    assert not passed
    assert "the scanners have never served the pool in this Redis" in text


async def test_another_database_is_found_out(scanned: Settings, tmp_path: Path) -> None:
    """Its own scanners have started there before, with another Redis."""
    url = f"sqlite:///{tmp_path / 'other.db'}"
    schema, ledger = Schema(url), SqlLedger(url)
    await schema.migrate()
    await ledger.declare({})
    passed, text = await settings_line(changed(scanned, database_url=url))
    assert not passed
    assert "the pool in this Redis belongs to the scanners of another database" in text
    await ledger.close()
    await schema.close()


async def test_a_worker_says_at_its_start_what_differs(
    scanned: Settings, caplog: pytest.LogCaptureFixture
) -> None:

    stop = asyncio.Event()
    other = changed(scanned, dispatch_queue=f"{scanned.dispatch_queue}-other")
    async with NodeTimeout(other) as app:
        services = asyncio.create_task(app.work(stop))
        await wait_until(lambda: "NODE_TIMEOUT_DISPATCH_QUEUE is '" in caplog.text)
        stop.set()
        await services


async def test_an_engines_process_says_at_its_first_start_what_differs(
    scanned: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """As the Django app, which would arm nodes in a pool that nobody serves."""

    def engine() -> None:
        with BlockingNodeTimeout(changed(scanned, executing_pool="another_pool")) as client:
            client.batch_create_node_timeout_config("r", tree_of("a"))
            for version in ("v1", "v2"):
                client.node_started("a", version)

    await asyncio.to_thread(engine)
    said = [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]
    assert len(said) == 1
    assert "NODE_TIMEOUT_EXECUTING_POOL is 'another_pool' here" in said[0]


async def test_what_a_process_could_not_compare_it_compares_later(
    scanned: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with RedisServer(tmp_path) as server:
        server.stop()
        async with NodeTimeout(changed(scanned, redis_url=server.url)) as app:
            await app.batch_create_node_timeout_config("r", tree_of("a", seconds=60))
            await app.node_started("a", "v1")
            server.start()

            async def said() -> bool:
                await app.node_started("a", "v1")
                return "have never served the pool" in caplog.text

            await wait_until(said, 20)


async def test_the_scanner_that_starts_last_is_right(
    scanned: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """So a setting is changed by restarting the scanners, then the others."""
    new = changed(scanned, dispatch_ahead=0.25)
    async with serving(new):
        await wait_until(lambda: "in the scanner that started before" in caplog.text)
    assert await settings_line(new) == (True, AGREES)
    assert not (await settings_line(scanned))[0]


async def test_a_pool_of_another_database_is_said_by_the_scanner_that_takes_it(
    scanned: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"sqlite:///{tmp_path / 'other.db'}"
    schema = Schema(url)
    await schema.migrate()
    await schema.close()
    async with serving(changed(scanned, database_url=url)):
        await wait_until(lambda: "served by scanners of another database" in caplog.text)


async def test_a_redis_that_loses_its_data_is_marked_again(
    settings: Settings, redis: Redis
) -> None:
    async with serving(settings) as (app, engine):
        await wait_until(app.pool.ledger_id)
        before = await app.pool.ledger_id()
        await redis.flushall()
        await arm(app, engine, 60, "a")
        await wait_until(app.pool.ledger_id)
        assert await app.pool.ledger_id() == before
        assert await settings_line(settings) == (True, AGREES)


async def test_what_is_declared_is_stored_and_the_id_stays(any_ledger: SqlLedger) -> None:
    assert await any_ledger.settings() == {}
    first = await any_ledger.declare({"a": "1", "B": "节点 🙂"})
    assert set(first) == {"ledger_id"}
    assert await any_ledger.settings() == {**first, "a": "1", "B": "节点 🙂"}
    assert await any_ledger.declare({"a": "2"}) == {**first, "a": "1", "B": "节点 🙂"}
    assert (await any_ledger.settings())["a"] == "2"


async def test_the_mark_of_a_pool_is_its_own(pool: RedisPool, redis: Redis) -> None:
    assert await pool.ledger_id() is None
    await pool.mark_ledger("one")
    assert await pool.ledger_id() == "one"
    assert await redis.get("{test_pool}:ledger_id") == b"one"
