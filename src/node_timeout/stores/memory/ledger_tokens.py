"""Tokens of the HTTP API in memory."""

import dataclasses
from collections.abc import Sequence

from node_timeout.domain.tokens import Token


class MemoryTokens:
    """See `node_timeout.ports.tokens.Tokens` for the contract."""

    def __init__(self) -> None:
        self._tokens: dict[str, Token] = {}

    async def add_token(self, token: Token) -> None:
        self._tokens[token.token_hash] = token

    async def token_of(self, token_hash: str) -> Token | None:
        return self._tokens.get(token_hash)

    async def tokens(self) -> Sequence[Token]:
        return sorted(self._tokens.values(), key=lambda token: token.created_at)

    async def has_tokens(self, now: float) -> bool:
        return any(token.is_valid(now) for token in self._tokens.values())

    async def revoke_token(self, token_id: str, now: float) -> bool:
        for token in self._tokens.values():
            if token.token_id == token_id and token.is_valid(now):
                self._tokens[token.token_hash] = dataclasses.replace(token, revoked_at=now)
                return True
        return False
