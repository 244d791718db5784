"""The listener: events queue → tracker, on RabbitMQ."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import aio_pika
import pytest

from node_timeout.arming.listener import Listener
from node_timeout.arming.tracker import Tracker
from node_timeout.domain.config_check import ConfigRules
from node_timeout.domain.errors import LedgerUnavailableError
from node_timeout.domain.run import RunState
from node_timeout.runtime.loop import Health
from node_timeout.stores.rabbitmq.consumer import REASON_HEADER
from node_timeout.stores.rabbitmq.exchange import RabbitExchange
from node_timeout.stores.redis.pool import RedisPool
from node_timeout.stores.sql.ledger import SqlLedger
from tests.servers import RabbitServer
from tests.support import config, configure, wait_until

CONFIG = {"enable": True, "action": "forced_fail", "seconds": 20}


class Bench:
    """A listener on a queue of its own, and an engine's way to speak to it."""

    def __init__(
        self, exchange: RabbitExchange, ledger: SqlLedger, pool: RedisPool, queue: str
    ) -> None:
        self.exchange, self.ledger, self.pool, self.queue = exchange, ledger, pool, queue
        self.tracker = Tracker(ledger=ledger, pool=pool)
        self.listener = Listener(
            exchange=exchange,
            tracker=self.tracker,
            ledger=ledger,
            pool=pool,
            queue=queue,
            rules=ConfigRules(actions=("forced_fail",), max_seconds=1e6),
        )

    async def say(self, *events: dict[str, Any]) -> None:
        body = json.dumps({"schema": 1, "events": events}).encode()
        await self.exchange.publish(self.queue, body, 5)

    async def hear(self) -> Any:
        async with self.exchange.consume({self.queue: 100}) as consumer:
            return await self.listener.once(consumer)

    async def states(self, node_id: str) -> dict[str, RunState]:
        return {row.version: row.state for row in await self.ledger.rows(node_id)}


@pytest.fixture
async def bench(
    rabbit_server: RabbitServer, names: dict[str, str], ledger: SqlLedger, pool: RedisPool
) -> AsyncIterator[Bench]:
    dispatch = names["dispatch_queue"]
    queue = f"{dispatch}-events"
    exchange = RabbitExchange(
        rabbit_server.url,
        exchange=names["dispatch_exchange"],
        queues=[dispatch, queue],
        queue_type="quorum",
    )
    yield Bench(exchange, ledger, pool, queue)
    await exchange.close()


def running(node_id: str, version: str = "v1", *, at: float, **more: Any) -> dict[str, Any]:
    event = {"event": "node_running", "node_id": node_id, "version": version, "happened_at": at}
    return {**event, **more}


def left(node_id: str, version: str = "v1", *, at: float) -> dict[str, Any]:
    return {"event": "node_left", "node_id": node_id, "version": version, "happened_at": at}


async def test_a_running_node_is_armed_from_when_it_happened(bench: Bench) -> None:
    at = time.time() - 7
    await bench.say(running("a", at=at, root_pipeline_id="root", timeout_config=CONFIG))
    report = await bench.hear()
    assert (report.received, report.armed) == (1, 1)
    (row,) = await bench.ledger.rows("a")
    assert row.deadline == pytest.approx(at + 20, abs=0.001)
    assert (row.action, row.root_pipeline_id) == ("forced_fail", "root")
    assert (await bench.pool.shards[0].claim(1, 1)).next_due_at == row.deadline
    await bench.say(left("a", at=at + 8))
    assert (await bench.hear()).disarmed == 1
    assert await bench.states("a") == {"v1": RunState.CANCELLED}
    assert (await bench.pool.counts()).armed == 0


async def test_a_stored_config_counts_as_well(bench: Bench) -> None:
    await configure(bench.ledger, config("a", 9))
    await bench.say(running("a", at=time.time()), running("no config", at=time.time()))
    report = await bench.hear()
    assert (report.received, report.armed) == (2, 1)


async def test_events_that_come_twice_or_in_the_wrong_order_do_no_harm(bench: Bench) -> None:
    at = time.time() - 10
    config_of: dict[str, Any] = {"root_pipeline_id": "root", "timeout_config": CONFIG}
    first, gone = running("a", "v1", at=at, **config_of), left("a", "v1", at=at + 1)
    retried = running("a", "v2", at=at + 2, **config_of)
    await bench.say(retried, gone, first)
    await bench.hear()
    expected = {"v1": RunState.CANCELLED, "v2": RunState.ARMED}
    assert await bench.states("a") == expected
    for again in (gone, first, retried, gone):
        await bench.say(again)
        await bench.hear()
    assert await bench.states("a") == expected
    assert (await bench.pool.counts()).armed == 1
    await bench.say({**left("b", at=at + 1), "root_pipeline_id": "root"})
    await bench.hear()
    await bench.say(running("b", at=at, **config_of))
    await bench.hear()
    assert await bench.states("b") == {"v1": RunState.CANCELLED}, "it had left already"
    await bench.say(running("b", at=at + 5, **config_of))
    await bench.hear()
    (row,) = await bench.ledger.rows("b")
    assert (row.state, row.action) == (RunState.ARMED, "forced_fail"), "resumed"
    assert row.deadline == pytest.approx(at + 25, abs=0.001)


