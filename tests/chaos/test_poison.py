"""Fault 13: strategies, messages and rows that do harm. The others flow on."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aio_pika
import pytest
from sqlalchemy import text

from node_timeout import Settings
from node_timeout.domain.run import RunState
from tests.chaos.history import check, summary
from tests.chaos.house import House, scaled
from tests.servers import RabbitServer
from tests.support import run, wait_until

STRATEGIES = {
    "raises": "a bug at the first two attempts of each node",
    "hangs": "never ends, at the first two attempts of each node",
    "eats_memory": "allocates until its process, limited by RLIMIT_AS, has no more",
    "exits": "calls os._exit: the worker dies, and is started again",
    "sleeps": "a plain function that sleeps longer than the lease, at the first attempt",
}
MEMORY_MIB = 400
OTHERS_SECONDS = 5.0


@asynccontextmanager
async def kept_alive(house: House) -> AsyncIterator[None]:
    """A worker, started again whenever it dies, as by systemd; its memory is bounded."""
    stop = asyncio.Event()

    async def supervise() -> None:
        while not stop.is_set():
            worker = await house.spawn("worker", ready="", memory=MEMORY_MIB)
            while worker.popen.poll() is None and not stop.is_set():
                await asyncio.sleep(0.02)

    supervising = asyncio.create_task(supervise())
    try:
        yield
    finally:
        stop.set()
        await supervising


@pytest.mark.parametrize("action", STRATEGIES)
async def test_a_bad_strategy_holds_up_no_other(house: House, action: str) -> None:
    count = scaled(3, 10)
    house.row.of(
        fault=f"poison: a strategy that {action.replace('_', ' ')}",
        tried=f"{STRATEGIES[action]}; {count} such nodes among others",
        times=count,
    )
    await house.spawn("scan")
    await house.spawn("worker", memory=MEMORY_MIB)
    async with kept_alive(house), house.steadily(per_second=50):
        await house.until_armed(100)
        await house.arm(count, 0.1, action=action, prefix="poison")
        await house.until_armed(400)
        await wait_until(lambda: house.closed("poison", count), 60)
    await house.spawn("worker", memory=MEMORY_MIB)
    await house.verdict()
    others = await house.worst_lateness("s")
    house.row.tried += f"; the others {others:.1f} s late at most"
    # What a dead worker held comes back when its lease is over and it is looked for.
    assert others < house.allowed((2 if action == "exits" else 1) * OTHERS_SECONDS)


def nested(depth: int) -> bytes:
    return b'{"schema":1,"runs":' + b"[" * depth + b"]" * depth + b"}"


def message(deadline: str | float = 1, schema: int = 1, **ids: str) -> bytes:
    """Of one run, the deadline as it is written."""
    entry = f'{json.dumps(ids)[:-1]},"deadline":{deadline}}}'
    return f'{{"schema":{schema},"runs":[{entry}]}}'.encode()


A_RUN = run("a").run_id
"""Nobody has armed it."""
MESSAGES = {
    "not JSON": b"\xff\x00 not JSON",
    "an unknown schema": message(schema=99, run_id=A_RUN),
    "50 MB": b'{"schema":1,"runs":[' + b" " * 50_000_000 + b"]}",
    "nested 10,000 deep": nested(10_000),
    "huge numbers": message("1" + "0" * 5000, run_id=A_RUN),
    "NaN": message("NaN", run_id=A_RUN),
    "a run id of a megabyte": message(run_id="A" * 1_000_000),
    "ids of a megabyte": message(node_id="a" * 1_000_000, version="v"),
    "a run that the ledger does not know": message(4e9, run_id=A_RUN),
    "a node without a config": message(node_id="a", version="v"),
    "nothing": b"",
}


@pytest.mark.parametrize("name", MESSAGES)
async def test_a_bad_message_is_put_aside_with_its_reason(
    house: House, settings: Settings, rabbit_server: RabbitServer, name: str
) -> None:
    house.row.of(fault=f"poison: a message, {name}", tried="among others", times=1)
    await house.spawn("scan")
    worker = await house.spawn("worker")
    async with await aio_pika.connect(rabbit_server.url) as connection:
        channel = await connection.channel()
        dead = await channel.get_queue(f"{settings.dispatch_queue}.dead")
        exchange = await channel.get_exchange(settings.dispatch_exchange)
        async with house.steadily(per_second=50):
            await exchange.publish(
                aio_pika.Message(MESSAGES[name], headers={"x": "y" * 1000}), settings.dispatch_queue
            )
            await house.until_armed(100)
            aside = await dead.get(timeout=20, fail=False)
            while aside is None:
                await asyncio.sleep(0.05)
                aside = await dead.get(timeout=20, fail=False)
        await aside.ack()
        assert aside.headers["x-node-timeout-reason"]
    assert worker.popen.poll() is None
    await house.verdict(late_seconds=OTHERS_SECONDS)


ROWS = {
    "an unknown state": "state = 'nonsense'",
    "armed, without an instant": "next_at = NULL",
    "an empty id of its root": "root_pipeline_id = ''",
    "armed, without a deadline": "deadline = NULL",
    "armed, without an action": "action = NULL",
    "an action that is not installed": "action = 'nobody'",
    "attempts below zero": "attempts = -5",
    "a deadline in the year 5000": "deadline = 95617584000",
    "a state of other case": "state = 'ARMED'",
}


@pytest.mark.parametrize("name", ROWS)
async def test_a_row_edited_by_hand_holds_up_no_other(house: House, name: str) -> None:
    house.row.of(fault=f"poison: a row, {name}", tried="among others", times=3)
    await house.spawn("scan")
    await house.spawn("worker")
    count = 30
    runs = await house.arm(count, 1.5)  # in one batch with the others
    victims, others = runs[:3], runs[3:]
    async with house.app.ledger.engine.begin() as connection:
        await connection.execute(
            text(f"UPDATE node_timeout_run SET {ROWS[name]} WHERE node_id IN ('n0', 'n1', 'n2')")
        )
        await connection.execute(
            text("DELETE FROM node_timeout_config WHERE node_id IN ('n0', 'n1', 'n2')")
        )
    wanted = set(others)

    async def others_are_done() -> bool:
        rows = [row for row in await house.rows() if row.state is RunState.HANDLED]
        return wanted <= {row.run for row in rows}

    await wait_until(others_are_done, 20)
    verdict = check(
        [event for event in await house.events() if event.run in wanted],
        [row for row in await house.rows() if row.node_id not in {"n0", "n1", "n2"}],
        late_seconds=house.allowed(OTHERS_SECONDS),
    )
    house.row.judged(verdict)
    assert not verdict.violations, summary(verdict.violations)
    async with house.app.ledger.engine.connect() as connection:
        kept = await connection.execute(
            text("SELECT node_id FROM node_timeout_run WHERE node_id IN ('n0', 'n1', 'n2')")
        )
        assert len(list(kept)) == len(victims), "nothing is thrown away"
