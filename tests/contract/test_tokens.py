"""The contract of the tokens, on each database and in memory."""

import pytest

from node_timeout.domain.tokens import Role, hash_of, is_token, new_token
from node_timeout.ports.tokens import Tokens

NOW = 1_795_448_948.5


@pytest.fixture
def tokens(any_store: Tokens) -> Tokens:
    return any_store


async def test_a_token_is_found_by_its_hash_alone(tokens: Tokens) -> None:
    assert not await tokens.has_tokens()
    text, token = new_token(Role.OPERATE, "ann 慢", NOW, NOW + 60)
    await tokens.add_token(token)
    assert await tokens.token_of(hash_of(text)) == token
    assert await tokens.token_of(hash_of(text + "x")) is None
    assert await tokens.token_of(text) is None
    assert text not in repr(await tokens.tokens())
    assert await tokens.has_tokens()


async def test_a_token_ends_by_its_time_or_by_hand(tokens: Tokens) -> None:
    _, short = new_token(Role.READ, "short", NOW, NOW + 60)
    _, lasting = new_token(Role.ADMIN, "lasting", NOW + 1)
    for token in (short, lasting):
        await tokens.add_token(token)
    assert [each.name for each in await tokens.tokens()] == ["short", "lasting"]
    assert await tokens.has_tokens(NOW + 999)
    assert not await tokens.revoke_token(short.token_id, NOW + 61), "it had ended"
    assert await tokens.revoke_token(lasting.token_id, NOW + 70)
    assert not await tokens.revoke_token(lasting.token_id, NOW + 71)
    assert not await tokens.has_tokens(NOW + 999)
    assert await tokens.has_tokens(), "one was made"
    (_, found) = await tokens.tokens()
    assert found.revoked_at == NOW + 70
    assert not found.is_valid(NOW + 80)


def test_a_token_says_what_it_is_for_and_is_never_the_same() -> None:
    made = {new_token(role, "x", NOW)[0] for role in Role for _ in range(20)}
    assert len(made) == 20 * len(Role)
    for text in made:
        assert is_token(text)
        assert text.startswith(tuple(f"nt_{role}_" for role in Role))
    for text in (
        "",
        "nt_read_",
        "nt_root_" + "a" * 43,
        "nt_read_" + "a" * 42,
        "nt_read_" + "é" * 43,
    ):
        assert not is_token(text)


def test_what_a_role_may_do() -> None:
    may = {role: {needed for needed in Role if role.may(needed)} for role in Role}
    assert may == {
        Role.READ: {Role.READ},
        Role.EVENTS: {Role.EVENTS},
        Role.OPERATE: {Role.READ, Role.OPERATE},
        Role.ADMIN: set(Role),
    }
