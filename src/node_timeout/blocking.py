"""`BlockingNodeTimeout`: `NodeTimeout` for synchronous callers, over one bridge.

The bridge is an event loop in a daemon thread. The first call creates it, and it serves every
thread of the process. After a fork the child creates its own.
"""

import asyncio
import contextlib
import os
import sys
import threading
import weakref
from collections.abc import Callable, Collection, Coroutine, Iterable, Sequence
from concurrent.futures import CancelledError
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, Self, TypeVar, Unpack

from node_timeout.app import Left, NodeTimeout, Run
from node_timeout.domain.errors import GreenThreadsError, NodeTimeoutError, TemporaryError
from node_timeout.domain.history import HistoryEntry
from node_timeout.domain.lateness import MAX_ENDINGS
from node_timeout.domain.run import LedgerRow
from node_timeout.operations.changing import ChangeReport
from node_timeout.operations.choosing import Asked
from node_timeout.operations.give_back import GiveBackReport
from node_timeout.operations.letters import Sifted
from node_timeout.ports.directory import Names, RunPage
from node_timeout.ports.presence import Process
from node_timeout.settings import Settings
from node_timeout.status import Status
from node_timeout.tasks import ended

T = TypeVar("T")

CLOSE_SECONDS = 5.0
Call = Callable[[NodeTimeout], Coroutine[Any, Any, T]]


def require_native_threads() -> None:
    """Raises `GreenThreadsError` if gevent or eventlet has patched threads or sockets.

    A patched thread is a greenlet of the thread that started it. With an event loop in it,
    `asyncio.get_running_loop` finds that loop everywhere in the real thread, and Django then
    refuses every query.
    """
    gevent, eventlet = sys.modules.get("gevent.monkey"), sys.modules.get("eventlet.patcher")
    if gevent and any(map(gevent.is_module_patched, ("threading", "socket", "select"))):
        library = "gevent"
    elif eventlet and any(map(eventlet.is_monkey_patched, ("thread", "socket", "select"))):
        library = "eventlet"
    else:
        return
    raise GreenThreadsError(
        f"{library} has replaced the threads and sockets of this process, and node-timeout cannot"
        f" run in it: start Celery with --pool prefork or --pool threads, gunicorn with"
        f" --worker-class sync or gthread; or send events over RabbitMQ and serve actions over HTTP"
    )


class _ClosedError(Exception):
    """The bridge was closed before it received the call."""


