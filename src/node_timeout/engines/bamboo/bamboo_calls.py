"""The worker's queries and actions on bamboo-engine. Import it only after Django is set up.

Check and action are one transaction: it locks the State row, compares it with the node run, and
only then fails the node by ``bamboo_engine.api`` (and skips it, in the same transaction). A retry
of the node waits for the lock and then finds our action done; a node retried before is found
superseded. We do not wait: if another transaction holds the row, the run is tried again later.

    lock ──▶ compare ──▶ fail ──▶ (skip) ──▶ note ──▶ commit ──▶ message ──▶ note
                                                         └─────▶ signals, in another thread

After a crash before the commit the node still runs, and the next attempt fails it. A crash after
the commit is detected by notes in bamboo's own log of the node run: that it was failed or skipped,
which version the node has since, and whether the message that lets the pipeline go on was sent. If
not, it is sent again. A crash between that message and its note sends it twice; bamboo-engine 3
drops the second if its fence is on (``FENCE_EMIT_ENABLED`` and ``FENCE_ENFORCE``).
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, TypeVar

from bamboo_engine import api, states
from bamboo_engine.exceptions import InvalidOperationError
from django.db import (
    DatabaseError,
    InterfaceError,
    close_old_connections,
    connections,
    router,
    transaction,
)
from django.utils import timezone
from kombu.exceptions import OperationalError as BrokerError
from pipeline.eri.celery import tasks as _tasks  # noqa: F401 - registers the engine's Celery tasks
from pipeline.eri.models import LogEntry, Process, State

from node_timeout.domain.errors import (
    EngineUnavailableError,
    InvalidNodeRunError,
    NodeRunSupersededError,
    NodeTimeoutError,
    StrategyRefusedError,
    TemporaryError,
)
from node_timeout.domain.events import NodeStarted
from node_timeout.domain.ids import check_ids
from node_timeout.domain.run import Node, TimedOutNode
from node_timeout.engines.bamboo.runtime import NOTES, SENT, Later, Runtime, at_once

logger = logging.getLogger(__name__)

T = TypeVar("T")

LOCKED = {"55P03", 1205, 3572}
"""The error codes of PostgreSQL, MariaDB and MySQL for a row locked by another transaction."""

_acting: set[str] = set()
_acting_lock = threading.Lock()
"""Guards ``_acting``, the ids of the runs on which a thread of this process is acting."""


def in_database(call: Callable[[], T]) -> T:
    """Call with working connections; raise faults that may pass as temporary errors."""
    close_old_connections()
    try:
        return call()
    except NodeTimeoutError:
        raise
    except (DatabaseError, InterfaceError) as error:
        raise EngineUnavailableError(f"bamboo's database: {error}") from error
    except (BrokerError, OSError) as error:
        raise EngineUnavailableError(f"bamboo's broker: {error}") from error
    finally:
        close_old_connections()


def close_connections() -> None:
    connections.close_all()


def is_running(node: TimedOutNode) -> bool:
    """Also true if we have begun to act on the run and may not have finished: see the module."""
    state = State.objects.filter(node_id=node.node_id, root_id=node.root_pipeline_id).first()
    return state is not None and (_is_current(state, node) or _was_failed_here(state, node))


def is_unfinished(node: TimedOutNode) -> bool:
    """``running`` of the HTTP contract: it runs, or we skipped it and its pipeline still waits."""
    state = State.objects.filter(node_id=node.node_id, root_id=node.root_pipeline_id).first()
    if state is None:
        return False
    if _is_current(state, node):
        return True
    is_skipped = state.name == states.FINISHED and _was_failed_here(state, node)
    return is_skipped and _waiting_process(state, node) is not None


def forced_fail(node: TimedOutNode, reason: str, later: Later = at_once) -> str:
    return _act(node, reason, later, skip=False)


def forced_fail_and_skip(node: TimedOutNode, reason: str, later: Later = at_once) -> str:
    return _act(node, reason, later, skip=True)


def running(nodes: Sequence[Node]) -> list[NodeStarted]:
    """The current runs of these nodes, by three queries."""
    node_ids = {node_id for _, node_id in nodes}
    found = list(
        State.objects.filter(node_id__in=node_ids, name=states.RUNNING).values(
            "node_id", "version", "root_id", "started_time"
        )
    )
    standing = set(
        Process.objects.filter(
            current_node_id__in=[state["node_id"] for state in found], dead=False
        ).values_list("current_node_id", flat=True)
    )
    revoked = set(
        State.objects.filter(
            node_id__in={state["root_id"] for state in found}, name=states.REVOKED
        ).values_list("node_id", flat=True)
    )
    events = []
    for state in found:
        if state["node_id"] not in standing or state["root_id"] in revoked:
            continue
        ids = {
            "node_id": state["node_id"],
            "version": state["version"],
            "root_pipeline_id": state["root_id"],
        }
        with contextlib.suppress(InvalidNodeRunError):  # its events were never accepted either
            check_ids(**ids)
            events.append(NodeStarted(**ids, happened_at=_unix(state["started_time"])))
    return events


def look() -> None:
    """Read one row by its key: bamboo's tables are large, and states have no index by name."""
    State.objects.order_by("id").first()


