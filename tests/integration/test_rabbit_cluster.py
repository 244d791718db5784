"""A RabbitMQ cluster that loses nodes under load: everyone goes on with another node."""

import asyncio
import contextlib
from collections.abc import Iterator

import pytest

from node_timeout.app import NodeTimeout
from node_timeout.domain.errors import ExchangeUnavailableError
from node_timeout.settings import Settings
from node_timeout.stores.rabbitmq.exchange import RabbitExchange
from tests.clusters import RabbitCluster, RabbitNode
from tests.integration.test_outages import all_failed, arm, changed, serving
from tests.support import FakeEngine, wait_until


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitCluster]:
    with RabbitCluster(tmp_path_factory.mktemp("rabbits")) as cluster:
        yield cluster


@pytest.fixture
async def clustered(settings: Settings, cluster: RabbitCluster) -> Settings:
    """Settings of the cluster, whose queues are declared and have a member on every node."""
    clustered = changed(settings, amqp_url=cluster.url, lease_seconds=3)
    async with NodeTimeout(clustered) as app:
        await app.exchange.ensure()
    await asyncio.to_thread(cluster.wait_healthy)
    return clustered


def publishing(app: NodeTimeout, cluster: RabbitCluster) -> RabbitNode:
    """The node that the publisher is connected to."""
    assert isinstance(app.exchange, RabbitExchange)
    publisher = app.exchange._publisher
    assert publisher is not None
    return cluster.nodes[cluster.urls.index(publisher.url.address)]


async def arm_many(app: NodeTimeout, engine: FakeEngine, name: str) -> int:
    """Arm nodes that fall due over some seconds; return how many."""
    for tenth in range(40):
        seconds = 0.5 + tenth / 10
        await arm(app, engine, seconds, *(f"{name}-{tenth}-{i}" for i in range(10)))
    return 400


async def some_failed(engine: FakeEngine, count: int) -> None:
    await wait_until(lambda: len(engine.failed) >= count)


@pytest.mark.parametrize("victim", ["leader", "connected"])
async def test_a_node_is_killed_under_load_and_comes_back(
    clustered: Settings, cluster: RabbitCluster, victim: str
) -> None:
    async with serving(clustered) as (app, engine):
        total = 0
        for name in ("first", "second"):
            if victim == "leader":
                node = await asyncio.to_thread(cluster.leader_of, clustered.dispatch_queue)
            else:
                await app.exchange.ensure()
                node = publishing(app, cluster)
            total += await arm_many(app, engine, name)
            await some_failed(engine, total - 400 + 20)
            node.kill()
            await all_failed(engine, total, 40)
            assert publishing(app, cluster) is not node
            await asyncio.to_thread(node.start)
            await asyncio.to_thread(cluster.wait_healthy)
        depths = await app.exchange.depths()
        assert depths == dict.fromkeys(depths, 0)


async def test_a_publisher_that_began_while_there_was_no_leader_recovers(
    clustered: Settings, cluster: RabbitCluster
) -> None:
    """RabbitMQ 3.10 nacks all that comes on such a channel, for good."""
    queue = clustered.dispatch_queue
    leader = await asyncio.to_thread(cluster.leader_of, queue)
    others = ",".join(node.url for node in cluster.nodes if node is not leader)
    async with NodeTimeout(changed(clustered, amqp_url=others)) as app:
        await app.exchange.ensure()
        leader.kill()

        async def published() -> bool:
            with contextlib.suppress(ExchangeUnavailableError):
                await app.exchange.publish(queue, b"{}", 1)
                return True
            return False

        assert not await published()
        await wait_until(published, 20)
    await asyncio.to_thread(leader.start)
    await asyncio.to_thread(cluster.wait_healthy)


async def test_a_node_falls_silent_under_load(clustered: Settings, cluster: RabbitCluster) -> None:
    """As when its machine is lost: nobody closes the connections to it."""
    urls = ",".join(f"{url}?heartbeat=1" for url in cluster.urls)
    async with serving(changed(clustered, amqp_url=urls)) as (app, engine):
        await app.exchange.ensure()
        node = publishing(app, cluster)
        total = await arm_many(app, engine, "silent")
        await some_failed(engine, 20)
        node.pause()
        try:
            await all_failed(engine, total, 100)
        finally:
            node.kill()
            await asyncio.to_thread(node.start)
            await asyncio.to_thread(cluster.wait_healthy)
