"""Operations on the tokens of the HTTP API."""

from node_timeout.domain.errors import InvalidInputError
from node_timeout.domain.hints import shown
from node_timeout.domain.ids import id_problem
from node_timeout.domain.tokens import MAX_NAME_LENGTH, Role, Token, new_token
from node_timeout.ports.pool import Pool
from node_timeout.ports.tokens import Tokens


async def create(
    tokens: Tokens, pool: Pool, *, role: Role | str, name: str, expires_in: float | None
) -> tuple[str, Token]:
    """See `NodeTimeout.create_token`."""
    if role not in set(Role):
        raise InvalidInputError(f"role {shown(role)} is none of {', '.join(Role)}")
    if problem := id_problem("name", name, MAX_NAME_LENGTH):
        raise InvalidInputError(problem)
    if expires_in is not None and not expires_in > 0:
        raise InvalidInputError(
            f"expires_in {shown(expires_in)} is not a number of seconds above 0"
        )
    now = await pool.now()
    expires_at = None if expires_in is None else now + expires_in
    text, token = new_token(Role(role), name, now, expires_at)
    await tokens.add_token(token)
    return text, token
