"""Further rules for an engine behind HTTP: it must refuse unauthorised and unknown calls.

See docs/reference/engine.openapi.yaml. Nothing here touches an existing node.
"""

import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from pydantic import SecretStr

from node_timeout.domain.errors import EngineUnavailableError, SettingsError
from node_timeout.domain.run import TimedOutNode
from node_timeout.engines.http import REFUSED, SurveyableHttpEngine, http_engine
from node_timeout.engines.http_calls import HttpCalls
from node_timeout.setting_rules import variable
from node_timeout.settings import Settings
from node_timeout.testing.conformance import (
    NODE_RULES,
    REASON,
    SAFE_RULES,
    Act,
    ConformanceError,
    Finding,
    name_of,
    nobody,
    try_rule,
)
from node_timeout.wire.engine_calls import SCHEMA, request_body

OLD_SECONDS = 3600.0
FORBIDDEN = (401, 403)
WRONG = SecretStr("wrong")

Rules = dict[str, Callable[[], Awaitable[None]]]


async def check_http_engine(
    settings: Settings, node: TimedOutNode | None, act: Act
) -> list[Finding]:
    """Check every rule on the engine that the settings name; those on a node only if it is given.

    The node must run; in the end ``act`` fails or skips it. Raises `SettingsError`.
    """
    engine = http_engine(settings)
    rules: Rules = {name_of(rule): partial(rule, engine) for rule in SAFE_RULES}
    rules |= _HttpRules(settings).rules()
    if isinstance(engine, SurveyableHttpEngine):
        rules["an unknown node is not among those that run"] = partial(_surveyed, engine, None)
    if isinstance(engine, SurveyableHttpEngine) and node is not None:
        rules["a running node is among those that run"] = partial(_surveyed, engine, node)
    if node is not None:
        rules |= {name_of(rule): partial(rule, engine, node, act) for rule in NODE_RULES}
    try:
        return [await try_rule(name, rule) for name, rule in rules.items()]
    finally:
        await engine.close()


async def _surveyed(engine: SurveyableHttpEngine, node: TimedOutNode | None) -> None:
    """Survey a node that does not exist, and this one, if given, which does."""
    asked = [each for each in (nobody(), node) if each is not None]
    found = {each.run for each in await engine.running([each.run.node for each in asked])}
    wanted = set() if node is None else {node.run}
    if found != wanted:
        raise ConformanceError(f"the engine named {len(found)} runs; {len(wanted)} is right")


class _HttpRules:
    """Calls that node-timeout never makes, and how the engine must answer them."""

    def __init__(self, settings: Settings) -> None:
        """Raises `SettingsError` without an ``engine_url``."""
        if settings.engine_url is None:
            raise SettingsError(f"{variable('engine_url')} is not set")
        self._settings = settings
        self._url = settings.engine_url
        self._token = settings.engine_token
        self._key = settings.engine_signing_key

    def rules(self) -> Rules:
        found: Rules = {
            "an unknown schema is refused": partial(self._refused, schema=SCHEMA + 1),
            "an operation that is not that of the path is refused": partial(
                self._refused, operation="state"
            ),
        }
        if self._token:
            found["a call without a token is refused"] = partial(self._forbidden, None, self._key)
            found["a wrong token is refused"] = partial(self._forbidden, WRONG, self._key)
        if self._key:
            found["a call without a signature is refused"] = partial(
                self._forbidden, self._token, None
            )
            found["a wrong signature is refused"] = partial(self._forbidden, self._token, WRONG)
            found["a signature of an hour ago is refused"] = partial(
                self._forbidden, self._token, self._key, seconds_ago=OLD_SECONDS
            )
        return found

    async def _refused(self, **changes: Any) -> None:
        """A ``fail`` with these changes is not a valid call, and must be refused."""
        status = await self._fail(self._token, self._key, **changes)
        if status not in REFUSED:
            raise ConformanceError(f"the engine answered {status}; 400 is right")

    async def _forbidden(
        self, token: SecretStr | None, key: SecretStr | None, *, seconds_ago: float = 0.0
    ) -> None:
        status = await self._fail(token, key, seconds_ago)
        if status not in FORBIDDEN:
            raise ConformanceError(f"the engine answered {status}; 401 is right")

    async def _fail(
        self,
        token: SecretStr | None,
        key: SecretStr | None,
        seconds_ago: float = 0.0,
        **changes: Any,
    ) -> int:
        """Call ``fail`` for a node that does not exist; return the status of the answer."""
        calls = HttpCalls(
            self._url,
            self._settings,
            token=token,
            signing_key=key,
            unavailable=EngineUnavailableError,
            clock=lambda: time.time() - seconds_ago,
        )
        body = request_body("fail", nobody(), REASON)
        message_id = body["idempotency_key"]
        try:
            answer = await calls.post(
                "/v1/fail", body | changes, message_id=message_id, idempotency_key=message_id
            )
        finally:
            await calls.close()
        return answer.status
