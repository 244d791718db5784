"""Every error this package raises, in one tree.

``TemporaryError`` is the branch that a later try may cure; everything else will fail again.
"""

from __future__ import annotations

from collections.abc import Sequence

SHOWN_PROBLEMS = 50


def joined(sentences: Sequence[str]) -> str:
    """Sentences in one line; of more than `SHOWN_PROBLEMS` the first ones and how many more."""
    more = len(sentences) - SHOWN_PROBLEMS
    return "; ".join([*sentences[:SHOWN_PROBLEMS], *([f"and {more} more"] if more > 0 else [])])


class NodeTimeoutError(Exception):
    """The base of all errors of this package."""


class InvalidInputError(NodeTimeoutError, ValueError):
    """Something a caller passed is wrong. ``problems`` lists every fault, one sentence each.

    The text of the error holds the first of them, and how many more there are.
    """

    def __init__(self, *problems: str) -> None:
        super().__init__(joined(problems))
        self.problems = problems


class InvalidPipelineTreeError(InvalidInputError):
    """The pipeline tree cannot be walked."""


class InvalidTimeoutConfigError(InvalidInputError):
    """A timeout config names no node of the tree, or has a wrong key, action or number."""


class InvalidNodeRunError(InvalidInputError):
    """An id or a version is empty, too long, not text, or has a character it must not have."""


class AmbiguousNodeError(InvalidInputError):
    """A node id has timeout configs in several root pipelines, and none of them was named."""


class UnreadableMessageError(NodeTimeoutError):
    """A message is not JSON, has an unknown schema number, or lacks what the schema asks for."""


class SettingsError(NodeTimeoutError):
    """A setting is missing or wrong."""


class GreenThreadsError(NodeTimeoutError):
    """gevent or eventlet has replaced what an event loop in a thread of its own needs."""


class SchemaError(NodeTimeoutError):
    """The database's tables are not those of this version."""


class LedgerError(NodeTimeoutError):
    """The database refused a statement for good."""


class QueueMismatchError(NodeTimeoutError):
    """A queue or an exchange of this name exists with other arguments."""


class StrategyError(NodeTimeoutError):
    """A strategy cannot be loaded."""


class StrategyRefusedError(NodeTimeoutError):
    """A strategy or an engine refuses a node run for good: it becomes ``dead``, without retry."""


class NodeRunSupersededError(NodeTimeoutError):
    """The engine has moved on from this node run: it becomes ``stale``."""


class TemporaryError(NodeTimeoutError):
    """A later try may succeed."""

    def __init__(self, message: str = "", *, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """The next try should wait this long at least, seconds; a year at most is heeded."""


class PoolUnavailableError(TemporaryError):
    """Redis cannot be reached or is not ready."""


class LedgerUnavailableError(TemporaryError):
    """The database cannot be reached, or asked for the transaction to be tried again."""


class ExchangeUnavailableError(TemporaryError):
    """RabbitMQ cannot be reached, or did not confirm."""


class NotConfirmedError(ExchangeUnavailableError):
    """A message was sent and not confirmed in time: it may still arrive."""


class EngineUnavailableError(TemporaryError):
    """The workflow engine cannot be reached or asked to be called again later."""


class EngineRestingError(EngineUnavailableError):
    """The engine has failed too often of late: it was not called."""
