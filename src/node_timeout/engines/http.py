"""Engine ``http``: any engine that speaks the contract in ``docs/reference/engine.openapi.yaml``.

Three operations, each a POST with the node run in its body:

    /v1/state   is it running at this version?    200 {"running": bool}
    /v1/fail    fail it                           200
    /v1/skip    fail it and let the pipeline go on behind it, in one step

With `engine_survey` there is a fourth, which asks about many nodes:

    /v1/running which of these nodes run?         200 {"runs": […]}
"""

import contextlib
import uuid
from collections.abc import Sequence

from node_timeout.domain.errors import (
    EngineUnavailableError,
    InvalidNodeRunError,
    NodeRunSupersededError,
    SettingsError,
    StrategyRefusedError,
    UnreadableMessageError,
)
from node_timeout.domain.events import NodeStarted
from node_timeout.domain.run import Node, TimedOutNode
from node_timeout.engines.http_calls import Answer, HttpCalls
from node_timeout.setting_rules import variable
from node_timeout.settings import Settings
from node_timeout.wire.engine_calls import (
    SURVEY,
    SURVEYED_AT_ONCE,
    read_survey_answer,
    request_body,
    survey_body,
)

SUPERSEDED = (409, 410)
REFUSED = (400, 422)
MISTAKES = {
    401: f"is {variable('engine_token')} or {variable('engine_signing_key')} right?",
    403: f"is {variable('engine_token')} or {variable('engine_signing_key')} right?",
    404: f"is {variable('engine_url')} right?",
    405: f"is {variable('engine_url')} right?",
}


def http_engine(settings: Settings) -> "HttpEngine":
    """The engine that the settings name. Raises `SettingsError`."""
    return SurveyableHttpEngine(settings) if settings.engine_survey else HttpEngine(settings)


class HttpEngine:
    """See `node_timeout.ports.Engine`."""

    def __init__(self, settings: Settings) -> None:
        """Raises `SettingsError`."""
        if settings.engine_url is None:
            raise SettingsError(f"{variable('engine_url')} is not set")
        self._calls = HttpCalls(
            settings.engine_url,
            settings,
            token=settings.engine_token,
            signing_key=settings.engine_signing_key,
            unavailable=EngineUnavailableError,
        )

    async def is_running(self, node: TimedOutNode) -> bool:
        answer = await self._call("state", node)
        if answer.status in SUPERSEDED:
            return False
        _check(answer)
        running = answer.json.get("running")
        if not isinstance(running, bool):
            raise EngineUnavailableError(
                f"the engine answered {answer.message!r}, not an object with a bool 'running'"
            )
        return running

    async def forced_fail(self, node: TimedOutNode, reason: str) -> str:
        return _check(await self._call("fail", node, reason)) or "failed"

    async def forced_fail_and_skip(self, node: TimedOutNode, reason: str) -> str:
        return _check(await self._call("skip", node, reason)) or "failed and skipped"

    async def check(self) -> str:
        """Ask for the state of a node that does not exist in any engine."""
        nobody = TimedOutNode(
            node_id="node-timeout-check",
            version="0",
            root_pipeline_id="node-timeout-check",
            action="check",
            deadline=0.0,
            attempt=1,
        )
        with contextlib.suppress(StrategyRefusedError):  # a refusal is an answer, too
            await self.is_running(nobody)
        return "it answers"

    async def close(self) -> None:
        await self._calls.close()

    async def _survey(self, nodes: Sequence[Node]) -> list[NodeStarted]:
        answer = await self._calls.post(
            f"/v1/{SURVEY}", survey_body(nodes), message_id=uuid.uuid4().hex
        )
        _check(answer)
        try:
            return read_survey_answer(answer.json)
        except (UnreadableMessageError, InvalidNodeRunError) as error:
            raise EngineUnavailableError(f"the engine's answer to {SURVEY}: {error}") from error

    async def _call(self, operation: str, node: TimedOutNode, reason: str = "") -> Answer:
        body = request_body(operation, node, reason)
        key = body["idempotency_key"]
        # ``state`` has no effect, and its answer must be fresh: without the header, no layer in
        # between replays an old answer by its key.
        header = None if operation == "state" else key
        return await self._calls.post(
            f"/v1/{operation}", body, message_id=key, idempotency_key=header
        )


class SurveyableHttpEngine(HttpEngine):
    """An HTTP engine that also has the operation `running`."""

    async def running(self, nodes: Sequence[Node]) -> list[NodeStarted]:
        found: list[NodeStarted] = []
        for i in range(0, len(nodes), SURVEYED_AT_ONCE):
            found += await self._survey(nodes[i : i + SURVEYED_AT_ONCE])
        return found


def _check(answer: Answer) -> str:
    """What the engine reports that it did; raises if the answer is an error."""
    status, message = answer.status, answer.message
    if 200 <= status < 300:  # noqa: PLR2004 - success
        return str(answer.json.get("message") or "")
    if status in SUPERSEDED:
        raise NodeRunSupersededError(message or "the engine has moved on")
    if status in REFUSED and answer.body.lstrip().startswith(b"<"):
        raise EngineUnavailableError(
            f"a web server answered {status} with a page, not the engine: is "
            f"{variable('engine_url')} right, and its host one that the server serves?"
        )
    if status in REFUSED:
        raise StrategyRefusedError(f"the engine refuses ({status}): {message}")
    hint = MISTAKES.get(status, "it is not followed" if 300 <= status < 400 else message)  # noqa: PLR2004
    raise EngineUnavailableError(
        f"the engine answered {status}: {hint}", retry_after=answer.retry_after
    )
