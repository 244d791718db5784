"""Strategy ``webhook``: notify a URL that a node has timed out, and leave the node running.

The body is a CloudEvents 1.0 event in its structured JSON form. `node_timeout.wire.signing`
describes its signature. Any 2xx answer means received.
"""

from typing import Any, Self

from node_timeout.domain.errors import StrategyRefusedError, TemporaryError
from node_timeout.domain.instants import utc
from node_timeout.domain.run import TimedOutNode
from node_timeout.engines.http_calls import HttpCalls
from node_timeout.ports.engine import Engine
from node_timeout.setting_rules import variable
from node_timeout.settings import Settings
from node_timeout.strategies.base import NodeTimeoutStrategy, StrategyResult
from node_timeout.wire.engine_calls import idempotency_key

CONTENT_TYPE = "application/cloudevents+json"
EVENT_TYPE = "node_timeout.node.timed_out"
SOURCE = "/node-timeout"
REFUSED = (400, 410, 413, 422)


class WebhookStrategy(NodeTimeoutStrategy):
    """One POST for each timed-out node; retried until it is received or refused."""

    def __init__(self, engine: Engine, calls: HttpCalls | None) -> None:
        super().__init__(engine)
        self._calls = calls

    @classmethod
    def build(cls, engine: Engine, settings: Settings) -> Self:
        if settings.webhook_url is None:
            return cls(engine, None)
        calls = HttpCalls(
            settings.webhook_url.get_secret_value(),
            settings,
            token=settings.webhook_token,
            signing_key=settings.webhook_signing_key,
            unavailable=TemporaryError,
        )
        return cls(engine, calls)

    async def close(self) -> None:
        if self._calls:
            await self._calls.close()

    async def deal_with_timeout_node(self, node: TimedOutNode) -> StrategyResult:
        if self._calls is None:
            raise TemporaryError(f"{variable('webhook_url')} is not set")
        event = cloud_event(node)
        answer = await self._calls.post(
            "",
            event,
            message_id=event["id"],
            idempotency_key=event["id"],
            content_type=CONTENT_TYPE,
        )
        if 200 <= answer.status < 300:  # noqa: PLR2004 - success
            return StrategyResult(True, "the webhook was told")
        told = f"the webhook answered {answer.status}: {answer.message}"
        if answer.status in REFUSED:
            raise StrategyRefusedError(told)
        raise TemporaryError(told, retry_after=answer.retry_after)


def cloud_event(node: TimedOutNode) -> dict[str, Any]:
    """The event; every attempt for one node run has the same id.

    ``time``, which CloudEvents does not require, is left out if the calendar has no such instant.
    """
    deadline = utc(node.deadline)
    time = {"time": deadline.isoformat().replace("+00:00", "Z")} if deadline else {}
    return {
        "specversion": "1.0",
        "id": idempotency_key("webhook", node),
        "source": SOURCE,
        "type": EVENT_TYPE,
        "subject": node.node_id,
        **time,
        "datacontenttype": "application/json",
        "data": {
            "node_id": node.node_id,
            "version": node.version,
            "root_pipeline_id": node.root_pipeline_id,
            "action": node.action,
            "started_at": node.started_at,
            "seconds": node.seconds,
            "deadline": node.deadline,
            "attempt": node.attempt,
            "payload": node.payload,
        },
    }