def _unix(instant: datetime | None) -> float | None:
    if instant is None:
        return None
    return (timezone.make_aware(instant) if timezone.is_naive(instant) else instant).timestamp()


def _is_current(state: Any, node: TimedOutNode) -> bool:
    """RUNNING at this version, a process is at the node, and its root pipeline is not revoked."""
    return bool(
        state.version == node.version
        and state.name == states.RUNNING
        and Process.objects.filter(current_node_id=node.node_id, dead=False).exists()
        and not State.objects.filter(node_id=state.root_id, name=states.REVOKED).exists()
    )


def _was_failed_here(state: Any, node: TimedOutNode) -> bool:
    """True if the node is as an earlier call for this run left it."""
    if state.version == node.version or state.name not in (states.FAILED, states.FINISHED):
        return False
    said = _FAILED if state.name == states.FAILED else _SKIPPED
    return _is_noted(node, said.format(state.version))


_FAILED = "failed by node-timeout, now at version {}"
_SKIPPED = "skipped by node-timeout, now at version {}"


def _is_noted(node: TimedOutNode, text: str) -> bool:
    notes = LogEntry.objects.filter(
        node_id=node.node_id, version=node.version, logger_name=NOTES, message=text
    )
    return bool(notes.exists())


def _act(node: TimedOutNode, reason: str, later: Later, *, skip: bool) -> str:
    """Act on a node run, unless an earlier attempt that exceeded its time limit still does."""
    with _acting_lock:
        if node.run_id in _acting:
            raise TemporaryError("an earlier attempt is still under way")
        _acting.add(node.run_id)
    try:
        return _act_alone(node, reason, later, skip=skip)
    finally:
        with _acting_lock:
            _acting.discard(node.run_id)


def _act_alone(node: TimedOutNode, reason: str, later: Later, *, skip: bool) -> str:
    runtime = Runtime(node)
    with transaction.atomic(using=router.db_for_write(State)):
        state = _locked(node.node_id)
        if state is None or state.root_id != node.root_pipeline_id:
            raise NodeRunSupersededError(
                f"bamboo-engine has no state of node {node.node_id!r} in this root pipeline"
            )
        if _is_current(state, node):
            done = _fail(runtime, node, reason)
            done += _skip(runtime, node) if skip else ""
        elif _was_failed_here(state, node):
            done = _go_on(runtime, state, node, skip=skip)
        else:
            raise NodeRunSupersededError(
                f"bamboo-engine has moved on: {state.name} at version {state.version}"
            )
    runtime.go_public(later)
    return done


def _locked(node_id: str) -> Any:
    """The State row, locked without waiting: whoever holds it may hang."""
    using = router.db_for_write(State)
    nowait = connections[using].features.has_select_for_update_nowait
    try:
        rows = State.objects.using(using).select_for_update(nowait=nowait)
        return rows.filter(node_id=node_id).first()
    except DatabaseError as error:
        cause: Any = error.__cause__
        said = {getattr(cause, "pgcode", None), getattr(cause, "sqlstate", None), *error.args[:1]}
        if said & LOCKED:
            raise TemporaryError(f"another transaction holds the state of {node_id!r}") from error
        raise


def _fail(runtime: Runtime, node: TimedOutNode, reason: str) -> str:
    result = api.forced_fail_activity(runtime=runtime, node_id=node.node_id, ex_data=reason)
    if not result.result:
        if isinstance(result.exc, InvalidOperationError):
            raise StrategyRefusedError(f"bamboo-engine refuses: {result.exc}") from result.exc
        raise result.exc
    runtime.note(_FAILED)
    return "failed"


def _skip(runtime: Runtime, node: TimedOutNode) -> str:
    """Skip the failed node. If it must not be skipped, it stays failed, and the text says so."""
    result = api.skip_node(runtime=runtime, node_id=node.node_id)
    if not result.result:
        if isinstance(result.exc, InvalidOperationError):
            logger.warning(
                "node %s was failed, and bamboo-engine refuses to skip it: %s",
                node.node_id,
                result.exc,
                extra={"node_id": node.node_id, "version": node.version},
            )
            return f", not skipped: {result.exc}"
        raise result.exc
    runtime.note(_SKIPPED)
    return " and skipped"


def _go_on(runtime: Runtime, state: Any, node: TimedOutNode, *, skip: bool) -> str:
    """After an earlier attempt that was committed: do what it has not done."""
    if state.name == states.FAILED:
        return "failed before" + (_skip(runtime, node) if skip else "")
    process = _waiting_process(state, node)
    if process is None:
        return "failed and skipped before"
    detail = runtime.get_node(node.node_id)
    info = runtime.get_process_info(process.id)
    runtime.execute(
        process_id=process.id,
        node_id=detail.target_nodes[0],
        root_pipeline_id=info.root_pipeline_id,
        parent_pipeline_id=info.top_pipeline_id,
    )
    return "failed and skipped before, sent on again"


def _waiting_process(state: Any, node: TimedOutNode) -> Any:
    """The process that waits at a node that we skipped; None if it has been sent on."""
    if _is_noted(node, SENT.format(state.version)):
        return None
    return Process.objects.filter(current_node_id=node.node_id, dead=False, asleep=True).first()
