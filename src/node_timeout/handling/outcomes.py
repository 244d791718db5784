"""The outcome of an attempt as text for the ledger and the log."""

import logging
import math

from node_timeout.domain.run import Outcome, RunState, TimedOutNode

logger = logging.getLogger(__name__)

MAX_MESSAGE_LENGTH = 2000
LONGEST_WAIT_SECONDS = 366 * 86400.0


def named_wait(seconds: object) -> float:
    """A wait that a strategy or an engine asked for, in seconds: 0 to `LONGEST_WAIT_SECONDS`.

    A value that is not a number counts as 0.
    """
    if not isinstance(seconds, int | float):
        return 0.0
    wait = float(min(max(seconds, 0), LONGEST_WAIT_SECONDS))
    return 0.0 if math.isnan(wait) else wait


def outcome_of(
    node: TimedOutNode,
    state: RunState,
    text: str,
    due_at: float | None = None,
    *,
    called: bool = True,
) -> Outcome:
    """The outcome of an attempt; ``text`` is changed so that the ledger can store it."""
    # Python accepts NUL in text but PostgreSQL does not; UTF-8 cannot encode surrogates.
    text = text.replace("\0", "").encode("utf-8", "replace").decode()[:MAX_MESSAGE_LENGTH]
    return Outcome(node=node, state=state, message=text, due_at=due_at, called=called)


def log_outcome(outcome: Outcome) -> None:
    """Log one line for an outcome, with the ids of its node."""
    node = outcome.node
    level = logging.INFO if outcome.state in (RunState.HANDLED, RunState.STALE) else logging.WARNING
    if not logger.isEnabledFor(level):
        return
    logger.log(
        level,
        "node %s version %s: %s at attempt %d: %s",
        node.node_id,
        node.version,
        outcome.state,
        node.attempt,
        outcome.message,
        extra=ids_of(node) | {"state": str(outcome.state)},
    )


def ids_of(node: TimedOutNode) -> dict[str, str | float]:
    """The fields of every log line about this node, and of its span."""
    return {
        "node_id": node.node_id,
        "version": node.version,
        "root_pipeline_id": node.root_pipeline_id,
        "action": node.action,
        "attempt": node.attempt,
    }