async def test_clocks_that_disagree_cost_no_retried_node_its_deadline(bench: Bench) -> None:
    """The engine's host is ahead by five seconds, and its event of the old version comes again."""
    at = time.time()
    config_of: dict[str, Any] = {"root_pipeline_id": "root", "timeout_config": CONFIG}
    gone = left("a", "v1", at=at + 5)
    for event in (running("a", "v1", at=at, **config_of), gone):
        await bench.say(event)
        await bench.hear()
    await bench.say(running("a", "v2", at=at + 4.5, **config_of), running("a", "v3", at=at + 5))
    await bench.hear()
    await bench.say(gone)
    await bench.hear()
    assert (await bench.states("a"))["v2"] is RunState.ARMED
    deadline = (await bench.ledger.rows("a"))[-1].deadline
    assert deadline is not None
    assert deadline <= time.time() + 20


async def test_a_leaving_older_than_the_resumption_leaves_it_armed(bench: Bench) -> None:
    at = time.time() - 10
    config_of: dict[str, Any] = {"root_pipeline_id": "root", "timeout_config": CONFIG}
    for event in (
        running("a", at=at, **config_of),
        running("a", at=at + 5, **config_of),
        left("a", at=at + 2),
    ):
        await bench.say(event)
        await bench.hear()
    assert await bench.states("a") == {"v1": RunState.ARMED}
    assert (await bench.pool.counts()).armed == 1


async def test_a_malformed_event_is_dead_lettered_with_its_reason(
    bench: Bench, rabbit_server: RabbitServer
) -> None:
    at = time.time()
    await bench.say(
        running("good", at=at, root_pipeline_id="root", timeout_config=CONFIG),
        running("bad", "", at=at),
    )
    await bench.exchange.publish(bench.queue, b"not JSON", 5)
    received = unreadable = 0
    while received + unreadable < 3:
        report = await bench.hear()
        received += report.received
        unreadable += report.unreadable
    assert (received, unreadable) == (1, 2)
    reasons = []
    async with await aio_pika.connect(rabbit_server.url) as connection:
        channel = await connection.channel()
        queue = await channel.get_queue(bench.queue.removesuffix("-events") + ".dead")
        for _ in range(2):
            message = await queue.get(timeout=5)
            assert message is not None
            reasons.append(str(message.headers[REASON_HEADER]))
            await message.ack()
    assert any("version of node 'bad' is empty" in reason for reason in reasons)
    assert any("not JSON" in reason for reason in reasons)


async def test_it_waits_for_a_database_that_is_down(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = iter([LedgerUnavailableError("gone")] * 3)
    arm = bench.ledger.arm

    async def flaky(*args: Any) -> Any:
        for error in failures:
            raise error
        return await arm(*args)

    monkeypatch.setattr(bench.ledger, "arm", flaky)
    stop = asyncio.Event()
    task = asyncio.create_task(bench.listener.run(stop, Health(name="listener")))
    await bench.say(running("a", at=time.time(), root_pipeline_id="root", timeout_config=CONFIG))

    async def armed() -> bool:
        return await bench.states("a") == {"v1": RunState.ARMED}

    await wait_until(armed)
    await wait_until(lambda: _empty(bench))
    stop.set()
    await task


async def test_stopped_in_an_outage_it_gives_the_messages_back(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = asyncio.Event()

    async def down(*_: Any) -> Any:
        failed.set()
        raise LedgerUnavailableError("gone")

    monkeypatch.setattr(bench.ledger, "arm", down)
    stop = asyncio.Event()
    task = asyncio.create_task(bench.listener.run(stop, Health(name="listener")))
    await bench.say(running("a", at=time.time(), root_pipeline_id="root", timeout_config=CONFIG))
    await failed.wait()
    stop.set()
    await task

    async def back() -> bool:
        return (await bench.exchange.depths())[bench.queue] == 1

    await wait_until(back)


async def _empty(bench: Bench) -> bool:
    return (await bench.exchange.depths())[bench.queue] == 0
