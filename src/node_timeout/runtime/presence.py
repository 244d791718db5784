"""How a process says that it is alive, and what its services are doing."""

import asyncio
import contextlib
import os
import socket
from collections.abc import Sequence
from importlib.metadata import version

from node_timeout.domain.errors import TemporaryError
from node_timeout.ports.pool import Pool
from node_timeout.ports.presence import PRESENCE_SECONDS, Presence, Process, ServiceState
from node_timeout.runtime.loop import Health, sleep

SAY_SECONDS = PRESENCE_SECONDS / 3
SOON_SECONDS = 1.0
"""Until it says so again while a service is not ready: that is when somebody looks."""
LEAVE_SECONDS = 1.0


async def be_present(
    presence: Presence, pool: Pool, name: str, services: Sequence[Health], stop: asyncio.Event
) -> None:
    """Say so again and again until stopped or cancelled; then take it back.

    Without Redis nobody hears it, which the services say.
    """
    started_at: float | None = None
    try:
        while not stop.is_set():
            with contextlib.suppress(TemporaryError):
                if started_at is None:
                    started_at = await pool.now()
                await presence.say(_process(name, started_at, services))
            is_calm = all(each.ready for each in services)
            await sleep(SAY_SECONDS if is_calm else SOON_SECONDS, stop)
    finally:
        with contextlib.suppress(TemporaryError, TimeoutError):
            async with asyncio.timeout(LEAVE_SECONDS):
                await presence.leave()


def _process(name: str, started_at: float, services: Sequence[Health]) -> Process:
    return Process(
        name=name,
        host=socket.gethostname(),
        pid=os.getpid(),
        version=version("node-timeout"),
        started_at=started_at,
        services=tuple(
            ServiceState(
                name=each.name, ready=each.ready, failures=each.failures, doing=each.doing()
            )
            for each in services
        ),
    )
