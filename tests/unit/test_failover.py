"""The servers of one service, tried in turn."""

import asyncio

import pytest

from node_timeout.stores.failover import Failover


class Servers:
    """Servers that answer, refuse or are silent, and who was asked."""

    def __init__(self, **does: str) -> None:
        self.does = does
        self.asked: list[str] = []
        self.turns = Failover(list(does), name=str.upper)

    async def dial(self, name: str) -> str:
        self.asked.append(name)
        match self.does[name]:
            case "refuses":
                raise ConnectionRefusedError(f"{name} refuses")
            case "is wrong":
                raise ValueError(f"{name} is wrong")
            case "hangs":
                await asyncio.Event().wait()
        return f"to {name}"

    async def connect(self, time_limit: float = 5) -> str:
        self.asked.clear()
        server, connection = await self.turns.connect(self.dial, time_limit, (OSError,))
        assert connection == f"to {server}"
        return server


async def test_the_server_that_answered_last_is_asked_first() -> None:
    servers = Servers(a="refuses", b="answers", c="answers")
    assert await servers.connect() == "b"
    assert servers.asked == ["a", "b"]
    assert await servers.connect() == "b"
    assert servers.asked == ["b"]


async def test_the_server_that_failed_is_asked_last() -> None:
    servers = Servers(a="answers", b="refuses", c="answers")
    assert await servers.connect() == "a"
    servers.turns.avoid("a")
    assert await servers.connect() == "c"
    assert servers.asked == ["b", "c"]
    servers.does["c"] = "refuses"
    assert await servers.connect() == "a"
    assert servers.asked == ["c", "a"]


async def test_silent_servers_leave_time_for_the_rest() -> None:
    servers = Servers(a="hangs", b="hangs", c="answers")
    async with asyncio.timeout(1):
        assert await servers.connect(0.2) == "c"


async def test_when_all_fail_each_is_told() -> None:
    servers = Servers(a="refuses", b="hangs")
    with pytest.raises(ConnectionError, match=r"^A: a refuses; B: no answer in time$"):
        await servers.connect(0.1)


async def test_a_single_server_is_named_too() -> None:
    with pytest.raises(ConnectionError, match=r"^A: a refuses$"):
        await Servers(a="refuses").connect()


async def test_what_is_no_failure_ends_the_search() -> None:
    servers = Servers(a="is wrong", b="answers")
    with pytest.raises(ValueError, match="a is wrong"):
        await servers.connect()
    servers.does["a"] = "hangs"
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await servers.connect(60)
    assert servers.asked == ["a"]
    assert await servers.connect() == "b"
