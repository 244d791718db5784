"""Tokens: who may do what over HTTP. A token is shown once; only its hash is stored.

    nt_<role>_<43 characters>      32 random bytes in URL-safe base64

The text names the role so that a person sees what they hold; the stored role is what counts.
"""

from __future__ import annotations

import hashlib
import re
import secrets

from node_timeout.older_python import StrEnum, dataclass

TOKEN_BYTES = 32
MAX_NAME_LENGTH = 128


class Role(StrEnum):
    """What the holder of a token may do."""

    READ = "read"
    """Read everything."""
    EVENTS = "events"
    """Send the events of an engine's nodes; nothing else."""
    OPERATE = "operate"
    """Read, and change running deadlines."""
    ADMIN = "admin"
    """All of the above, and store and delete configs."""

    def may(self, needed: Role) -> bool:
        return needed in _MAY[self]


_MAY = {
    Role.READ: (Role.READ,),
    Role.EVENTS: (Role.EVENTS,),
    Role.OPERATE: (Role.READ, Role.OPERATE),
    Role.ADMIN: tuple(Role),
}
_FORM = re.compile(rf"nt_(?:{'|'.join(Role)})_[A-Za-z0-9_-]{{43}}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A token as it is stored, without its text."""

    token_id: str
    """The first 12 characters of the hash: the token's name in lists and logs."""
    token_hash: str
    """SHA-256 of its text, 64 hexadecimal digits."""
    name: str
    role: Role
    created_at: float
    expires_at: float | None = None
    revoked_at: float | None = None

    def is_valid(self, now: float) -> bool:
        is_over = self.expires_at is not None and self.expires_at <= now
        return self.revoked_at is None and not is_over


def new_token(
    role: Role, name: str, now: float, expires_at: float | None = None
) -> tuple[str, Token]:
    """The token's text, which is never shown again, and the token to store."""
    text = f"nt_{role}_{secrets.token_urlsafe(TOKEN_BYTES)}"
    found = hash_of(text)
    token = Token(
        token_id=found[:12],
        token_hash=found,
        name=name,
        role=role,
        created_at=now,
        expires_at=expires_at,
    )
    return text, token


def is_token(text: str) -> bool:
    """Whether the text has the form of a token."""
    return _FORM.fullmatch(text) is not None


def hash_of(text: str) -> str:
    """The hash of a token. It needs no salt or stretching: a token holds 256 random bits."""
    return hashlib.sha256(text.encode()).hexdigest()
