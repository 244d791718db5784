"""Presence: a process is listed while it says so, and for a while after its last word."""

import dataclasses
import json
import math
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest
from redis.asyncio import Redis

from node_timeout.ports.presence import Presence, Process, ServiceState
from node_timeout.stores.memory import presence as memory_room
from node_timeout.stores.memory.presence import MemoryPresence
from node_timeout.stores.redis import presence as redis_room
from node_timeout.stores.redis.client import RedisClient
from node_timeout.stores.redis.presence import RedisPresence
from tests.servers import RedisServer
from tests.support import wait_until

KEY = "{test_pool}:processes"


def process(name: str, started_at: float = 1.0, *roles: str) -> Process:
    services = [
        ServiceState(name=role, ready=True, failures=0, doing="nothing")
        for role in roles or ("worker",)
    ]
    return Process(
        name=name,
        host="host",
        pid=7,
        version="0.1.0",
        started_at=started_at,
        services=tuple(services),
    )


@pytest.fixture
async def client(redis: Redis, redis_server: RedisServer) -> AsyncIterator[RedisClient]:
    client = RedisClient(redis_server.url)
    yield client
    await client.close()


def names(found: Sequence[Process]) -> list[str]:
    return [each.name for each in found]


@pytest.fixture(params=["redis", "memory"])
def make(request: pytest.FixtureRequest) -> Callable[[], Presence]:
    """What several processes say to one another."""
    if request.param == "memory":
        said: dict[str, Process] = {}
        return lambda: MemoryPresence(time.time, said)
    client = request.getfixturevalue("client")
    return lambda: RedisPresence(client, KEY)


async def test_who_speaks_is_listed_until_it_leaves(make: Callable[[], Presence]) -> None:
    one, two = make(), make()
    assert await one.processes() == []
    await two.say(process("two", 2.0, "scanner 0", "reconciler"))
    await one.say(process("one", 1.0))
    await one.say(dataclasses.replace(process("one"), pid=8))
    found = await one.processes()
    assert names(found) == ["one", "two"]
    assert [each.pid for each in found] == [8, 7]
    assert [each.role for each in found[1].services] == ["scanner", "reconciler"]
    assert abs(found[0].seen_at - time.time()) < 5
    await two.leave("two")
    assert names(await two.processes()) == ["one"]


async def test_who_is_silent_is_forgotten(
    make: Callable[[], Presence], monkeypatch: pytest.MonkeyPatch
) -> None:
    lasting, silent = make(), make()
    for room in (redis_room, memory_room):
        monkeypatch.setattr(room, "PRESENCE_SECONDS", 0.2)
    await silent.say(process("silent"))
    assert names(await lasting.processes()) == ["silent"]

    async def is_forgotten() -> bool:
        return await lasting.processes() == []

    await wait_until(is_forgotten)


async def test_what_cannot_be_read_is_passed_over(client: RedisClient, redis: Redis) -> None:
    """Another version may say more; anyone may write anything."""
    presence = RedisPresence(client, KEY)
    await presence.say(process("one"))
    strange = ["[]", "{", "\xff", '{"name": "x"}', '{"services": [{}]}', '{"services": 1}']
    strange.append("[" * 9999)
    whole = dataclasses.asdict(process("x", 3.0))
    instants: list[Any] = [None, math.nan, [], "soon"]
    wrong: list[dict[str, Any]] = [{"started_at": instant} for instant in instants]
    strange += [json.dumps(whole | each) for each in (*wrong, {"pid": math.inf})]
    await redis.zadd(KEY, {json.dumps(whole | {"name": "newer", "more": 1}): 1e12})
    await redis.zadd(KEY, dict.fromkeys(strange, 1e12))
    assert names(await presence.processes()) == ["one", "newer"]


async def test_an_answer_that_was_lost_makes_no_second_process(client: RedisClient) -> None:
    presence = RedisPresence(client, KEY)
    await presence.say(process("one"))
    await RedisPresence(client, KEY).say(dataclasses.replace(process("one"), pid=8))
    (found,) = await presence.processes()
    assert found.pid == 8
