"""Every error this package raises, in one tree.

A ``TemporaryError`` may go away on a retry; every other error will happen again.
"""

from __future__ import annotations

from collections.abc import Sequence

SHOWN_PROBLEMS = 50


def joined(sentences: Sequence[str]) -> str:
    """Sentences in one line: the first `SHOWN_PROBLEMS` of them, and how many more there are."""
    more = len(sentences) - SHOWN_PROBLEMS
    return "; ".join([*sentences[:SHOWN_PROBLEMS], *([f"and {more} more"] if more > 0 else [])])


class NodeTimeoutError(Exception):
    """The base of all errors of this package."""


class InvalidInputError(NodeTimeoutError, ValueError):
    """Something a caller passed is wrong. ``problems`` lists every fault, one sentence each.

    The text of the error holds the first faults, and how many more there are.
    """

    def __init__(self, *problems: str) -> None:
        super().__init__(joined(problems))
        self.problems = problems


class InvalidPipelineTreeError(InvalidInputError):
    """The pipeline tree cannot be walked."""


class InvalidTimeoutConfigError(InvalidInputError):
    """A timeout config names no node in the tree, or has a wrong key, action or number."""


class InvalidNodeRunError(InvalidInputError):
    """An id or a version is empty, too long, not text, or has a forbidden character."""


class AmbiguousNodeError(InvalidInputError):
    """A node id has timeout configs in several root pipelines, and the caller named none."""


class UnreadableMessageError(NodeTimeoutError):
    """A message is not JSON, has an unknown schema number, or lacks a field of the schema."""


class SettingsError(NodeTimeoutError):
    """A setting is missing or wrong."""


class GreenThreadsError(NodeTimeoutError):
    """gevent or eventlet has patched modules that an event loop in its own thread needs."""


class SchemaError(NodeTimeoutError):
    """The database's tables do not match this version."""


class LedgerError(NodeTimeoutError):
    """The database refused a statement; a retry does not help."""


class QueueMismatchError(NodeTimeoutError):
    """A queue or an exchange of this name exists with other arguments."""


class StrategyError(NodeTimeoutError):
    """A strategy cannot be loaded."""


class StrategyRefusedError(NodeTimeoutError):
    """A strategy or an engine refuses a node run: the run becomes ``dead``, without a retry."""


class NodeRunSupersededError(NodeTimeoutError):
    """The engine has moved on from this node run: the run becomes ``stale``."""


class TemporaryError(NodeTimeoutError):
    """A retry may succeed."""

    def __init__(self, message: str = "", *, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """Seconds: the next attempt should wait at least this long; capped at a year."""


class PoolUnavailableError(TemporaryError):
    """Redis cannot be reached or is not ready."""


class LedgerUnavailableError(TemporaryError):
    """The database cannot be reached, or it asks for a retry of the transaction."""


class ExchangeUnavailableError(TemporaryError):
    """RabbitMQ cannot be reached, or did not confirm a message."""


class NotConfirmedError(ExchangeUnavailableError):
    """A message was sent but not confirmed in time: it may still arrive."""


class EngineUnavailableError(TemporaryError):
    """The workflow engine cannot be reached, or it asks to be called again later."""


class EngineRestingError(EngineUnavailableError):
    """The circuit is open after too many recent failures: the engine was not called."""
