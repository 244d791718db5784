"""The pool in a Redis Cluster and behind Sentinels: shards, slot moves and failovers under load."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis.asyncio

from node_timeout import metrics
from node_timeout.domain.errors import PoolUnavailableError
from node_timeout.domain.run import DueRun
from node_timeout.settings import Settings
from node_timeout.stores.redis.blocking import CONNECTIONS, BlockingPool, is_served
from node_timeout.stores.redis.client import RedisClient
from node_timeout.stores.redis.pool import RedisPool
from tests.clusters import RedisCluster, SentinelTrio, redis_call, stop_replication
from tests.integration.test_outages import all_failed, arm, changed, serving
from tests.servers import RedisServer
from tests.support import absent, id_of, wait_until

SHARDS = 4
URLS: dict[str, str] = {}
"""Of the pools, by name."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    with RedisCluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def trio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SentinelTrio]:
    with SentinelTrio(tmp_path_factory.mktemp("sentinel")) as trio:
        yield trio


@pytest.fixture(params=["one server", "one server, sharded", "sentinel"])
async def served(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[RedisPool]:
    """A pool that synchronous callers reach too."""
    kind, _, sharded = str(request.param).partition(", ")
    url = request.getfixturevalue({"one server": "redis_server", "sentinel": "trio"}[kind]).url
    async with opened(url, f"served-{tmp_path.name}", SHARDS if sharded else 1) as pool:
        yield pool


@contextlib.asynccontextmanager
async def opened(url: str, name: str, shards: int) -> AsyncIterator[RedisPool]:
    pool = RedisPool(url, name, shards)
    URLS[name] = url
    yield pool
    await pool.close()


@pytest.fixture(
    params=["one server", "one server, sharded", "cluster", "cluster, sharded", "sentinel"]
)
async def pool(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[RedisPool]:
    kind, _, sharded = str(request.param).partition(", ")
    fixture = {"one server": "redis_server", "cluster": "cluster", "sentinel": "trio"}[kind]
    url = request.getfixturevalue(fixture).url
    async with opened(url, f"pool-{tmp_path.name}", SHARDS if sharded else 1) as pool:
        yield pool


def blocking_like(pool: RedisPool) -> BlockingPool:
    return BlockingPool(URLS[pool._name], pool._name, len(pool._hashed))


async def due(pool: RedisPool, seconds: float, count: int) -> list[DueRun]:
    now = await pool.now()
    return [DueRun(run_id=id_of(f"n{i}"), due_at=now + seconds) for i in range(count)]


async def test_the_pool_of_synchronous_callers_is_the_same_pool(served: RedisPool) -> None:
    with contextlib.closing(blocking_like(served)) as blocking:
        for theirs, ours in zip(await due(served, 60, 20), await due(served, 90, 20), strict=True):
            blocking.arm(theirs)
            assert await absent(served, [theirs.run_id]) == []
            blocking.arm(ours)  # it is there, and keeps its instant
        claims = [await shard.claim(0, 5) for shard in served.shards]
        first = min(claim.next_due_at for claim in claims if claim.next_due_at)
        assert first < await served.now() + 61
        for each in await due(served, 60, 20):
            blocking.disarm(each.run_id)
        assert (await served.counts()).armed == 0
        for _ in range(5):
            assert -0.05 <= blocking.now() - await served.now() < 0.05


async def test_a_scanner_hears_of_what_a_synchronous_caller_arms(served: RedisPool) -> None:
    (one, *_) = await due(served, 60, 1)
    shard = served._shard_of(one.run_id)
    await shard.wait(0.0)
    await asyncio.sleep(0.5)  # it hears by now
    await shard.wait(0.0)
    with contextlib.closing(blocking_like(served)) as blocking:
        waiting = asyncio.create_task(shard.wait(20))
        await asyncio.sleep(0)
        began = time.monotonic()
        blocking.arm(one)
        await waiting
        assert time.monotonic() - began < 10


async def test_threads_share_a_few_connections(redis_server: RedisServer) -> None:
    blocking = BlockingPool(redis_server.url, "threads")
    runs = [DueRun(run_id=id_of(f"n{i}"), due_at=1e12) for i in range(400)]
    with contextlib.closing(blocking), ThreadPoolExecutor(64) as threads:
        await asyncio.gather(
            *(asyncio.get_running_loop().run_in_executor(threads, blocking.arm, e) for e in runs)
        )
        assert len(blocking._client.connection_pool._connections) <= CONNECTIONS


async def test_without_redis_a_synchronous_caller_is_told_so() -> None:
    with contextlib.closing(BlockingPool("redis://127.0.0.1:1", "nowhere")) as blocking:
        with pytest.raises(PoolUnavailableError, match="Redis: "):
            blocking.arm(DueRun(run_id=id_of("a"), due_at=1.0))
        with pytest.raises(PoolUnavailableError, match="Redis: "):
            blocking.now()
        assert abs(blocking.estimate() - time.time()) < 1, "this host's clock"
        blocking.now()  # it is not asked again at once


def test_only_a_cluster_is_not_served() -> None:
    assert is_served("rediss+sentinel://a:1/service")
    assert is_served("rediss://a:1")
    assert not is_served("redis+cluster://a:1,b:1")


@pytest.mark.parametrize("turns", range(0, 60, 3))
async def test_it_closes_also_what_it_was_opening(cluster: RedisCluster, turns: int) -> None:
    """redis-py's cluster client closes nothing itself while it looks for its servers."""
    client = RedisClient(cluster.url)
    commands = client.commands
    assert isinstance(commands, redis.asyncio.RedisCluster)
    opening = asyncio.create_task(commands.initialize())
    for _ in range(turns):
        await asyncio.sleep(0)
    while not opening.done():  # as the pool does with its listener
        opening.cancel()
        await asyncio.sleep(0)
    await client.close()
    nodes = commands.nodes_manager
    known = [*nodes.startup_nodes.values(), *nodes.nodes_cache.values()]
    open_ones = [each for node in known for each in node._connections if each.is_connected]
    assert open_ones == []


async def test_what_is_armed_is_claimed_once_and_finished(pool: RedisPool) -> None:
    assert await pool.arm(await due(pool, -1, 100)) == 100
    assert await pool.arm(await due(pool, -1, 100)) == 0
    assert (await pool.counts()).overdue == 100
    claimed: list[str] = []
    for shard in pool.shards:
        claim = await shard.claim(1000, 5)
        names = [each.member for each in claim.members]
        assert (await shard.claim(1000, 5)).members == ()
        assert await shard.release(claim.members[:1], claim.lease) == len(names[:1])
        again = await shard.claim(1000, 5)
        assert await shard.finish(names[:1], again.lease) == len(names[:1])
        assert await shard.finish(names[1:], claim.lease) == len(names[1:])
        claimed += names
    assert sorted(claimed) == sorted(id_of(f"n{i}") for i in range(100))
    assert (await pool.counts()).armed == 0


async def test_the_runs_are_spread_over_the_shards(pool: RedisPool) -> None:
    await pool.arm(await due(pool, -1, 200))
    sizes = [len((await shard.claim(1000, 5)).members) for shard in pool.shards]
    hashed = sizes[:SHARDS] if len(sizes) > 1 else sizes
    assert sum(hashed) == 200
    assert min(hashed) > 200 / len(hashed) / 2


async def test_disarmed_runs_are_gone_and_absent_ones_told(pool: RedisPool) -> None:
    await pool.arm(await due(pool, 100, 20))
    assert await pool.disarm([id_of(f"n{i}") for i in range(10)]) == 10
    missing = await absent(pool, [id_of(f"n{i}") for i in range(20)])
    assert missing == [id_of(f"n{i}") for i in range(10)]


async def test_a_wake_up_reaches_the_shard_that_waits(pool: RedisPool) -> None:
    armed = await due(pool, 50, 40)
    waiting = [asyncio.create_task(shard.wait(60)) for shard in pool.shards]
    await asyncio.wait(waiting, timeout=10)  # the subscription itself wakes once
    assert all(task.done() for task in waiting)
    hashed = pool.shards[:SHARDS]
    waiting = [asyncio.create_task(shard.wait(60)) for shard in hashed]
    await pool.arm(armed)
    await asyncio.wait_for(asyncio.gather(*waiting), 10)


async def test_it_tells_its_clock_its_policy_and_its_leader(pool: RedisPool) -> None:
    await pool.ping()
    assert abs(await pool.now() - (await pool.shards[0].claim(1, 1)).now) < 0.5
    assert await pool.eviction_policy() == "noeviction"
    assert await pool.lead("reconciler", "one", 10)
    assert not await pool.lead("reconciler", "two", 10)
    await pool.resign("reconciler", "one")
    assert await pool.lead("reconciler", "two", 10)


async def test_a_loss_of_data_is_noticed_until_it_is_reconciled(pool: RedisPool) -> None:
    assert await pool.may_have_lost_data()
    await pool.mark_reconciled()
    assert not await pool.may_have_lost_data()


@pytest.mark.parametrize("shards", [1, SHARDS])
async def test_what_an_engine_puts_into_the_plain_key_is_served(
    redis_server: RedisServer, tmp_path: Path, shards: int
) -> None:
    """Bamboo's own signal handler fills that key, whatever the shards; and shards come later."""
    name = f"plain-{tmp_path.name}"
    redis_call(redis_server, "ZADD", name, 1, "old_v1")
    async with opened(redis_server.url, name, shards) as pool:
        assert await absent(pool, ["old_v1"]) == []
        claims = [await shard.claim(10, 5) for shard in pool.shards]
        assert [each.member for claim in claims for each in claim.members] == ["old_v1"]
        assert await pool.disarm(["old_v1"]) == 1


async def test_a_slot_is_moved_under_load(settings: Settings, cluster: RedisCluster) -> None:
    name = "moved"
    settings = changed(settings, redis_url=cluster.url, executing_pool=name, pool_shards=SHARDS)
    key = f"{name}:{{0}}"
    async with serving(settings) as (app, engine):
        await arm(app, engine, 2, *(f"before{i}" for i in range(100)))
        move = await asyncio.to_thread(cluster.slot_move, key)
        await asyncio.to_thread(move.begin)
        # In the middle of it some keys of the slot are here and some there.
        await arm(app, engine, 2, *(f"during{i}" for i in range(100)))
        await asyncio.to_thread(move.carry, key, f"{key}:reconciled_run_id")
        await arm(app, engine, 2, *(f"later{i}" for i in range(100)))
        await asyncio.to_thread(move.finish)
        await arm(app, engine, 0.5, *(f"after{i}" for i in range(100)))
        await all_failed(engine, 400, 40)


async def test_the_tail_that_a_failover_lost_is_armed_again(
    settings: Settings, cluster: RedisCluster
) -> None:
    """One shard's primary dies; what its replica has not heard of comes from the ledger."""
    name = "failing"
    settings = changed(settings, redis_url=cluster.url, executing_pool=name, pool_shards=SHARDS)
    key = f"{name}:{{1}}"
    async with serving(settings) as (app, engine):
        await wait_until(lambda: not_lost(app.pool), 20)
        rearmed = metrics.REARMED._value.get()
        await arm(app, engine, 6, *(f"n{i}" for i in range(200)))
        replica = await asyncio.to_thread(cluster.replica_of, key)
        stop_replication(cluster.primary_of(key), [replica])
        await arm(app, engine, 6, *(f"tail{i}" for i in range(200)))
        killed = await asyncio.to_thread(cluster.kill_primary_of, key)
        replica.resume()
        # A node armed meanwhile is in the ledger, wherever its shard is.
        await arm(app, engine, 6, *(f"meanwhile{i}" for i in range(100)))
        await all_failed(engine, 500, 60)
        assert metrics.REARMED._value.get() > rearmed, "nothing was lost: the test tests nothing"
        await asyncio.to_thread(killed.start)
        await asyncio.to_thread(cluster.wait_healthy)


async def test_sentinels_name_another_primary_and_its_lost_tail_is_armed_again(
    settings: Settings, trio: SentinelTrio
) -> None:
    settings = changed(settings, redis_url=trio.url)
    async with serving(settings) as (app, engine):
        await wait_until(lambda: not_lost(app.pool), 20)
        rearmed = metrics.REARMED._value.get()
        await arm(app, engine, 6, *(f"n{i}" for i in range(200)))
        replicas = await asyncio.to_thread(trio.replicas)
        assert len(replicas) == 2
        stop_replication(trio.primary(), replicas)
        await arm(app, engine, 6, *(f"tail{i}" for i in range(200)))
        killed = await asyncio.to_thread(trio.kill_primary)
        for replica in replicas:
            replica.resume()
        await arm(app, engine, 6, *(f"meanwhile{i}" for i in range(100)))
        await asyncio.to_thread(trio.wait_failed_over)
        await all_failed(engine, 500, 60)
        assert metrics.REARMED._value.get() > rearmed, "nothing was lost: the test tests nothing"
        await asyncio.to_thread(killed.start)


async def test_questions_that_cross_lose_no_sentinel(trio: SentinelTrio) -> None:
    """redis-py's own list had one of them twice then, and another one never again."""
    client = RedisClient(trio.url)
    sentinels = list(client.sentinels)
    trio.sentinels[0].kill()
    try:
        await asyncio.gather(*(client.commands.ping() for _ in range(4)))
    finally:
        trio.sentinels[0].start()
    assert len(client.sentinels) == 3
    assert set(client.sentinels) == set(sentinels)
    assert client.sentinels[0] is not sentinels[0]
    await client.close()


async def not_lost(pool: RedisPool) -> bool:
    with contextlib.suppress(PoolUnavailableError):
        return not await pool.may_have_lost_data()
    return False
