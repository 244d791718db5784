"""States and configs go through the project's own connection, in the engine's own transaction."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis

from node_timeout.domain import history
from node_timeout.domain.errors import LedgerUnavailableError
from node_timeout.domain.events import NodeLeft, NodeStarted
from node_timeout.domain.leaving import leave
from node_timeout.domain.lifecycle import start
from node_timeout.domain.run import LedgerRow, RunState, StoppedBy
from node_timeout.domain.timeout_config import TimeoutConfig
from tests.bamboo.house import ROOT, House, fail

NUMBERS = count()
FAR = 4e9
"""In the far future, so that no worker has to do with it."""


def new_id(what: str = "n") -> str:
    return f"own-{what}{next(NUMBERS)}"


@pytest.fixture
def client(house: House) -> Iterator[Any]:
    client = house.client()
    assert type(client).__name__ == "OwnConnection"
    client._is_compared = True  # its statement is no change's
    yield client
    client.pool._rest_until = 0.0


@pytest.fixture
def pool(house: House, redis_server: Any) -> Iterator[Redis]:
    with Redis.from_url(redis_server.url) as redis:
        yield redis


def score(pool: Redis, row: LedgerRow) -> float | None:
    return pool.zscore("executing_node_pool", row.run_id)


def stored(client: Any, *node_ids: str, seconds: float = 600) -> str:
    """Configs of a root; its id."""
    root = new_id("root")
    configs = [
        TimeoutConfig(node_id=node_id, root_pipeline_id=root, action="forced_fail", timeout=seconds)
        for node_id in node_ids
    ]
    client.ledger.save_configs(configs, [])
    return root


def rows_of(client: Any, root: str, node_id: str) -> list[LedgerRow]:
    rows: list[LedgerRow] = client.rows(node_id, root)
    return rows


# What a row becomes is what the domain says


def rows() -> st.SearchStrategy[LedgerRow]:
    """Rows of every shape that a run can have."""
    instants = st.sampled_from([FAR + seconds for seconds in (50, 90, 100, 110, 200)])

    @st.composite
    def drawn(draw: st.DrawFn) -> LedgerRow:
        state = draw(st.sampled_from(RunState))
        is_closed = state not in (RunState.ARMED, RunState.PAUSED, RunState.EXECUTING)
        was_stopped = state in (RunState.PAUSED, RunState.CANCELLED)
        only_left = state is RunState.CANCELLED and draw(st.booleans())
        deadline = None if only_left else draw(instants)
        return LedgerRow(
            root_pipeline_id=new_id("root"),
            node_id="n",
            version="v1",
            action=None if only_left else "forced_fail",
            timeout=None if only_left else 60.0,
            payload_json=None if only_left else draw(st.sampled_from([None, '{"task":7}'])),
            trace=draw(st.sampled_from([None, f"00-{'1' * 32}-{'2' * 16}-01"])),
            state=state,
            started_at=None if only_left else draw(st.none() | instants),
            deadline=deadline,
            next_at=draw(instants) if state is RunState.ARMED else None,
            paused_at=draw(instants) if state is RunState.PAUSED else None,
            stopped_by=draw(st.sampled_from(StoppedBy)) if was_stopped else None,
            lease_until=FAR + 300 if state is RunState.EXECUTING else None,
            lease_owner="someone" if state is RunState.EXECUTING else None,
            attempts=draw(st.integers(0, 3)),
            revision=draw(st.integers(0, 3)),
            finished_at=draw(instants) if is_closed else None,
            message=draw(st.sampled_from([None, "said"])),
        )

    return drawn()


NOW = st.sampled_from([FAR + seconds for seconds in (95, 105, 150)])
MANY = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@MANY
@given(before=st.none() | rows(), now=NOW, happened=st.booleans())
def test_a_start_does_what_the_domain_says(
    client: Any, before: LedgerRow | None, now: float, *, happened: bool
) -> None:
    root = before.root_pipeline_id if before else new_id("root")
    config = TimeoutConfig(node_id="n", root_pipeline_id=root, action="forced_fail", timeout=60)
    if before:
        assert client.ledger._insert(before)
        assert not client.ledger._insert(before), "once"
    event = NodeStarted(
        node_id="n",
        version="v1",
        root_pipeline_id=root,
        happened_at=now - 10 if happened else None,
        trace=f"00-{'3' * 32}-{'4' * 16}-01",
    )
    expected = start(before, event, config, now) or before
    assert expected
    opened = client.ledger.open(event, config, now)
    assert (opened is None) == (before is not None)
    assert (opened or client.ledger.resume(event, config, now)) == expected
    assert rows_of(client, root, "n") == [expected]
    told = history.of_start(before, expected, now) if before else None
    assert client.history([expected.run_id]) == ([told] if told else [])


@MANY
@given(
    before=rows(),
    now=NOW,
    named=st.sampled_from(["v1", "v0", "unknown"]),
)
def test_a_leaving_does_what_the_domain_says(
    client: Any, before: LedgerRow, now: float, named: str
) -> None:
    """Exactly the named run leaves; only if it was not open, the other runs of the node are judged.

    So an older run whose own leaving was lost waits for its deadline, at which the engine is asked.
    """
    root = before.root_pipeline_id
    both = {row.run: row for row in (before, replace(before, version="v0"))}
    for row in both.values():
        assert client.ledger._insert(row)
    event = NodeLeft(node_id="n", version=named, root_pipeline_id=root)
    own = {run: row for run, row in both.items() if run.version == named}
    exactly = leave(own, [event], now)
    expected = exactly if exactly.changed else leave(both, [event], now)
    left = client.ledger.leave(replace(before.run, version=named), now)
    assert {*left} == {*expected.cancelled} or {*left} == {row.run for row in expected.changed}
    for row in expected.changed:
        both[row.run] = row
    assert {row.run: row for row in rows_of(client, root, "n")} == both


def test_a_node_that_is_failed_by_hand_leaves_with_its_next_version(
    client: Any, pool: Redis
) -> None:
    root = stored(client, "n")
    tell("RUNNING", "n", root)
    (row,) = rows_of(client, root, "n")
    tell("FAILED", "n", root, "v2")
    (row,) = rows_of(client, root, "n")
    assert row.state is RunState.CANCELLED
    assert score(pool, row) is None


# What it costs


def statements(client: Any) -> Any:
    from django.db import connections
    from django.test.utils import CaptureQueriesContext

    return CaptureQueriesContext(connections[client.ledger.alias])


def tell(state: str, node_id: str, root: str, version: str = "v1") -> None:
    """What the engine sends."""
    from pipeline.eri.models import State
    from pipeline.eri.signals import post_set_state

    post_set_state.send(
        sender=State,
        node_id=node_id,
        to_state=state,
        version=version,
        root_id=root,
        parent_id=root,
        loop=1,
    )


def test_a_pipeline_without_configs_costs_one_read(client: Any) -> None:
    root = new_id("root")
    with statements(client) as sent:
        for i in range(10):
            for state in ("READY", "RUNNING", "FINISHED"):
                tell(state, f"n{i}", root)
        tell("FINISHED", root, root)
    assert [each["sql"].split()[0] for each in sent] == ["SELECT"]


def test_a_node_costs_a_statement_a_change_and_its_neighbours_none(
    client: Any, pool: Redis
) -> None:
    root = stored(client, "n")
    with statements(client) as started:
        tell("RUNNING", "n", root)
        tell("RUNNING", "neighbour", root)
    (row,) = rows_of(client, root, "n")
    assert score(pool, row) == row.deadline
    with statements(client) as left:
        tell("FINISHED", "neighbour", root)
        tell("FINISHED", "n", root)
        tell("FINISHED", root, root)
    assert [each["sql"].split()[0] for each in started] == ["SELECT", "INSERT"]
    assert [each["sql"].split()[0] for each in left] == ["UPDATE", "UPDATE"]
    (row,) = rows_of(client, root, "n")
    assert row.state is RunState.CANCELLED
    assert score(pool, row) is None


def test_settings_that_are_not_the_scanners_are_named_once(
    client: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    root = stored(client, "n", "m")
    agreed = client._agreed | {"NODE_TIMEOUT_POOL_SHARDS": "7"}
    monkeypatch.setattr(client, "_agreed", agreed)
    client._is_compared = False
    for node_id in ("n", "m"):
        assert client.node_started(node_id, "v1", root)
    said = [each.getMessage() for each in caplog.records if "POOL_SHARDS" in each.getMessage()]
    (text,) = said
    assert text.startswith("NODE_TIMEOUT_POOL_SHARDS is '7' here and '1' in the scanners")


def test_a_leaving_of_what_never_began_needs_no_thread_and_no_connection_of_ours(
    client: Any,
) -> None:
    """A node that is told to pause before it begins has no root yet."""
    client.close()
    for node_id, root in (("unknown", ""), (new_id(), stored(client, "n"))):
        tell("SUSPENDED", node_id, root)
    assert client.bridge._bridge is None


def test_a_config_that_is_stored_here_counts_at_once(client: Any) -> None:
    root = new_id("root")
    assert not client.node_started("n", "v1", root)
    node: dict[str, Any] = {"type": "ServiceActivity", "timeout_config": fail(60)}
    tree = {"activities": {"n": node}, "id": root}
    assert client.batch_create_node_timeout_config(root, tree)["result"]
    assert client.node_started("n", "v1", root)
    assert not client.node_started("other", "v1", root)
    node["timeout_config"] = {"enable": False}
    assert client.batch_create_node_timeout_config(root, tree)["result"]
    assert not client.node_started("n", "v2", root)


def test_the_configs_of_many_pipelines_are_stored_and_forgotten(client: Any) -> None:
    """With what their strategies are given; as the other clients do it."""
    roots = [new_id("root") for _ in range(3)]
    payload = {"task": 7, "why": "慢"}
    nodes = {
        name: {"type": "ServiceActivity", "timeout_config": {**fail(60), "payload": payload}}
        for name in ("a", "b")
    }
    trees: dict[str, Any] = {root: {"activities": nodes} for root in roots[:2]}
    refused = client.batch_create_node_timeout_configs({**trees, roots[2]: []})
    assert not refused["result"]
    assert not client.node_started("a", "v1", roots[0])
    stored = client.batch_create_node_timeout_configs({**trees, roots[2]: []}, lenient=True)
    assert stored["result"]
    assert len(stored["data"]) == 4
    assert roots[2] in stored["message"]
    for root in roots[:2]:
        assert client.node_started("a", "v1", root), "known here at once"
        (row,) = rows_of(client, root, "a")
        assert (row.timeout, row.payload_json) == (60.0, stored["data"][0].payload_json)
    assert client.forget(roots[0], ["a", "nobody"]) == 1
    assert not client.node_started("a", "v2", roots[0])
    assert client.node_started("b", "v1", roots[0])
    assert client.forget(roots[1]) == 2
    assert client.forget(roots[1]) == 0


# The engine's transaction


def test_what_is_rolled_back_was_never_armed(client: Any, pool: Redis) -> None:
    from django.db import transaction

    root = stored(client, "n")
    with transaction.atomic(client.ledger.alias):
        tell("RUNNING", "n", root)
        transaction.set_rollback(True, client.ledger.alias)
    assert client.ledger.roots_of("n"), "the config was there before"
    assert rows_of(client, root, "n") == []
    with transaction.atomic(client.ledger.alias):
        tell("RUNNING", "n", root)
        before = pool.zcard("executing_node_pool")
    (row,) = rows_of(client, root, "n")
    assert score(pool, row) == row.deadline
    assert pool.zcard("executing_node_pool") == before + 1
    with transaction.atomic(client.ledger.alias):
        tell("FINISHED", "n", root)
        transaction.set_rollback(True, client.ledger.alias)
    assert rows_of(client, root, "n") == [row]
    assert score(pool, row) == row.deadline


def test_rows_that_others_may_hold_are_changed_behind_the_commit(client: Any, pool: Redis) -> None:
    """In the engine's transaction they would hold up a worker, or end the transaction."""
    from django.db import transaction

    root = stored(client, "n")
    tell("RUNNING", "n", root)
    for state, then in (("SUSPENDED", RunState.PAUSED), ("RUNNING", RunState.ARMED)):
        with transaction.atomic(client.ledger.alias):
            with statements(client) as sent:
                tell(state, "n", root)
            kinds = {each["sql"].split()[0] for each in sent}
            assert "UPDATE" not in kinds
            before = rows_of(client, root, "n")
        (row,) = rows_of(client, root, "n")
        assert row.state is then
        assert before != [row]
        assert score(pool, row) == row.next_at


