"""Tokens of the HTTP API in the ledger's database."""

import logging
from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from node_timeout.domain.tokens import Role, Token
from node_timeout.stores.sql.database import HasEngine, transaction
from node_timeout.stores.sql.tables import tokens as table

logger = logging.getLogger(__name__)

ROLES = {each.value: each for each in Role}


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
        return [token for row in found if (token := _token(row))]

    @transaction
    async def has_tokens(self, connection: AsyncConnection, valid_at: float | None = None) -> bool:
        valid = () if valid_at is None else _valid(valid_at)
        found = await connection.execute(select(func.count()).select_from(table).where(*valid))
        return bool(found.scalar_one())

    @transaction
    async def revoke_token(self, connection: AsyncConnection, token_id: str, now: float) -> bool:
        these = (table.c.token_id == token_id, *_valid(now))
        revoked = await connection.execute(update(table).where(*these).values(revoked_at=now))
        return bool(revoked.rowcount)


def _valid(now: float) -> tuple[ColumnElement[bool], ...]:
    lasts = or_(table.c.expires_at.is_(None), table.c.expires_at > now)
    return table.c.revoked_at.is_(None), lasts


def _token(row: Any) -> Token | None:
    """The token; None if its role is unknown, so that it gives no access."""
    if row.role not in ROLES:
        logger.error("the token %s has the unknown role %r: it is not used", row.token_id, row.role)
        return None
    return Token(**row._asdict() | {"role": ROLES[row.role]})
