"""HTTP calls to engines and webhooks: signed, bounded, never redirected."""

import asyncio
import json
import re
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import httpx
from pydantic import SecretStr

from node_timeout import tracing
from node_timeout.domain.errors import SettingsError, TemporaryError
from node_timeout.settings import Settings
from node_timeout.urls.redaction import presentable, redact, remember
from node_timeout.wire.signing import key_of, sign

CONNECT_SECONDS = 5.0
MAX_ANSWER_BYTES = 64 * 1024
MAX_RETRY_AFTER_SECONDS = 3600.0
MAX_TOLD_CHARACTERS = 300
TOKEN = re.compile(r"[!-~]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An answer; its body is cut off after `MAX_ANSWER_BYTES`."""

    status: int
    retry_after: float
    """Seconds that the server asks to wait; 0 if it does not."""
    body: bytes

    @property
    def json(self) -> Mapping[str, Any]:
        """The body if it is a JSON object, else an empty object."""
        try:
            value = json.loads(self.body)
        except (ValueError, RecursionError):
            return {}
        return value if isinstance(value, dict) else {}

    @property
    def message(self) -> str:
        """The answer's ``message``, else the beginning of its body; secrets are redacted."""
        said = self.json.get("message")
        text = said if isinstance(said, str) else self.body.decode("utf-8", "replace")
        return " ".join(redact(text).split())[:MAX_TOLD_CHARACTERS]


class HttpCalls:
    """Posts JSON to one server over kept connections."""

    def __init__(
        self,
        url: str,
        settings: Settings,
        *,
        token: SecretStr | None,
        signing_key: SecretStr | None,
        unavailable: type[TemporaryError],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``unavailable``: what to raise if no answer comes. Raises `SettingsError`."""
        self._url = url.rstrip("/")
        parts = urlsplit(url)
        self._server = f"{parts.scheme}://{parts.hostname}" + (
            f":{parts.port}" if parts.port else ""
        )
        """The part of the URL that errors may show: the path may be a secret."""
        self._slots = asyncio.Semaphore(settings.http_connections)
        self._seconds = settings.http_timeout
        self._token = token.get_secret_value() if token else ""
        self._key = signing_key.get_secret_value() if signing_key else ""
        remember(self._token)
        remember(self._key)
        self._unavailable = unavailable
        self._clock = clock
        if self._token and not TOKEN.fullmatch(self._token):
            raise SettingsError(
                f"the token for {self._server} has white space or other characters that no header "
                f"may have"
            )
        try:
            if signing_key:
                key_of(self._key)
            trust: ssl.SSLContext | bool = True
            if settings.http_ca_file:
                trust = ssl.create_default_context(cafile=str(settings.http_ca_file))
        except (ValueError, OSError) as error:
            raise SettingsError(f"for {self._server}: {error}") from error
        connections = settings.http_connections
        self._client = httpx.AsyncClient(
            verify=trust,
            follow_redirects=False,
            trust_env=False,
            timeout=httpx.Timeout(
                self._seconds, connect=min(CONNECT_SECONDS, self._seconds), pool=None
            ),
            limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
            headers={
                "User-Agent": "node-timeout",
                "Accept": "application/json",
                "Accept-Encoding": "identity",
            },
        )

    async def close(self) -> None:
        await self._client.aclose()

    async def post(
        self,
        path: str,
        value: Mapping[str, Any],
        *,
        message_id: str,
        idempotency_key: str | None = None,
        content_type: str = "application/json",
    ) -> Answer:
        """Post a value. The time limit does not include waiting for a free connection."""
        body = json.dumps(
            value, separators=(",", ":"), ensure_ascii=False, allow_nan=False
        ).encode()
        headers = {"Content-Type": content_type} | tracing.headers()
        if idempotency_key:
            headers["Idempotency-Key"] = idempotency_key
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        if self._key:
            headers |= sign(
                self._key,
                message_id=message_id,
                timestamp=int(self._clock()),
                body=body,
            )
        url = self._url + path
        try:
            async with (
                self._slots,
                asyncio.timeout(self._seconds),
                self._client.stream("POST", url, content=body, headers=headers) as response,
            ):
                answer = await _read(response)
        except httpx.LocalProtocolError:
            # The error's text may quote a header, and with it a secret.
            raise self._unavailable(f"{self._server}: the request cannot be written") from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError, TimeoutError) as error:
            text = redact(str(error)) or f"no answer within {self._seconds:g} s"
            raise self._unavailable(f"{self._server}: {text}") from presentable(error)
        return Answer(
            status=response.status_code,
            retry_after=self._retry_after(response.headers.get("Retry-After", "")),
            body=answer,
        )

    def _retry_after(self, value: str) -> float:
        """The seconds to wait, from a number or an HTTP date; 0 for anything else."""
        try:
            if value.strip().isdigit():
                seconds = float(value)
            else:
                date = parsedate_to_datetime(value)
                date = date if date.tzinfo else date.replace(tzinfo=UTC)
                seconds = (date - datetime.fromtimestamp(self._clock(), UTC)).total_seconds()
        except (ValueError, TypeError, OverflowError):
            return 0.0
        return min(max(seconds, 0.0), MAX_RETRY_AFTER_SECONDS)


async def _read(response: httpx.Response) -> bytes:
    found = bytearray()
    async for chunk in response.aiter_raw():
        found += chunk
        if len(found) >= MAX_ANSWER_BYTES:
            break
    return bytes(found[:MAX_ANSWER_BYTES])
