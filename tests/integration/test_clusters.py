"""The clusters of tests/clusters.py do what the other tests take for granted."""

from pathlib import Path

import aio_pika
import pytest
from redis import RedisError
from redis.exceptions import AskError, MovedError

from tests.clusters import (
    PostgresPair,
    RabbitCluster,
    RedisCluster,
    SentinelTrio,
    alive,
    redis_call,
)


def test_a_redis_cluster_replaces_a_killed_primary(tmp_path: Path) -> None:
    with RedisCluster(tmp_path) as cluster:
        first = cluster.primary_of("key")
        redis_call(first, "SET", "key", "value")
        assert redis_call(first, "WAIT", 1, 5000) == 1
        killed = cluster.kill_primary_of("key")
        assert killed is first
        cluster.wait_healthy()
        second = cluster.primary_of("key")
        assert second is not first
        assert redis_call(second, "GET", "key") == "value"
        killed.start()
        cluster.wait_healthy()
        assert cluster.replica_of("key") is killed
        assert all(alive(node) for node in cluster.nodes)
    assert not any(alive(node) for node in cluster.nodes)


def test_a_slot_of_a_redis_cluster_moves_step_by_step(tmp_path: Path) -> None:
    with RedisCluster(tmp_path) as cluster:
        move = cluster.slot_move("{a}1")
        for key in ("{a}1", "{a}2"):
            redis_call(move.source, "SET", key, "value")
        move.begin()
        move.carry("{a}1")
        with pytest.raises(AskError):
            redis_call(move.source, "GET", "{a}1")
        assert redis_call(move.source, "GET", "{a}2") == "value"
        move.carry()
        move.finish()
        with pytest.raises(MovedError):
            redis_call(move.source, "GET", "{a}1")
        assert cluster.primary_of("{a}1") is move.target
        assert redis_call(move.target, "GET", "{a}2") == "value"
        cluster.wait_healthy()
        assert cluster.move_slot("{a}1") is not move.target
        cluster.wait_healthy()


def test_sentinels_replace_a_killed_primary(tmp_path: Path) -> None:
    with SentinelTrio(tmp_path) as trio:
        first = trio.primary()
        redis_call(first, "SET", "key", "value")
        assert redis_call(first, "WAIT", 2, 5000) == 2
        killed = trio.kill_primary()
        assert killed is first
        with pytest.raises(RedisError):
            redis_call(first, "GET", "key")
        second = trio.wait_failed_over()
        assert second is not first
        assert redis_call(second, "GET", "key") == "value"
    assert not any(alive(server) for server in trio.servers)


async def test_a_queue_of_a_rabbit_cluster_outlives_its_leader(tmp_path: Path) -> None:
    with RabbitCluster(tmp_path) as cluster:
        connection = await aio_pika.connect(cluster.urls[1])
        channel = await connection.channel()
        await channel.declare_queue("q", durable=True, arguments={"x-queue-type": "quorum"})
        await channel.default_exchange.publish(aio_pika.Message(b"message"), "q")
        cluster.wait_healthy()
        first = cluster.leader_of("q")
        assert first is cluster.nodes[1]
        first.kill()
        await connection.close()
        cluster.wait_healthy()
        assert cluster.leader_of("q") is not first
        first.start()
        cluster.wait_healthy()
        connection = await aio_pika.connect(first.url)
        queue = await (await connection.channel()).get_queue("q")
        message = await queue.get(timeout=5)
        assert message is not None
        assert message.body == b"message"
        await connection.close()
    assert not any(alive(server) for server in cluster.servers)


def test_a_postgres_standby_has_what_its_primary_had(tmp_path: Path) -> None:
    with PostgresPair(tmp_path) as pair:
        first, second = pair.primary, pair.standby
        first.sql("CREATE TABLE t AS SELECT 7 AS x")
        with pytest.raises(RuntimeError, match="read-only"):
            second.sql("INSERT INTO t VALUES (8)")
        assert pair.kill_primary() is first
        pair.promote()
        assert pair.primary is second
        second.sql("INSERT INTO t VALUES (8)")
        pair.rejoin()
        assert pair.standby is first
        assert first.sql("SELECT pg_is_in_recovery()") == "t"
        assert first.sql("SELECT sum(x) FROM t") == "15"
    assert not any(alive(server) for server in pair.servers)
