"""The servers of one service, tried in turn."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from node_timeout.stores.tls import reason_of

A = TypeVar("A")
C = TypeVar("C")


class Failover(Generic[A]):
    """Starts with the server that answered last, and tries failed servers last."""

    def __init__(self, servers: Sequence[A], *, name: Callable[[A], str] = str) -> None:
        self._servers = list(servers)
        self._name = name  # for errors, so without passwords

    async def connect(
        self,
        dial: Callable[[A], Awaitable[C]],
        time_limit: float,
        failures: tuple[type[Exception], ...],
    ) -> tuple[A, C]:
        """Return the first server that can be dialled, and its connection.

        It tries the next server after one of ``failures``, which must include TimeoutError. A
        silent server uses only its share of the time limit, so that every server is tried. Raises
        a ConnectionError that names each server and why it failed.
        """
        clock = asyncio.get_running_loop().time
        until = clock() + time_limit
        servers = list(self._servers)
        faults: list[str] = []
        for waiting, server in zip(range(len(servers), 0, -1), servers, strict=True):
            try:
                async with asyncio.timeout((until - clock()) / waiting):
                    connection = await dial(server)
            except failures as error:
                self.avoid(server)
                faults.append(f"{self._name(server)}: {_why(error)}")
            except asyncio.CancelledError:
                self.avoid(server)  # the caller gave up while this one was tried
                raise
            else:
                self._move(server, 0)
                return server, connection
        raise ConnectionError("; ".join(faults))

    def avoid(self, server: A) -> None:
        """Try this server last the next time: it has failed."""
        self._move(server, len(self._servers))

    def _move(self, server: A, place: int) -> None:
        self._servers.remove(server)
        self._servers.insert(place, server)


def _why(fault: Exception) -> str:
    return "no answer in time" if type(fault) is TimeoutError else reason_of(fault)
