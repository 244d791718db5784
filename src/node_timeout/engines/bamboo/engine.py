"""Engine ``bamboo``: bamboo-engine, in the Django settings of the project that runs it.

``DJANGO_SETTINGS_MODULE`` names the settings, and the working directory is importable, as for
``manage.py``. The queries and actions are in `node_timeout.engines.bamboo.bamboo_calls`. This
module has the threads in which they run, each with its own Django connections: `engine_threads`
that ask and act, and at most as many that call the receivers of ``post_set_state``; failing a node
does not wait for those.
"""

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import ModuleType
from typing import TypeVar

from node_timeout.domain.errors import SettingsError
from node_timeout.domain.events import NodeStarted
from node_timeout.domain.run import Node, TimedOutNode
from node_timeout.engines.bamboo.lanes import Lanes
from node_timeout.runtime.threads import CLOSE_SECONDS, Threads
from node_timeout.settings import Settings

logger = logging.getLogger(__name__)

T = TypeVar("T")

SETTINGS_MODULE = "DJANGO_SETTINGS_MODULE"
KEEP_CONNECTION_SECONDS = 60


class BambooEngine:
    """See `node_timeout.ports.Engine` and `SurveyableEngine`."""

    def __init__(self, settings: Settings) -> None:
        """Raises `SettingsError` if Django or bamboo-pipeline is missing or cannot be set up."""
        # In another thread: in one with an event loop, Django refuses the queries of apps' ready().
        with ThreadPoolExecutor(max_workers=1) as thread:
            self._acts = thread.submit(_set_up).result()
        self._threads = Threads(
            settings.engine_threads, name="bamboo", at_end=self._acts.close_connections
        )
        self._signals = Lanes(
            settings.engine_threads, name="bamboo-signals", at_end=self._acts.close_connections
        )

    async def is_running(self, node: TimedOutNode) -> bool:
        return await self._run(lambda: self._acts.is_running(node))

    async def forced_fail(self, node: TimedOutNode, reason: str) -> str:
        return await self._run(lambda: self._acts.forced_fail(node, reason, self._later(node)))

    async def forced_fail_and_skip(self, node: TimedOutNode, reason: str) -> str:
        return await self._run(
            lambda: self._acts.forced_fail_and_skip(node, reason, self._later(node))
        )

    async def running(self, nodes: Sequence[Node]) -> list[NodeStarted]:
        return await self._run(lambda: self._acts.running(nodes))

    async def check(self) -> str:
        await self._run(self._acts.look)
        return "its database answers"

    async def close(self) -> None:
        _, lost = await asyncio.gather(
            self._threads.close(), asyncio.to_thread(self._signals.close, CLOSE_SECONDS)
        )
        if lost:
            logger.error("post_set_state of %d nodes was not sent: its receivers are slow", lost)

    def _later(self, node: TimedOutNode) -> Callable[[Callable[[], None]], None]:
        return partial(self._signals.put, node.node_id)

    async def _run(self, call: Callable[[], T]) -> T:
        return await self._threads.run(lambda: self._acts.in_database(call))


def _set_up() -> ModuleType:
    """Set Django up; return the module that calls bamboo-engine, which needs Django."""
    if not os.environ.get(SETTINGS_MODULE):
        raise SettingsError(
            f"{SETTINGS_MODULE} is not set; name the Django settings of your project, "
            f"and start in the directory of its manage.py"
        )
    if os.getcwd() not in sys.path:  # noqa: PTH109 - a text, as sys.path has them
        sys.path.insert(0, os.getcwd())  # noqa: PTH109
    try:
        import django  # noqa: PLC0415 - the extra may not be installed
        import pipeline.eri  # noqa: F401, PLC0415
    except ImportError as error:
        raise SettingsError(f"{error}; pip install 'node-timeout[bamboo]'") from error
    from django.conf import settings  # noqa: PLC0415

    # Only the project itself updates its catalogues of components and variables.
    settings.AUTO_UPDATE_COMPONENT_MODELS = settings.AUTO_UPDATE_VARIABLE_MODELS = False
    with _logging_kept():
        django.setup()
    _keep_connections()
    from node_timeout.engines.bamboo import bamboo_calls  # noqa: PLC0415 - its imports need Django set up

    bamboo_calls.close_connections()  # this thread's
    return bamboo_calls


@contextlib.contextmanager
def _logging_kept() -> Iterator[None]:
    """Let the project's LOGGING add loggers, but not silence ours or replace our output."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers or root.handlers
        root.setLevel(level)
        for name, logger in logging.root.manager.loggerDict.items():
            if isinstance(logger, logging.Logger) and name.split(".")[0] == "node_timeout":
                logger.disabled = False


def _keep_connections() -> None:
    """Keep connections open: CONN_MAX_AGE 0 suits requests; a worker would always reconnect."""
    from django.db import connections  # noqa: PLC0415 - needs Django set up

    for database in connections.databases.values():
        if database.get("CONN_MAX_AGE") == 0:
            database["CONN_MAX_AGE"] = KEEP_CONNECTION_SECONDS
            database["CONN_HEALTH_CHECKS"] = True
