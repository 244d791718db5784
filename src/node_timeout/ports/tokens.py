"""Tokens for the HTTP API, stored by their hashes."""

from collections.abc import Sequence
from typing import Protocol

from node_timeout.domain.tokens import Token


class Tokens(Protocol):
    """The store of tokens."""

    async def add_token(self, token: Token) -> None: ...

    async def token_of(self, token_hash: str) -> Token | None:
        """The token with this hash, valid or not; None if there is none."""
        ...

    async def tokens(self) -> Sequence[Token]:
        """All tokens, oldest first."""
        ...

    async def has_tokens(self, valid_at: float | None = None) -> bool:
        """Whether any token was ever made; with ``valid_at``, whether one is valid then."""
        ...

    async def revoke_token(self, token_id: str, now: float) -> bool:
        """Revoke the token; False if there is no valid token with this id."""
        ...
