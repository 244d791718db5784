"""Runs commands with the settings of the environment, until they are done or stopped."""

import asyncio
import contextlib
import gc
import getpass
import os
import signal
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

import click

from node_timeout.urls.redaction import redact

if TYPE_CHECKING:
    from node_timeout.app import NodeTimeout
    from node_timeout.settings import Settings

T = TypeVar("T")

MISTAKE = 2
FAILURE = 1


def complain(text: str, code: int) -> int:
    click.echo(f"node-timeout: {redact(' '.join(text.splitlines()))}", err=True)
    return code


def settings_of(overrides: dict[str, Any]) -> "Settings":
    from node_timeout.settings import Settings  # noqa: PLC0415

    return Settings(**{name: value for name, value in overrides.items() if value is not None})


def configure_logs(settings: "Settings") -> None:
    from node_timeout import logs  # noqa: PLC0415

    logs.configure(settings.log_format, settings.log_level)


def user_name() -> str:
    """The name of the user who runs the command, for the history."""
    try:
        return getpass.getuser()[:128]
    except (KeyError, OSError):  # a user id without a name, as in a container
        return f"uid {os.getuid()}"


def freeze() -> None:
    """Exclude the objects made at the start, which stay, from later garbage collections."""
    gc.collect()
    gc.freeze()


async def with_app(
    settings: "Settings", work: Callable[["NodeTimeout"], Coroutine[Any, Any, T]]
) -> T:
    from node_timeout.app import NodeTimeout  # noqa: PLC0415

    async with NodeTimeout(settings) as app:
        return await work(app)


def with_library(work: Callable[["NodeTimeout"], Coroutine[Any, Any, T]]) -> T:
    settings = settings_of({})
    configure_logs(settings)
    return asyncio.run(with_app(settings, work))


def until_signal(work: Callable[[asyncio.Event], Coroutine[Any, Any, None]]) -> None:
    """Run ``work`` until done. SIGTERM or SIGINT asks it to stop; a second one ends it at once."""

    async def go() -> None:
        stop = asyncio.Event()
        task = asyncio.ensure_future(work(stop))

        def signalled() -> None:
            if stop.is_set():
                task.cancel()
            stop.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, signalled)
        await task

    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(go())
