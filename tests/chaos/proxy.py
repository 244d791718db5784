"""A TCP proxy that can be cut, slow, or half open."""

import asyncio
import contextlib
from typing import Self

CHUNK = 65536
ARRIVAL_SECONDS = 0.05
COMMIT = b"COMMIT"
"""As the drivers of PostgreSQL and MariaDB say it, in one chunk."""


class Proxy:
    """Stands before one server; takes its faults while connections are open."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._passing = asyncio.Event()
        self._passing.set()
        self._answering = asyncio.Event()
        self._answering.set()
        self._refusing = False
        self.delay = 0.0
        """Seconds that each chunk is held up."""
        self.commit_delay = 0.0
        """Seconds that a COMMIT is held up, on a database's connection."""
        self.loses_commit_answers = False
        """A COMMIT arrives, and its client's connection is reset before it is answered."""
        self.commits_struck = 0
        self.port = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.heal()
        assert self._server is not None
        self._server.close()
        self._drop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def url(self, url: str) -> str:
        """The URL of the server, by way of this proxy."""
        assert f":{self._target}" in url
        return url.replace(f":{self._target}", f":{self.port}")

    def cut(self) -> None:
        """Reset what is open, refuse what comes."""
        self._refusing = True
        self._drop()

    def half_open(self) -> None:
        """Connections stay open and new ones are accepted, but nothing passes any more."""
        self._passing.clear()

    def mute(self) -> None:
        """What the client says arrives; what the server answers does not."""
        self._answering.clear()

    def heal(self) -> None:
        """Pass again. What was half open is reset first: its bytes are late by then."""
        if not (self._passing.is_set() and self._answering.is_set()):
            self._drop()
        self._answering.set()
        self._refusing = False
        self.delay = self.commit_delay = 0.0
        self.loses_commit_answers = False
        self._passing.set()

    def _drop(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refusing:
            writer.transport.abort()
            return
        try:
            there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, there_writer}
        for source, sink, back, gate in (
            (reader, there_writer, writer, self._passing),
            (there_reader, writer, there_writer, self._answering),
        ):
            task = asyncio.create_task(self._pass_on(source, sink, back, gate))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pass_on(
        self,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        back: asyncio.StreamWriter,
        gate: asyncio.Event,
    ) -> None:
        with contextlib.suppress(OSError):
            while chunk := await source.read(CHUNK):
                await self._passing.wait()
                await gate.wait()
                if self.delay:
                    await asyncio.sleep(self.delay)
                if COMMIT in chunk:
                    await self._strike_commit(back)
                sink.write(chunk)
                await sink.drain()
            if back.transport.is_closing():
                await asyncio.sleep(ARRIVAL_SECONDS)  # a reset would overtake what was sent last
        self._writers.discard(sink)
        sink.transport.abort()

    async def _strike_commit(self, client: asyncio.StreamWriter) -> None:
        self.commits_struck += bool(self.commit_delay or self.loses_commit_answers)
        await asyncio.sleep(self.commit_delay)
        if self.loses_commit_answers:
            client.transport.abort()
