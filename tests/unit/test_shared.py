"""One look at the stores for all who look at the same time."""

import asyncio

import pytest

from node_timeout.web.shared import FRESH_SECONDS, Shared


class Looks:
    """Counted; each takes a turn of the event loop, and fails when it is told to."""

    def __init__(self) -> None:
        self.count = 0
        self.error: Exception | None = None
        self.now = 0.0
        self.shared = Shared(self._look, lambda: self.now)

    async def _look(self) -> int:
        self.count += 1
        count = self.count
        await asyncio.sleep(0)
        if self.error:
            raise self.error
        return count


async def test_who_asks_at_once_or_soon_gets_the_same() -> None:
    looks = Looks()
    assert await asyncio.gather(*(looks.shared.get() for _ in range(20))) == [1] * 20
    looks.now += FRESH_SECONDS * 0.9
    assert await looks.shared.get() == 1
    looks.now += FRESH_SECONDS * 0.1
    assert await looks.shared.get() == 2


async def test_a_failure_is_not_kept() -> None:
    looks = Looks()
    await looks.shared.get()
    looks.now += FRESH_SECONDS
    looks.error = ValueError("down")
    with pytest.raises(ValueError, match="down"):
        await looks.shared.get()
    looks.error = None
    assert await looks.shared.get() == 3


async def test_one_who_leaves_does_not_take_the_look_from_others() -> None:
    looks = Looks()
    first, second = (asyncio.create_task(looks.shared.get()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == 2
    with pytest.raises(asyncio.CancelledError):
        await first
