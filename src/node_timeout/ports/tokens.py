"""Tokens for the HTTP API, as they are stored: by their hashes."""

from collections.abc import Sequence
from typing import Protocol

from node_timeout.domain.tokens import Token


class Tokens(Protocol):
    """The store of tokens."""

    async def add_token(self, token: Token) -> None: ...

    async def token_of(self, token_hash: str) -> Token | None:
        """The token of this hash, valid or not."""
        ...

    async def tokens(self) -> Sequence[Token]:
        """All of them, the oldest first."""
        ...

    async def has_tokens(self, now: float) -> bool:
        """Whether one is valid."""
        ...

    async def revoke_token(self, token_id: str, now: float) -> bool:
        """False if there is no valid one of this id."""
        ...
