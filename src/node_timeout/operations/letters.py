"""Operations on the dead-letter queue: look at its messages, send them again, drop them.

A queue can only be read by consuming it. So messages are consumed one at a time, and one that is
kept is published to the end of the queue, with confirm, before the old one is acknowledged. If the
process dies in between, the message is there twice; it is never lost.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass

from node_timeout.domain.errors import InvalidInputError, UnreadableMessageError
from node_timeout.ports.exchange import Consumer, Delivery, Exchange
from node_timeout.wire import dispatch, events

MAX_LETTERS = 1000
"""The most letters that one call reads."""
SHOWN_BYTES = 4000
BY_THE_BROKER = "the broker has put it here"
ANSWER_SECONDS = 5.0
"""Limit for receiving one message, or publishing it. Another consumer may have taken the last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """A message of the dead-letter queue."""

    letter_id: str
    """Computed from body and reason: equal messages with the same reason have the same id."""
    reason: str
    body: str
    """The beginning of the body, as text."""
    size: int
    """Size of the whole body, in bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sifted:
    """What became of the letters that a call has read."""

    kept: tuple[Letter, ...]
    taken: tuple[Letter, ...]
    """Letters that were sent again, or dropped."""
    more: bool
    """Whether there are letters that the call did not read."""


async def look(exchange: Exchange, limit: int) -> Sifted:
    """See `NodeTimeout.letters`."""
    return await _sift(exchange, limit, lambda _: False, _nothing)


async def resend(
    exchange: Exchange,
    letter_ids: Collection[str] | None,
    *,
    dispatch_queue: str,
    events_queue: str | None,
) -> Sifted:
    """See `NodeTimeout.resend_letters`."""

    async def send(delivery: Delivery) -> None:
        queue = events_queue if events_queue and _is_of_events(delivery.body) else dispatch_queue
        await exchange.publish(queue, delivery.body, ANSWER_SECONDS)

    return await _sift(exchange, MAX_LETTERS, _chosen(letter_ids), send)


async def discard(exchange: Exchange, letter_ids: Collection[str] | None) -> Sifted:
    """See `NodeTimeout.discard_letters`."""
    return await _sift(exchange, MAX_LETTERS, _chosen(letter_ids), _nothing)


def _chosen(letter_ids: Collection[str] | None) -> Callable[[Letter], bool]:
    """Raises `InvalidInputError`."""
    if letter_ids is None:
        return lambda _: True
    if isinstance(letter_ids, str) or not letter_ids:
        raise InvalidInputError("name letters by their ids, or all of them")
    wanted = frozenset(letter_ids)
    return lambda letter: letter.letter_id in wanted


async def _nothing(_delivery: Delivery) -> None:
    return


async def _sift(
    exchange: Exchange,
    limit: int,
    is_taken: Callable[[Letter], bool],
    take: Callable[[Delivery], Awaitable[None]],
) -> Sifted:
    """Read each of the oldest ``limit`` letters once. Raises `ExchangeUnavailableError`."""
    if not 1 <= limit <= MAX_LETTERS:
        raise InvalidInputError(f"limit {limit!r} is not from 1 to {MAX_LETTERS}")
    waiting = await exchange.waiting(exchange.dead_queue)
    kept: list[Letter] = []
    taken: list[Letter] = []
    if left := min(limit, waiting):
        async with exchange.consume({exchange.dead_queue: 1}) as consumer:
            while left:
                delivery = await _next(consumer)
                if delivery is None:
                    break
                letter = _read(delivery)
                if is_taken(letter):
                    await take(delivery)
                    taken.append(letter)
                else:
                    await exchange.dead_letter(delivery.body, delivery.reason or BY_THE_BROKER)
                    kept.append(letter)
                if left == 1:
                    await consumer.stop()  # so that the ack does not fetch another message
                await delivery.ack()
                left -= 1
    return Sifted(kept=tuple(kept), taken=tuple(taken), more=waiting > limit)


async def _next(consumer: Consumer) -> Delivery | None:
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            found = await consumer.get(1)
    except TimeoutError:
        return None
    return found[0] if found else None


def _read(delivery: Delivery) -> Letter:
    reason = delivery.reason or BY_THE_BROKER
    whole = hashlib.sha256(reason.encode("utf-8", "replace") + b"\0" + delivery.body)
    return Letter(
        letter_id=whole.hexdigest()[:20],
        reason=reason,
        body=delivery.body[:SHOWN_BYTES].decode("utf-8", "replace"),
        size=len(delivery.body),
    )


def _is_of_events(body: bytes) -> bool:
    try:
        dispatch.read_entries(body, events.SCHEMA, "events")
    except UnreadableMessageError:
        return False
    return True
