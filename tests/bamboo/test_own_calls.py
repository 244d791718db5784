"""What a program asks of the client over the project's own connection: many nodes, any leaving."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from redis import Redis

from node_timeout.domain.errors import AmbiguousNodeError, InvalidInputError, InvalidNodeRunError
from node_timeout.domain.events import NodeLeft
from node_timeout.domain.history import HistoryKind
from node_timeout.domain.leaving import leave
from node_timeout.domain.run import LedgerRow, RunState, foreign_member
from node_timeout.domain.timeout_config import TimeoutConfig
from tests.bamboo.house import House
from tests.lives import leavings, rows

NUMBERS = count()
POOL = "executing_node_pool"


def new_id(what: str) -> str:
    return f"calls-{what}{next(NUMBERS)}"


@pytest.fixture
def client(house: House) -> Iterator[Any]:
    client = house.client()
    client._is_compared = True
    client.close()
    yield client
    assert client.bridge._bridge is None, "none of these calls needs it"


@pytest.fixture
def pool(redis_server: Any) -> Iterator[Redis]:
    with Redis.from_url(redis_server.url) as redis:
        yield redis


def stored(client: Any, *node_ids: str, root: str | None = None) -> str:
    root = root or new_id("root")
    client.ledger.save_configs(
        [
            TimeoutConfig(node_id=each, root_pipeline_id=root, action="forced_fail", timeout=600)
            for each in node_ids
        ],
        [],
    )
    return root


def state_of(client: Any, node_id: str, version: str = "v1") -> RunState:
    (row,) = [row for row in client.rows(node_id) if row.version == version]
    state: RunState = row.state
    return state


def test_many_start_and_leave(client: Any, pool: Redis) -> None:
    nodes = [new_id("n") for _ in range(5)]
    root = stored(client, *nodes)
    runs = [(node, "v1") for node in nodes] + [(new_id("without"), "v1", root)]
    assert client.nodes_started(runs) == 5
    for node in nodes:
        assert pool.zscore(POOL, client.rows(node)[0].run_id)
    assert client.nodes_left([(node, None) for node in nodes[:3]]) == 3
    assert client.nodes_left([(nodes[3], "v1", root), (new_id("gone"), None)]) == 1
    states = [state_of(client, node) for node in nodes]
    assert states == [RunState.CANCELLED] * 4 + [RunState.ARMED]
    assert [bool(pool.zscore(POOL, client.rows(node)[0].run_id)) for node in nodes] == [
        *[False] * 4,
        True,
    ]


def test_what_is_wrong_or_ambiguous_changes_nothing(client: Any) -> None:
    node, other = new_id("n"), new_id("n")
    stored(client, node)
    stored(client, node, other)
    with pytest.raises(AmbiguousNodeError):
        client.nodes_started([(other, "v1"), (node, "v1")])
    with pytest.raises(InvalidNodeRunError):
        client.nodes_started([(other, "v1"), ("", "v1")])
    assert client.rows(other) == []
    assert client.node_started(other, "v1")
    with pytest.raises(AmbiguousNodeError):
        client.nodes_left([(other, None), (node, None)])
    assert state_of(client, other) is RunState.ARMED


def test_a_leaving_without_a_version_means_every_version_that_had_begun(client: Any) -> None:
    node = new_id("n")
    root = stored(client, node)
    now = client.pool.now()
    for version, ago in (("v1", 30), ("v2", 10)):
        assert client.node_started(node, version, root, happened_at=now - ago)
    assert client.node_left(node, happened_at=now - 20) == 1
    assert state_of(client, node, "v1") is RunState.CANCELLED
    assert state_of(client, node, "v2") is RunState.ARMED, "it began later"
    assert client.node_left(node) == 1


def test_an_open_run_whose_config_is_gone_is_found_by_its_node(client: Any) -> None:
    node = new_id("n")
    root = stored(client, node)
    assert client.node_started(node, "v1")
    client.forget(root)
    assert client.node_left(node) == 1


def test_a_member_that_the_engine_has_put_there_itself_leaves_too(client: Any, pool: Redis) -> None:
    node = new_id("n")
    member = foreign_member(node, "v1")
    for root, goes in ((None, True), (new_id("root"), False)):
        pool.zadd(POOL, {member: 4e9})
        assert client.node_left(node, "v1", root) == 0
        assert (pool.zscore(POOL, member) is None) == goes
    pool.zrem(POOL, member)


def test_in_a_transaction_a_leaving_is_noted_behind_the_commit(client: Any) -> None:
    from django.db import transaction

    node = new_id("n")
    stored(client, node)
    assert client.node_started(node, "v1")
    with transaction.atomic(client.ledger.alias):
        assert client.node_left(node) == 0
        transaction.set_rollback(True, client.ledger.alias)
    assert state_of(client, node) is RunState.ARMED
    with transaction.atomic(client.ledger.alias):
        assert client.node_left(node) == 0
        assert state_of(client, node) is RunState.ARMED
    assert state_of(client, node) is RunState.CANCELLED


def test_the_history_is_looked_up(client: Any) -> None:
    node = new_id("n")
    root = stored(client, node)
    assert client.node_started(node, "v1")
    (row,) = client.rows(node, root)
    assert client.rows(node, new_id("root")) == []
    assert client.history([row.run_id]) == client.history([]) == []
    assert client.changes.cancel([row.run_id], actor="me", reason="why") == 1
    (entry,) = client.history([row.run_id])
    assert (entry.run_id, entry.kind) == (row.run_id, HistoryKind.CANCELLED)
    assert (entry.actor, entry.detail) == ("me", "why")
    with pytest.raises(InvalidInputError, match="is no run id"):
        client.history(["nonsense"])


def test_history_of_an_unknown_kind_is_left_out(client: Any) -> None:
    node = new_id("n")
    stored(client, node)
    assert client.node_started(node, "v1")
    (row,) = client.rows(node)
    for reason in ("first", "second"):
        client.changes.cancel([row.run_id], actor="me", reason=reason)
        client.node_started(node, "v1")
    before = client.history([row.run_id])
    with client.ledger._cursor() as cursor:
        cursor.execute(
            "UPDATE node_timeout_history SET kind = 'teleported'"
            " WHERE detail LIKE %s AND kind = 'cancelled'",
            ["%first"],
        )
    after = client.history([row.run_id])
    assert after == before[1:]


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(row=rows(), event=leavings())
def test_any_leaving_does_what_the_domain_says(
    client: Any, row: LedgerRow, event: NodeLeft
) -> None:
    root = new_id("root")
    row, event = replace(row, root_pipeline_id=root), replace(event, root_pipeline_id=root)
    assert client.ledger._insert(row)
    try:
        expected = leave({row.run: row}, [event], 6.0)
        found = client.ledger.leave_all([event], 6.0)
        assert (found.changed, found.cancelled) == (expected.changed, expected.cancelled)
        assert found.paused == expected.paused
        assert client.rows(row.node_id, root) == list(expected.changed or [row])
    finally:
        with client.ledger._cursor() as cursor:  # else it is overdue since 1970, for all to see
            cursor.execute("DELETE FROM node_timeout_run WHERE root_pipeline_id = %s", [root])
