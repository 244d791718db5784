"""``post_set_state`` of bamboo-engine → arm and disarm.

RUNNING arms, SUSPENDED pauses, and the end of a node disarms. When the root pipeline ends, its
configs expire.
A failure never reaches the engine: it is logged and counted, and later the worker's surveyor asks
the engine and arms the node.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from bamboo_engine import states
from pipeline.eri.signals import post_set_state

from node_timeout import metrics
from node_timeout.contrib.bamboo import client
from node_timeout.domain.errors import GreenThreadsError
from node_timeout.engines.bamboo.own_signals import is_ours

logger = logging.getLogger(__name__)

LEFT = frozenset({states.FINISHED, states.FAILED, states.REVOKED})
ENDED = frozenset({states.FINISHED, states.REVOKED})
"""The states in which a pipeline has ended for good."""
SLOW_SECONDS = 1.0
REST_SECONDS = 10.0


class _Rest:
    """After a call that failed slowly, no call is tried for a while: the engine must not wait."""

    until = 0.0
    """When calls are tried again, on this host's monotonic clock."""


class _Patched:
    """gevent or eventlet patched this process after its start: log it once, count every event."""

    is_logged = False


def connect() -> None:
    post_set_state.connect(on_post_set_state, dispatch_uid="node_timeout")


def _tell(node_id: str, to_state: str, version: str, root: str | None) -> None:
    if node_id == root:  # the pipeline itself, which has no timeout
        if to_state in ENDED:
            client().root_finished(root)
    elif to_state == states.RUNNING:
        client().node_started(node_id, version, root)
    elif to_state == states.SUSPENDED:
        client().node_paused(node_id, version, root)
    elif to_state in LEFT:
        client().node_left(node_id, version, root, trust_ledger=True)


def on_post_set_state(
    sender: Any, node_id: str, to_state: str, version: str, root_id: str | None = None, **_more: Any
) -> None:
    """Receiver of the signal; docs/how-to/use-with-bamboo-engine.md tells what it costs."""
    del sender
    root = root_id or None  # a node paused before it began has no root yet
    began = time.monotonic()
    try:
        if is_ours():
            return
        if began < _Rest.until:
            metrics.EVENTS_MISSED.inc()
        else:
            _tell(node_id, to_state, version, root)
    except GreenThreadsError as error:
        metrics.EVENTS_MISSED.inc()
        if not _Patched.is_logged:
            _Patched.is_logged = True
            logger.error("no state of any node is recorded: %s", error)  # noqa: TRY400 - no fault
    except Exception as error:  # noqa: BLE001 - the engine's own step goes on, whatever happened
        metrics.EVENTS_MISSED.inc()
        if time.monotonic() - began > SLOW_SECONDS:
            _Rest.until = time.monotonic() + REST_SECONDS
        logger.error(  # noqa: TRY400 - one line: an outage hits every node
            "node %s: that it is %s was not recorded: %s",
            node_id,
            to_state,
            error,
            extra={"node_id": node_id, "version": version, "root_pipeline_id": root},
        )
