"""Reports that a process is alive, and what its services are doing."""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Sequence
from importlib.metadata import version

from node_timeout.domain.errors import TemporaryError
from node_timeout.ports.pool import Pool
from node_timeout.ports.presence import PRESENCE_SECONDS, Presence, Process, ServiceState
from node_timeout.runtime.loop import Health, repeat, sleep
from node_timeout.tasks import ended

SAY_SECONDS = PRESENCE_SECONDS / 3
SOON_SECONDS = 1.0
"""The interval between reports while a service is not ready: somebody may be watching then."""
LEAVE_SECONDS = 1.0
VERSION = version("node-timeout")
"""The version that runs; another one may have been installed since."""
HOST = socket.gethostname()


@contextlib.asynccontextmanager
async def present(
    presence: Presence, pool: Pool, name: str, services: Sequence[Health]
) -> AsyncIterator[None]:
    """Report inside this context that the process is alive; remove the report at its end.

    The reports go on until the services have ended, not only until they are asked to stop. A
    failing report does not affect the services.
    """
    over = asyncio.Event()
    started_at: float | None = None

    async def step() -> None:
        nonlocal started_at
        if started_at is None:
            started_at = await pool.now()
        await presence.say(_process(name, started_at, services))
        is_calm = all(each.ready for each in services)
        await sleep(SAY_SECONDS if is_calm else SOON_SECONDS, over)

    saying = asyncio.create_task(
        repeat(step, stop=over, health=Health(name="presence")), name="presence"
    )
    try:
        yield
    finally:
        over.set()
        await ended(saying)
        with contextlib.suppress(TemporaryError, TimeoutError):
            async with asyncio.timeout(LEAVE_SECONDS):
                await presence.leave(name)


def _process(name: str, started_at: float, services: Sequence[Health]) -> Process:
    return Process(
        name=name,
        host=HOST,
        pid=os.getpid(),
        version=VERSION,
        started_at=started_at,
        services=tuple(
            ServiceState(
                name=each.name, ready=each.ready, failures=each.failures, doing=each.doing()
            )
            for each in services
        ),
    )
