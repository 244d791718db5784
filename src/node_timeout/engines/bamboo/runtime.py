"""bamboo-engine's runtime for one act on one node run. Import it only with Django set up."""

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
"""Name of the logger in bamboo's log of a node. (The outputs of a node are no place for notes: work
that goes on behind a forced fail writes them once more.)"""
SENT = "sent on by node-timeout, at version {}"

Later = Callable[[Callable[[], None]], None]
"""Has a call made in another thread, behind earlier ones for the same node."""


def at_once(call: Callable[[], None]) -> None:
    """The `Later` of a caller that has no other threads."""
    call()


class _NoHooks:
    """In place of a component that has no hook to be called."""

    def need_run_hook(self) -> bool:
        return False


class Runtime(BambooDjangoRuntime):  # type: ignore[misc] # bamboo-pipeline is not typed
    """The engine's runtime, but signals and messages wait until the transaction is committed."""

    def __init__(self, node: TimedOutNode) -> None:
        super().__init__()
        self._node = node
        self._state: Any = None
        """Of the node, whose row is locked: nobody but this changes it. None: to be read."""
        self._signals: list[dict[str, Any]] = []
        self._messages: list[tuple[Callable[[], None], str]] = []
        """Each with the version of the node behind which it sends the pipeline on."""

    def go_public(self, later: Later) -> None:
        """Send what has waited; the signals in their own time. Raises what the broker raises."""
        if self._signals:
            later(partial(own_signals.send, self._signals))
        for send, version in self._messages:
            send()
            self.note(SENT, version)

    def note(self, text: str, version: str | None = None) -> None:
        """Write into bamboo's log of the node run what was done; None: the version it has now."""
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
        """Of our node it is read once for each change: the engine asks for it ten times."""
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
        """Of a component we want its hooks; whatever is wrong with them, the node can be failed.

        One that cannot be loaded here has none. One whose inputs are still being rendered has begun
        nothing, and has no data that a hook could be called with. One that fails in the database
        must not take the transaction with it.
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
        """As it was before the node was failed, which writes outputs."""
        return bool(ExecutionData.objects.filter(node_id=self._node.node_id).exists())
