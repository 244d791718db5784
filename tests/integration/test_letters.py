"""The dead-letter queue: looked at, sent again, emptied. On RabbitMQ and in memory."""

import asyncio
import json

import pytest

from node_timeout.domain.errors import ExchangeUnavailableError, InvalidInputError
from node_timeout.operations import letters
from node_timeout.operations.letters import Letter, Sifted
from node_timeout.ports.exchange import Exchange
from node_timeout.stores.memory.exchange import MemoryExchange
from node_timeout.stores.rabbitmq.exchange import RabbitExchange
from tests.support import wait_until


async def put(exchange: Exchange, *bodies: bytes) -> None:
    for body in bodies:
        await exchange.dead_letter(body, f"no good: {body[:5].decode(errors='replace')}")
    await wait_until(lambda: waits(exchange, len(bodies)))


async def waits(exchange: Exchange, count: int) -> bool:
    return await exchange.waiting(exchange.dead_queue) == count


def bodies(found: tuple[Letter, ...]) -> list[str]:
    return [each.body for each in found]


async def test_a_look_tells_each_with_its_reason_and_loses_none(exchange: Exchange) -> None:
    assert await letters.look(exchange, 9) == Sifted(kept=(), taken=(), more=False)
    await put(exchange, b"one", b"\xff\x00two", b"x" * 10_000)
    found = await letters.look(exchange, 9)
    assert bodies(found.kept) == ["one", "�\x00two", "x" * 4000]
    assert [each.size for each in found.kept] == [3, 5, 10_000]
    assert found.kept[0].reason == "no good: one"
    assert (found.taken, found.more) == ((), False)
    await wait_until(lambda: waits(exchange, 3))
    again = await letters.look(exchange, 2)
    assert (again.kept, again.more) == (found.kept[:2], True)
    await wait_until(lambda: waits(exchange, 3))
    behind = await letters.look(exchange, 1)
    assert behind.kept == found.kept[2:], "what was looked at stands behind the others"
    await wait_until(lambda: waits(exchange, 3))


async def test_those_that_are_named_are_sent_again(exchange: Exchange, queue: str) -> None:
    dispatched = json.dumps({"schema": 1, "runs": []}).encode()
    event = json.dumps({"schema": 1, "events": []}).encode()
    await put(exchange, b"bad", dispatched, event)
    known = {each.body: each.letter_id for each in (await letters.look(exchange, 9)).kept}
    wanted = [known[dispatched.decode()], known[event.decode()], "nobody's"]
    events_queue = f"{queue}-slow"
    async with exchange.consume({queue: 9, events_queue: 9}) as consumer:
        sending = asyncio.create_task(
            letters.resend(exchange, wanted, dispatch_queue=queue, events_queue=events_queue)
        )
        came: dict[str, bytes] = {}
        while len(came) < 2:
            for delivery in await asyncio.wait_for(consumer.get(9), 10):
                came[delivery.queue] = delivery.body
                await delivery.ack()
        sifted = await sending
    assert came == {queue: dispatched, events_queue: event}
    assert (bodies(sifted.kept), len(sifted.taken)) == (["bad"], 2)
    await wait_until(lambda: waits(exchange, 1))


async def test_without_an_events_queue_all_go_to_the_dispatch_queue(
    memory_exchange: MemoryExchange, queue: str
) -> None:
    await put(memory_exchange, json.dumps({"schema": 1, "events": []}).encode())
    async with memory_exchange.consume({queue: 9}) as consumer:
        sending = asyncio.create_task(
            letters.resend(memory_exchange, None, dispatch_queue=queue, events_queue=None)
        )
        (delivery,) = await asyncio.wait_for(consumer.get(9), 10)
        await delivery.ack()
        assert len((await sending).taken) == 1


async def test_letters_are_dropped_by_their_ids_or_all(exchange: Exchange) -> None:
    await put(exchange, b"one", b"two", b"three")
    found = (await letters.look(exchange, 9)).kept
    sifted = await letters.discard(exchange, [found[1].letter_id])
    assert (bodies(sifted.kept), bodies(sifted.taken)) == (["one", "three"], ["two"])
    await wait_until(lambda: waits(exchange, 2))
    assert len((await letters.discard(exchange, None)).taken) == 2
    await wait_until(lambda: waits(exchange, 0))


@pytest.mark.parametrize("limit", [0, 1001])
async def test_a_bad_question_moves_nothing(memory_exchange: MemoryExchange, limit: int) -> None:
    await put(memory_exchange, b"one")
    with pytest.raises(InvalidInputError, match="from 1 to 1000"):
        await letters.look(memory_exchange, limit)
    for ids in ((), "a text"):
        with pytest.raises(InvalidInputError, match="by their ids"):
            await letters.discard(memory_exchange, ids)
    assert memory_exchange.dead == [(b"one", "no good: one")]


async def test_what_cannot_be_put_back_stays_in_its_place(
    exchange: Exchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put(exchange, b"one", b"two")

    async def refuses(_body: bytes, _reason: str) -> None:
        raise ExchangeUnavailableError("the queue is full")

    with monkeypatch.context() as patched:
        patched.setattr(exchange, "dead_letter", refuses)
        with pytest.raises(ExchangeUnavailableError):
            await letters.look(exchange, 9)
    await wait_until(lambda: waits(exchange, 2))
    assert sorted(bodies((await letters.look(exchange, 9)).kept)) == ["one", "two"]


async def test_two_who_look_at_once_lose_none(rabbit: RabbitExchange) -> None:
    await put(rabbit, *(f"letter {i}".encode() for i in range(20)))
    looks = await asyncio.gather(letters.look(rabbit, 20), letters.look(rabbit, 20))
    assert all(1 <= len(look.kept) <= 20 for look in looks)
    await wait_until(lambda: waits(rabbit, 20))
    assert len({each.body for each in (await letters.look(rabbit, 99)).kept}) == 20


async def test_a_letter_of_the_brokers_own_has_a_reason_too(
    rabbit: RabbitExchange, queue: str
) -> None:
    await rabbit.publish(queue, b"rejected", 5)
    async with rabbit.consume({queue: 1}) as consumer:
        (delivery,) = await asyncio.wait_for(consumer.get(1), 10)
        await delivery._message.reject(requeue=False)  # type: ignore[attr-defined]
    await wait_until(lambda: waits(rabbit, 1))
    for _ in range(2):
        (letter,) = (await letters.look(rabbit, 9)).kept
        assert (letter.body, letter.reason) == ("rejected", letters.BY_THE_BROKER)
        await wait_until(lambda: waits(rabbit, 1))
