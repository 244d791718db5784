"""Tokens of the HTTP API in the ledger's database."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from node_timeout.domain.tokens import Role, Token
from node_timeout.stores.sql.database import HasEngine, transaction
from node_timeout.stores.sql.tables import tokens as table


class LedgerTokens(HasEngine):
    """See `node_timeout.ports.tokens.Tokens` for the contract."""

    @transaction
    async def add_token(self, connection: AsyncConnection, token: Token) -> None:
        values = {column.name: getattr(token, column.name) for column in table.c}
        await connection.execute(table.insert(), [values])

    @transaction
    async def token_of(self, connection: AsyncConnection, token_hash: str) -> Token | None:
        found = await connection.execute(select(table).where(table.c.token_hash == token_hash))
        row = found.one_or_none()
        return None if row is None else _token(row)

    @transaction
    async def tokens(self, connection: AsyncConnection) -> Sequence[Token]:
        found = await connection.execute(select(table).order_by(table.c.created_at))
        return [_token(row) for row in found]

    @transaction
    async def has_tokens(self, connection: AsyncConnection, now: float) -> bool:
        found = await connection.execute(
            select(func.count()).select_from(table).where(*_valid(now))
        )
        return bool(found.scalar_one())

    @transaction
    async def revoke_token(self, connection: AsyncConnection, token_id: str, now: float) -> bool:
        these = (table.c.token_id == token_id, *_valid(now))
        revoked = await connection.execute(update(table).where(*these).values(revoked_at=now))
        return bool(revoked.rowcount)


def _valid(now: float) -> tuple[ColumnElement[bool], ...]:
    lasts = or_(table.c.expires_at.is_(None), table.c.expires_at > now)
    return table.c.revoked_at.is_(None), lasts


def _token(row: Any) -> Token:
    values = row._asdict()
    return Token(**values | {"role": Role(values["role"])})
