"""The whole way through the loss of a store: nothing is lost, and everyone comes back."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from node_timeout.app import NodeTimeout
from node_timeout.domain.run import RunState
from node_timeout.settings import Settings
from node_timeout.stores.rabbitmq.exchange import RabbitExchange
from tests.integration.test_rabbit import declared_for_good
from tests.servers import MariadbServer, PostgresServer, RabbitServer, RedisServer
from tests.support import FakeEngine, run, tree_of, wait_until


@contextlib.asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[tuple[NodeTimeout, FakeEngine]]:
    """Scanner, reconciler and worker in this process."""
    engine = FakeEngine()
    async with NodeTimeout(settings) as app:
        app.use_engine(engine)
        stop = asyncio.Event()
        services = asyncio.create_task(app.scan_and_work(stop))
        try:
            yield app, engine
        finally:
            stop.set()
            await asyncio.wait_for(services, 30)


async def arm(app: NodeTimeout, engine: FakeEngine, seconds: float, *node_ids: str) -> None:
    assert (await app.batch_create_node_timeout_config("r", tree_of(*node_ids, seconds=seconds)))[
        "result"
    ]
    engine.start(*(run(node_id, root="r") for node_id in node_ids))
    await app.nodes_started([(node_id, "v1") for node_id in node_ids])


async def all_failed(engine: FakeEngine, count: int, time_limit: float = 20) -> None:
    await wait_until(lambda: len(engine.failed) >= count, time_limit)
    assert len(set(engine.failed)) == len(engine.failed) == count


def changed(settings: Settings, **changes: object) -> Settings:
    known = {name: getattr(settings, name) for name in settings.model_fields_set}
    return Settings(**{**known, **changes})


async def test_redis_dies_with_all_its_data(settings: Settings, tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        async with serving(changed(settings, redis_url=server.url)) as (app, engine):
            await arm(app, engine, 2.5, *(f"n{i}" for i in range(50)))
            server.kill()
            await asyncio.to_thread(server.start)
            await all_failed(engine, 50)


async def test_redis_is_emptied_while_it_runs(
    settings: Settings, redis_server: RedisServer, redis: Redis
) -> None:
    async with serving(settings) as (app, engine):
        await wait_until(lambda: redis.exists("{executing_node_pool}:reconciled_run_id"))
        await arm(app, engine, 2.5, *(f"n{i}" for i in range(50)))
        await redis.flushall()
        await all_failed(engine, 50)


async def test_a_node_that_starts_while_redis_is_down_is_tracked(
    settings: Settings, tmp_path: Path
) -> None:
    with RedisServer(tmp_path) as server:
        async with serving(changed(settings, redis_url=server.url)) as (app, engine):
            await app.pool.now()
            server.stop()
            await arm(app, engine, 1, "a")
            await asyncio.to_thread(server.start)
            await all_failed(engine, 1)


async def test_rabbitmq_dies_and_comes_back(settings: Settings, tmp_path: Path) -> None:
    with RabbitServer(tmp_path) as server:
        settings = changed(settings, amqp_url=server.url, lease_seconds=2)
        async with NodeTimeout(settings) as app:
            assert isinstance(app.exchange, RabbitExchange)
            await declared_for_good(app.exchange, server)
        async with serving(settings) as (
            app,
            engine,
        ):
            await arm(app, engine, 0.1, "before")
            await all_failed(engine, 1)
            server.kill()
            await arm(app, engine, 0.1, *(f"n{i}" for i in range(50)))
            await asyncio.sleep(0.5)
            await asyncio.to_thread(server.start)
            await all_failed(engine, 51, 40)


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
async def test_the_database_dies_and_comes_back(
    settings: Settings, tmp_path: Path, kind: str
) -> None:
    server: PostgresServer | MariadbServer = (
        PostgresServer(tmp_path) if kind == "postgresql" else MariadbServer(tmp_path)
    )
    with server:
        url = server.create_database("outage")
        async with NodeTimeout(changed(settings, database_url=url)) as app:
            from node_timeout.stores.sql.schema import Schema

            schema = Schema(url)
            await schema.migrate()
            await schema.close()
        async with serving(changed(settings, database_url=url)) as (app, engine):
            await arm(app, engine, 1, *(f"n{i}" for i in range(50)))
            server.kill()
            await asyncio.sleep(1.5)
            assert engine.failed == []
            await asyncio.to_thread(server.start)
            await all_failed(engine, 50, 40)

            async def recorded() -> bool:
                counts = await app.ledger.counts(await app.pool.now())
                return counts.last_hour.get(RunState.HANDLED, 0) == 50

            await wait_until(recorded, 20)


async def test_services_wait_for_stores_that_are_not_there_yet(
    settings: Settings, tmp_path: Path
) -> None:
    redis_server, rabbit_server = RedisServer(tmp_path), RabbitServer(tmp_path)
    try:
        settings = changed(settings, redis_url=redis_server.url, amqp_url=rabbit_server.url)
        async with serving(settings) as (app, engine):
            await asyncio.sleep(0.3)
            await asyncio.to_thread(redis_server.start)
            await asyncio.to_thread(rabbit_server.start)
            await arm(app, engine, 0.1, "a")
            await all_failed(engine, 1)
    finally:
        redis_server.stop()
        rabbit_server.stop()
