"""The tracker: state events → ledger and pool."""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
from prometheus_client import REGISTRY
from redis.asyncio import Redis
from sqlalchemy import event

from node_timeout.arming.tracker import Tracker
from node_timeout.domain.errors import LedgerUnavailableError, PoolUnavailableError
from node_timeout.domain.events import NodeLeft
from node_timeout.domain.run import RunState
from node_timeout.stores.redis.pool import RedisPool
from node_timeout.stores.sql.ledger import SqlLedger
from tests.support import absent, config, configure, id_of, left, run, started, wait_until


@pytest.fixture
async def tracker(ledger: SqlLedger, pool: RedisPool) -> AsyncIterator[Tracker]:
    tracker = Tracker(ledger=ledger, pool=pool)
    yield tracker
    await tracker.close()


def counted(name: str) -> float:
    return REGISTRY.get_sample_value(name) or 0.0


async def down(*_: Any, **__: Any) -> Any:
    raise PoolUnavailableError("Redis: gone")


async def test_a_started_node_is_armed_in_both_stores_at_one_deadline(
    tracker: Tracker, ledger: SqlLedger, pool: RedisPool
) -> None:
    await configure(ledger, config("a", 20))
    before = await pool.now()
    assert await tracker.nodes_started(started([run("a"), run("no config")])) == 1
    (row,) = await ledger.rows("a")
    assert row.deadline is not None
    assert before + 20 <= row.deadline <= await pool.now() + 20
    assert (await pool.shards[0].claim(1, 1)).next_due_at == row.deadline


async def test_a_start_without_a_config_is_counted_and_named_once_a_minute(
    any_ledger: SqlLedger, pool: RedisPool, caplog: pytest.LogCaptureFixture
) -> None:
    clock = [1000.0]
    tracker = Tracker(ledger=any_ledger, pool=pool, clock=lambda: clock[0])
    caplog.set_level(logging.INFO, "node_timeout.arming.tracker")
    await configure(any_ledger, config("known", 20))
    before = counted("node_timeout_not_armed_total")
    for number in range(5):
        runs = [run("known"), run(f"stranger{number}"), run(f"stranger{number}")]
        assert await tracker.nodes_started(started(runs)) == 1
    assert counted("node_timeout_not_armed_total") == before + 5
    (line,) = caplog.records
    assert line.levelno == logging.INFO
    assert "stranger0" in line.getMessage()
    assert vars(line)["node_id"] == "stranger0"
    clock[0] += 60
    await tracker.nodes_started(started([run("known")]))
    assert len(caplog.records) == 1, "nothing to tell"
    await tracker.nodes_started(started([run("last")]))
    assert "stranger" not in caplog.messages[1]
    assert "(5 such starts" in caplog.messages[1]
    await tracker.close()


