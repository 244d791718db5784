"""Tasks are ended for good, also if a cancellation is lost on its way."""

import asyncio

from node_timeout.tasks import ended


async def test_a_task_that_has_lost_a_cancellation_is_cancelled_again() -> None:
    lost = 0

    async def loses_one() -> None:
        nonlocal lost
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                lost += 1
                if lost > 1:
                    raise

    task = asyncio.create_task(loses_one())
    await asyncio.sleep(0)
    async with asyncio.timeout(10):
        await ended(task)
    assert task.cancelled()
    assert lost == 2


async def test_what_has_ended_or_fails_while_it_is_cancelled_is_no_error() -> None:
    async def fails() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            raise ValueError("while it ends")

    done, failing = asyncio.create_task(asyncio.sleep(0)), asyncio.create_task(fails())
    await asyncio.sleep(0.01)
    await ended(done, failing)
    assert done.done()
    assert isinstance(failing.exception(), ValueError)
