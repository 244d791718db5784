"""bamboo-engine's runtime for one action on one node run. Import it only after Django is set up."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

from django.db import router, transaction
from pipeline.eri.models import ExecutionData, LogEntry, State
from pipeline.eri.runtime import BambooDjangoRuntime

from node_timeout.domain.run import TimedOutNode
from node_timeout.engines.bamboo import own_signals

try:
    from bamboo_engine import fence
except ImportError:  # bamboo-engine 2
    fence = None

logger = logging.getLogger(__name__)

NOTES = "node_timeout"
"""Name of the logger in bamboo's log of a node. (Notes are not kept in the node's outputs: work
that continues after a forced fail overwrites those.)"""
SENT = "sent on by node-timeout, at version {}"

Later = Callable[[Callable[[], None]], None]
"""Makes a call in another thread, after earlier calls for the same node."""


def at_once(call: Callable[[], None]) -> None:
    """The `Later` for a caller without other threads."""
    call()


class _NoHooks:
    """Replaces a component whose hooks are not called."""

    def need_run_hook(self) -> bool:
        return False


class Runtime(BambooDjangoRuntime):  # type: ignore[misc] # bamboo-pipeline is not typed
    """The engine's runtime, but signals and messages wait until the transaction is committed."""

    def __init__(self, node: TimedOutNode) -> None:
        super().__init__()
        self._node = node
        self._state: Any = None
        """The node's state; its row is locked, so only this object changes it. None: not read."""
        self._signals: list[dict[str, Any]] = []
        self._messages: list[tuple[Callable[[], None], str]] = []
        """What sends each message, and the node's version behind which the pipeline goes on."""

    def go_public(self, later: Later) -> None:
        """Send the waiting messages, and the signals by ``later``. Raises the broker's errors."""
        if self._signals:
            later(partial(own_signals.send, self._signals))
        for send, version in self._messages:
            send()
            self.note(SENT, version)

    def note(self, text: str, version: str | None = None) -> None:
        """Write what was done into bamboo's log of the node run; None: the node's version now."""
        state = self.get_state(self._node.node_id)
        LogEntry.objects.create(
            node_id=self._node.node_id,
            version=self._node.version,
            loop=state.loop,
            logger_name=NOTES,
            level_name="WARNING",
            message=text.format(version or state.version),
        )

    def get_state(self, node_id: str) -> Any:
        """Read our node's state once per change: the engine asks for it ten times."""
        if node_id != self._node.node_id:
            return super().get_state(node_id)
        if self._state is None:
            self._state = super().get_state(node_id)
        return copy.copy(self._state)

    def set_state(
        self, *, node_id: str, to_state: str, send_post_set_state_signal: bool = True, **how: Any
    ) -> str:
        version: str = super().set_state(
            node_id=node_id, to_state=to_state, send_post_set_state_signal=False, **how
        )
        if node_id == self._node.node_id:
            self._state = None
        if send_post_set_state_signal:
            state = self.get_state(node_id)
            self._signals.append(
                {
                    "node_id": node_id,
                    "to_state": to_state,
                    "version": version,
                    "root_id": state.root_id,
                    "parent_id": state.parent_id,
                    "loop": how.get("loop", -1),
                }
            )
        return version

    def execute(self, **call: Any) -> None:
        version = self.get_state(self._node.node_id).version
        if fence is not None and not call.get("headers"):
            token = fence.ExecuteFence(self._node.node_id, version)
            call["headers"] = fence.dispatch_headers(None, token)
        self._messages.append((partial(super().execute, **call), version))

    def get_service(self, *args: Any, **kwargs: Any) -> Any:
        """The component, for its hooks; whatever is wrong with them, the node can be failed.

        A component that cannot be loaded here has no hooks. One whose inputs are still being
        rendered has not begun, and has no data for a hook. A hook that fails in the database must
        not break the transaction.
        """
        try:
            service = super().get_service(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - the project's code
            logger.warning(
                "node %s: its component's hooks are not called: %r",
                self._node.node_id,
                error,
                extra={"node_id": self._node.node_id, "version": self._node.version},
            )
            return _NoHooks()
        if service.need_run_hook() and not self._has_begun:
            return _NoHooks()
        dispatch = service.hook_dispatch

        def in_savepoint(*hook_args: Any, **hook: Any) -> Any:
            with transaction.atomic(using=router.db_for_write(State)):
                return dispatch(*hook_args, **hook)

        service.hook_dispatch = in_savepoint
        return service

    @cached_property
    def _has_begun(self) -> bool:
        """Cached, since failing the node writes outputs: whether the node had begun before."""
        return bool(ExecutionData.objects.filter(node_id=self._node.node_id).exists())