def test_behind_the_commit_nothing_is_raised_and_later_hooks_run(
    client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from django.db import transaction

    from node_timeout import metrics

    root = stored(client, "n")
    missed = metrics.EVENTS_MISSED._value.get()
    later: list[int] = []

    def fail_oddly(*_: Any) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(client.pool, "arm", fail_oddly)
    with transaction.atomic(client.ledger.alias):
        tell("RUNNING", "n", root)
        transaction.on_commit(lambda: later.append(1), using=client.ledger.alias)
    assert later == [1]
    assert metrics.EVENTS_MISSED._value.get() == missed + 1
    assert rows_of(client, root, "n")[0].state is RunState.ARMED


def test_a_failure_of_ours_leaves_the_engines_transaction_as_it_was(
    client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from django.db import transaction
    from pipeline.eri.models import State

    from node_timeout import metrics
    from node_timeout.contrib.bamboo import django_ledger, receivers

    monkeypatch.setattr(receivers._Rest, "until", 0.0)
    root = stored(client, "n")
    missed = metrics.EVENTS_MISSED._value.get()
    with monkeypatch.context() as patch:
        patch.setattr(django_ledger, "RUNS", "no_such_table")
        with transaction.atomic(client.ledger.alias):
            State.objects.create(
                node_id=root, root_id=root, parent_id=root, name="RUNNING", version="v1"
            )
            tell("RUNNING", "n", root)
        with pytest.raises(LedgerUnavailableError, match=r"manage\.py migrate"):
            client.node_started("n", "v1", root)
    assert State.objects.filter(node_id=root).exists()
    assert metrics.EVENTS_MISSED._value.get() == missed + 1
    assert client.node_started("n", "v1", root)


# Redis


class _Away:
    """A Redis that cannot be reached until it is back."""

    def __init__(self, pool: Any) -> None:
        self.pool = pool
        self.is_back = False
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.pool, name)

    def _call(self, name: str, *args: Any) -> Any:
        from node_timeout.domain.errors import PoolUnavailableError

        self.calls += 1
        if not self.is_back:
            raise PoolUnavailableError("Redis: away")
        return getattr(self.pool, name)(*args)

    def arm(self, due: Any) -> None:
        self._call("arm", due)

    def disarm(self, run_id: str) -> None:
        self._call("disarm", run_id)


def test_what_redis_has_missed_is_told_it_later(
    house: House, client: Any, pool: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = [f"n{i}" for i in range(20)]
    root = stored(client, *nodes)
    away = _Away(client.pool._pool)
    monkeypatch.setattr(client.pool, "_pool", away)
    for node_id in nodes:
        tell("RUNNING", node_id, root)
    tell("FINISHED", nodes[0], root)
    assert away.calls == 1, "then it rests"
    away.is_back = True
    found = [rows_of(client, root, node_id)[0] for node_id in nodes]
    began = time.monotonic()
    house.wait(lambda: all(score(pool, row) for row in found[1:]), 5)
    assert time.monotonic() - began < 5
    assert score(pool, found[0]) is None, "it has left"
    assert client.pool._missed == {}
    house.wait(lambda: client.pool._timer is None, 2)


def test_killed_between_the_commit_and_redis(house: House, client: Any) -> None:
    """The deadline is met 30 s late at most; nobody tells the pool but the reconciler."""
    house.ensure_workers()
    node = new_id("n")
    root = stored(client, node, seconds=1)
    code = f"""
import os, django; django.setup()
from node_timeout.contrib.bamboo import client
client().pool.arm = lambda due: os._exit(7)
client().node_started({node!r}, "v1", {root!r})
"""
    killed = subprocess.run(
        [sys.executable, "-c", code], env=house.env | _apps(), cwd=ROOT, check=False
    )
    assert killed.returncode == 7
    (row,) = rows_of(client, root, node)
    assert row.state is RunState.ARMED
    closed = house.wait(
        lambda: [each for each in rows_of(client, root, node) if each.finished_at], 40
    )
    assert closed[0].state is RunState.STALE, "the engine does not know this node"
    print(f"\n{closed[0].finished_at - row.deadline:.1f} s late")
    assert closed[0].finished_at - row.deadline < 30


def _apps() -> dict[str, str]:
    return {"BAMBOO_TEST_APPS": os.environ["BAMBOO_TEST_APPS"]}