async def test_a_version_that_starts_while_a_root_is_looked_up_stays_armed(
    tracker: Tracker, ledger: SqlLedger, pool: RedisPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    await configure(ledger, config("a", 20))
    await tracker.nodes_started(started([run("a")]))
    roots = ledger.roots

    async def slowly(*args: Any, **how: Any) -> Any:
        found = await roots(*args, **how)
        await asyncio.sleep(0.01)
        await tracker.nodes_started(started([run("a", "v2")]))
        return found

    monkeypatch.setattr(ledger, "roots", slowly)
    # The engine has refreshed the version meanwhile: only instants tell which is meant.
    assert await tracker.nodes_left([NodeLeft(node_id="a", version="refreshed")]) == 1
    states = {row.version: row.state for row in await ledger.rows("a")}
    assert states == {"v1": RunState.CANCELLED, "v2": RunState.ARMED}
    assert await absent(pool, [id_of("a"), id_of("a", "v2")]) == [id_of("a")]


async def test_a_repeated_event_never_moves_a_deadline(
    tracker: Tracker, ledger: SqlLedger, pool: RedisPool
) -> None:
    await configure(ledger, config("a", 20))
    await tracker.nodes_started(started([run("a")]))
    (first,) = await ledger.rows("a")
    await tracker.nodes_started(started([run("a")]))
    assert await ledger.rows("a") == [first]
    assert (await pool.shards[0].claim(1, 1)).next_due_at == first.deadline


async def test_a_node_that_leaves_is_disarmed_in_every_version(
    tracker: Tracker, ledger: SqlLedger, pool: RedisPool
) -> None:
    await configure(ledger, config("a", 20))
    await tracker.nodes_started(started([run("a", "v1"), run("a", "v2")]))
    assert await tracker.nodes_left(left(["a"], "v3")) == 2
    assert (await pool.counts()).armed == 0
    assert {row.state for row in await ledger.rows("a")} == {RunState.CANCELLED}
    assert await tracker.nodes_left(left(["a"])) == 0


async def test_a_run_that_only_the_pool_knows_leaves_it(tracker: Tracker, pool: RedisPool) -> None:
    from node_timeout.domain.run import DueRun

    await pool.arm([DueRun(run_id=run("a").run_id, due_at=await pool.now() + 9)])
    assert await tracker.nodes_left(left(["a"], "v1")) == 0
    assert (await pool.counts()).armed == 0


async def test_no_events_are_no_work(tracker: Tracker) -> None:
    assert await tracker.nodes_started(started([])) == 0
    assert await tracker.nodes_left([]) == 0


async def test_without_redis_the_ledger_is_enough(
    tracker: Tracker,
    ledger: SqlLedger,
    pool: RedisPool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(pool, "arm", down)
    monkeypatch.setattr(pool, "disarm", down)
    await configure(ledger, config("a", 20))
    assert await tracker.nodes_started(started([run("a")])) == 1
    assert [row.state for row in await ledger.rows("a")] == [RunState.ARMED]
    assert await tracker.nodes_left(left(["a"], "v1")) == 1
    assert [row.state for row in await ledger.rows("a")] == [RunState.CANCELLED]
    assert "is armed in the ledger only: Redis: gone" in caplog.text
    assert "is disarmed in the ledger only" in caplog.text


async def test_what_redis_has_missed_is_armed_soon_after_its_return(
    tracker: Tracker, ledger: SqlLedger, pool: RedisPool, redis: Redis
) -> None:
    """Redis is full for a while, as with ``maxmemory``."""
    await configure(ledger, config("a", 20), config("left", 20))
    await redis.config_set("maxmemory", 1)
    try:
        assert await tracker.nodes_started(started([run("a"), run("left")])) == 2
        assert await tracker.nodes_left(left(["left"], "v1")) == 1
    finally:
        await redis.config_set("maxmemory", 0)
    (row,) = await ledger.rows("a")

    async def is_armed() -> bool:
        return await redis.zscore("test_pool", id_of("a")) == row.deadline

    await wait_until(is_armed, 5)
    assert (await pool.counts()).armed == 1


async def test_without_the_database_nothing_is_armed_and_the_caller_knows(
    tracker: Tracker, ledger: SqlLedger, pool: RedisPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def gone(*_: Any) -> Any:
        raise LedgerUnavailableError("database: gone")

    monkeypatch.setattr(ledger, "arm", gone)
    with pytest.raises(LedgerUnavailableError):
        await tracker.nodes_started(started([run("a")]))
    assert (await pool.counts()).armed == 0


@pytest.mark.parametrize(
    ("configured", "on_start", "on_leaving", "redis_calls"),
    [
        (False, ["WITH"], ["SELECT"], []),
        (True, ["WITH"], ["SELECT", "UPDATE"], ["arm", "disarm"]),
    ],
)
async def test_what_a_state_change_costs(
    postgres_url: str,
    pool: RedisPool,
    monkeypatch: pytest.MonkeyPatch,
    configured: bool,
    on_start: list[str],
    on_leaving: list[str],
    redis_calls: list[str],
) -> None:
    """One statement to start, a write more to leave if it was armed; then Redis a call each."""
    ledger = SqlLedger(postgres_url)
    if configured:
        await configure(ledger, config("a", 20))
    await pool.now()
    statements: list[str] = []
    calls: list[str] = []

    @event.listens_for(ledger.engine.sync_engine, "before_cursor_execute")
    def note(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement.split(maxsplit=1)[0])

    for name in ("arm", "disarm"):
        real = getattr(pool, name)

        async def noted(runs: Any, name: str = name, real: Any = real) -> Any:
            calls.append(name)
            return await real(runs)

        monkeypatch.setattr(pool, name, noted)
    tracker = Tracker(ledger=ledger, pool=pool)
    await tracker.nodes_started(started([run("a")]))
    assert statements == on_start
    statements.clear()
    await tracker.nodes_left(left(["a"]))
    assert statements == on_leaving
    assert calls == redis_calls
    await ledger.close()
