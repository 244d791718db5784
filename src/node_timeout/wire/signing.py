"""Signatures of HTTP bodies, in the form of Standard Webhooks (https://www.standardwebhooks.com).

    webhook-id: <idempotency key>
    webhook-timestamp: <Unix seconds>
    webhook-signature: v1,<base64 of HMAC-SHA256 over "<id>.<timestamp>.<body>">

A key that begins with ``whsec_`` is base64; any other key is used unchanged, in UTF-8.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping

from node_timeout.domain.errors import InvalidInputError

SECRET_PREFIX = "whsec_"  # noqa: S105 - how a key begins, not a key
TOLERANCE_SECONDS = 300.0


def key_of(secret: str) -> bytes:
    """The key as bytes. Raises `InvalidInputError`, also if it is empty: anyone could sign then."""
    key = secret.encode()
    if secret.startswith(SECRET_PREFIX):
        try:
            key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
        except binascii.Error:
            raise InvalidInputError(f"a signing key behind {SECRET_PREFIX} is not base64") from None
    if not key:
        raise InvalidInputError("a signing key is empty")
    return key


def sign(secret: str, *, message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The three signature headers."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    digest = hmac.new(key_of(secret), signed, hashlib.sha256).digest()
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": "v1," + base64.b64encode(digest).decode(),
    }


def verify(
    secret: str,
    headers: Mapping[str, str],
    body: bytes,
    *,
    now: float,
    tolerance: float = TOLERANCE_SECONDS,
) -> bool:
    """Whether the body is signed with this key, and at most ``tolerance`` seconds ago.

    Upper or lower case in the names of ``headers`` does not matter. Pass the received body, not one
    parsed and serialised again. Raises `InvalidInputError` if the key is invalid.
    """
    key_of(secret)
    found = {name.lower(): value for name, value in headers.items()}
    try:
        timestamp = int(found["webhook-timestamp"])
        expected = sign(secret, message_id=found["webhook-id"], timestamp=timestamp, body=body)
        signatures = found["webhook-signature"].split(" ")
    except (KeyError, ValueError):
        return False
    return abs(now - timestamp) <= tolerance and any(
        hmac.compare_digest(expected["webhook-signature"].encode(), each.encode())
        for each in signatures
    )
