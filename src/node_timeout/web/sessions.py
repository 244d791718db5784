"""Logins of the console: a token's hash in a signed cookie. The token itself is kept nowhere.

<hash>.<end of the session, Unix seconds>.<HMAC-SHA256 of both, base64>
"""

import base64
import hashlib
import hmac
import secrets

from node_timeout.domain.tokens import hash_of

COOKIE = "node_timeout_session"
SESSION_SECONDS = 12 * 3600


class Sessions:
    """Signs and reads the cookie."""

    def __init__(self, key: str | None) -> None:
        """Without a key, logins last as long as this process."""
        self._key = (key or secrets.token_urlsafe(32)).encode()

    def begin(self, token: str, now: float) -> str:
        """The cookie of a user who has logged in with this token."""
        said = f"{hash_of(token)}.{int(now) + SESSION_SECONDS}"
        return f"{said}.{self._sign(said)}"

    def token_hash(self, cookie: str, now: float) -> str | None:
        """The hash of the login's token; None if the cookie is not ours, or has expired."""
        said, _, signature = cookie.rpartition(".")
        if not hmac.compare_digest(self._sign(said).encode(), signature.encode()):
            return None
        found, _, ends = said.partition(".")
        return found if int(ends) > now else None

    def _sign(self, said: str) -> str:
        digest = hmac.new(self._key, said.encode(), hashlib.sha256).digest()
        return base64.urlsafe_b64encode(digest).decode().rstrip("=")
