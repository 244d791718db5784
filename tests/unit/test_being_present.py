"""What a process says of itself goes on through outages, and ends with its services."""

import asyncio

import pytest

from node_timeout.domain.errors import PoolUnavailableError
from node_timeout.ports.presence import Process
from node_timeout.runtime import presence as room
from node_timeout.runtime.loop import Health
from node_timeout.runtime.presence import present
from node_timeout.stores.memory.pool import MemoryPool
from node_timeout.stores.memory.presence import MemoryPresence
from node_timeout.testing import FakeClock
from node_timeout.testing.words import wait_until


class Faulty(MemoryPresence):
    """Its first calls fail."""

    def __init__(self, *errors: Exception) -> None:
        super().__init__(FakeClock())
        self.errors = list(errors)

    async def say(self, process: Process) -> None:
        if self.errors:
            raise self.errors.pop(0)
        await super().say(process)

    async def leave(self, name: str) -> None:
        if self.errors:
            raise self.errors.pop(0)
        await super().leave(name)


async def test_it_is_said_while_services_run_and_taken_back_behind_them() -> None:
    presence, worker = Faulty(), Health(name="worker")
    worker.doing = lambda: "3 strategy calls"
    async with present(presence, MemoryPool(FakeClock(7.0)), "me", [worker]):
        await wait_until(presence.processes)
        (process,) = await presence.processes()
        assert (process.name, process.started_at) == ("me", 7.0)
        (service,) = process.services
        assert (service.ready, service.doing) == (False, "3 strategy calls")
    assert await presence.processes() == []


@pytest.mark.parametrize("error", [PoolUnavailableError("gone"), RuntimeError("a bug")])
async def test_what_happens_to_its_words_ends_no_service(error: Exception) -> None:
    presence = Faulty(error, error)
    async with present(presence, MemoryPool(FakeClock()), "me", [Health(name="scanner")]):
        await wait_until(presence.processes)
        presence.errors = [PoolUnavailableError("gone")]
    assert len(await presence.processes()) == 1, "it could not be taken back, and ends by its time"


async def test_a_stop_does_not_wait_for_a_silent_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent(MemoryPresence):
        async def leave(self, name: str) -> None:
            await asyncio.sleep(60)

    monkeypatch.setattr(room, "LEAVE_SECONDS", 0.05)
    async with asyncio.timeout(5):
        async with present(Silent(FakeClock()), MemoryPool(FakeClock()), "me", []):
            await asyncio.sleep(0)