class _Bridge:
    """An event loop in a thread, with an open `NodeTimeout` in it."""

    def __init__(self, settings: Settings) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="node-timeout", daemon=True
        )
        self._thread.start()
        self._lock = threading.Lock()
        self._closed = False
        self._app = NodeTimeout(settings=settings)
        try:
            self.run(lambda app: app.__aenter__())
        except BaseException:
            self.close()
            raise

    def run(self, call: Call[T], time_limit: float | None = None) -> T:
        """Raises `_ClosedError` if the call never began, `NodeTimeoutError` if `close` cancelled
        it, `TemporaryError` if it took longer than ``time_limit`` (seconds).
        """
        with self._lock:
            if self._closed:
                raise _ClosedError
            future = asyncio.run_coroutine_threadsafe(call(self._app), self._loop)
        try:
            return future.result(time_limit)
        except CancelledError as error:
            raise NodeTimeoutError("closed by another thread during the call") from error
        except FutureTimeoutError as error:
            if not future.cancel():
                return future.result()  # it ended at that very moment
            raise TemporaryError(f"no answer within {time_limit:g} s") from error

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
        asyncio.run_coroutine_threadsafe(self._finish(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _finish(self) -> None:
        """Wait for the calls in flight, `CLOSE_SECONDS` at most; then cancel them."""
        others = asyncio.all_tasks() - {asyncio.current_task()}
        if others:
            _, late = await asyncio.wait(others, timeout=CLOSE_SECONDS)
            await ended(*late)
        await self._app.__aexit__()


class BlockingNodeTimeout:
    """The methods of `NodeTimeout`, for callers without an event loop. Thread-safe.

    Each call raises `GreenThreadsError` in a process that gevent or eventlet has patched.
    """

    def __init__(
        self, settings: Settings | None = None, *, call_timeout: float | None = None
    ) -> None:
        """A call that takes longer than ``call_timeout`` (seconds) raises `TemporaryError`."""
        self.settings = settings or Settings()
        self._call_timeout = call_timeout
        self._bridge: _Bridge | None = None
        self._lock = threading.Lock()
        _instances.add(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; a later call opens new ones."""
        with self._lock:
            bridge, self._bridge = self._bridge, None
        if bridge:
            bridge.close()

    def apply_node_timeout_configs(self, pipeline_tree: Any, configs: Any) -> dict[str, Any]:
        """The function of this name, with the rules of this object's settings; never connects."""
        return NodeTimeout(self.settings).apply_node_timeout_configs(pipeline_tree, configs)

    def batch_create_node_timeout_config(
        self,
        root_pipeline_id: Any,
        pipeline_tree: Any,
        *,
        lenient: bool = False,
        payload: Any = None,
    ) -> dict[str, Any]:
        return self._run(
            lambda app: app.batch_create_node_timeout_config(
                root_pipeline_id, pipeline_tree, lenient=lenient, payload=payload
            )
        )

    def batch_create_node_timeout_configs(
        self, pipeline_trees: Any, *, lenient: bool = False
    ) -> dict[str, Any]:
        return self._run(
            lambda app: app.batch_create_node_timeout_configs(pipeline_trees, lenient=lenient)
        )

    def node_started(
        self,
        node_id: str,
        version: str,
        root_pipeline_id: str | None = None,
        *,
        happened_at: float | None = None,
    ) -> bool:
        return self._run(
            lambda app: app.node_started(
                node_id, version, root_pipeline_id, happened_at=happened_at
            )
        )

    def node_left(
        self,
        node_id: str,
        version: str | None = None,
        root_pipeline_id: str | None = None,
        *,
        happened_at: float | None = None,
        trust_ledger: bool = False,
    ) -> int:
        return self._run(
            lambda app: app.node_left(
                node_id,
                version,
                root_pipeline_id,
                happened_at=happened_at,
                trust_ledger=trust_ledger,
            )
        )

    def nodes_started(self, runs: Iterable[Run], *, happened_at: float | None = None) -> int:
        return self._run(lambda app: app.nodes_started(runs, happened_at=happened_at))

    def nodes_left(
        self,
        nodes: Iterable[Left],
        *,
        happened_at: float | None = None,
        trust_ledger: bool = False,
    ) -> int:
        return self._run(
            lambda app: app.nodes_left(nodes, happened_at=happened_at, trust_ledger=trust_ledger)
        )

    def node_paused(
        self,
        node_id: str,
        version: str,
        root_pipeline_id: str | None = None,
        *,
        happened_at: float | None = None,
    ) -> bool:
        return self._run(
            lambda app: app.node_paused(node_id, version, root_pipeline_id, happened_at=happened_at)
        )

    def extend(
        self,
        node_id: str | None = None,
        version: str | None = None,
        root_pipeline_id: str | None = None,
        *,
        by: float | None = None,
        until: float | None = None,
        **asked: Unpack[Asked],
    ) -> ChangeReport:
        which = (node_id, version, root_pipeline_id)
        return self._run(lambda app: app.extend(*which, by=by, until=until, **asked))

    def reconfigure(
        self,
        node_id: str | None = None,
        version: str | None = None,
        root_pipeline_id: str | None = None,
        **asked: Unpack[Asked],
    ) -> ChangeReport:
        return self._run(lambda app: app.reconfigure(node_id, version, root_pipeline_id, **asked))

    def pause(
        self,
        node_id: str | None = None,
        version: str | None = None,
        root_pipeline_id: str | None = None,
        **asked: Unpack[Asked],
    ) -> ChangeReport:
        return self._run(lambda app: app.pause(node_id, version, root_pipeline_id, **asked))

    def resume(
        self,
        node_id: str | None = None,
        version: str | None = None,
        root_pipeline_id: str | None = None,
        **asked: Unpack[Asked],
    ) -> ChangeReport:
        return self._run(lambda app: app.resume(node_id, version, root_pipeline_id, **asked))

    def fire(
        self,
        node_id: str | None = None,
        version: str | None = None,
        root_pipeline_id: str | None = None,
        **asked: Unpack[Asked],
    ) -> ChangeReport:
        return self._run(lambda app: app.fire(node_id, version, root_pipeline_id, **asked))

    def cancel(
        self,
        node_id: str | None = None,
        version: str | None = None,
        root_pipeline_id: str | None = None,
        **asked: Unpack[Asked],
    ) -> ChangeReport:
        return self._run(lambda app: app.cancel(node_id, version, root_pipeline_id, **asked))

    def replay(
        self,
        node_id: str | None = None,
        version: str | None = None,
        root_pipeline_id: str | None = None,
        **asked: Unpack[Asked],
    ) -> ChangeReport:
        return self._run(lambda app: app.replay(node_id, version, root_pipeline_id, **asked))

    def discard(
        self,
        node_id: str | None = None,
        version: str | None = None,
        root_pipeline_id: str | None = None,
        **asked: Unpack[Asked],
    ) -> ChangeReport:
        return self._run(lambda app: app.discard(node_id, version, root_pipeline_id, **asked))

    def find(self, **which: Any) -> RunPage:
        return self._run(lambda app: app.find(**which))

    def names(self, prefix: str, limit: int = 20) -> Names:
        return self._run(lambda app: app.names(prefix, limit))

    def lateness(self, limit: int = MAX_ENDINGS) -> dict[str, Any]:
        return self._run(lambda app: app.lateness(limit))

    def letters(self, limit: int = 100) -> Sifted:
        return self._run(lambda app: app.letters(limit))

    def resend_letters(self, letter_ids: Collection[str] | None) -> Sifted:
        return self._run(lambda app: app.resend_letters(letter_ids))

    def discard_letters(self, letter_ids: Collection[str] | None) -> Sifted:
        return self._run(lambda app: app.discard_letters(letter_ids))

    def history(self, run_ids: Sequence[str]) -> list[HistoryEntry]:
        return self._run(lambda app: app.history(run_ids))

    def rows(self, node_id: str, root_pipeline_id: str | None = None) -> list[LedgerRow]:
        return self._run(lambda app: app.rows(node_id, root_pipeline_id))

    def give_back(self) -> GiveBackReport:
        return self._run(lambda app: app.give_back())

    def processes(self) -> Sequence[Process]:
        return self._run(lambda app: app.processes())

    def root_finished(self, root_pipeline_id: str) -> int:
        return self._run(lambda app: app.root_finished(root_pipeline_id))

    def forget(self, root_pipeline_id: str, node_ids: Iterable[str] | None = None) -> int:
        return self._run(lambda app: app.forget(root_pipeline_id, node_ids))

    def status(self, recent: int = 10) -> Status:
        return self._run(lambda app: app.status(recent))

    def _run(self, call: Call[T]) -> T:
        require_native_threads()
        while True:
            with self._lock:
                if self._bridge is None:
                    self._bridge = _Bridge(self.settings)
                bridge = self._bridge
            with contextlib.suppress(_ClosedError):
                return bridge.run(call, self._call_timeout)

    def forget_parent(self) -> None:
        """In a forked child: neither use nor close the parent's connections."""
        if self._bridge:
            _parents.append(self._bridge)
        self._bridge = None
        self._lock = threading.Lock()


_instances: "weakref.WeakSet[BlockingNodeTimeout]" = weakref.WeakSet()
_parents: list[_Bridge] = []
_default: BlockingNodeTimeout | None = None
_default_lock = threading.Lock()


def _after_fork() -> None:
    global _default_lock  # noqa: PLW0603 - the parent's may be held
    _default_lock = threading.Lock()
    for instance in list(_instances):
        instance.forget_parent()


os.register_at_fork(after_in_child=_after_fork)


def batch_create_node_timeout_config(
    root_pipeline_id: Any, pipeline_tree: Any, *, lenient: bool = False, payload: Any = None
) -> dict[str, Any]:
    """`NodeTimeout.batch_create_node_timeout_config` for synchronous callers.

    The settings come from the environment; the connections stay open for the next call.
    """
    global _default  # noqa: PLW0603 - one for the process, so that connections are reused
    with _default_lock:
        settings = Settings()
        if _default is None or _default.settings != settings:
            if _default is not None:
                _default.close()
            _default = BlockingNodeTimeout(settings)
        default = _default
    return default.batch_create_node_timeout_config(
        root_pipeline_id, pipeline_tree, lenient=lenient, payload=payload
    )
