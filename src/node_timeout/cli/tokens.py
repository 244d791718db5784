"""Commands for the tokens of the HTTP API.

Each imports its dependencies when it is called, so that ``--help`` is fast.
"""

import click

from node_timeout.cli.options import duration, json_option
from node_timeout.cli.running import FAILURE, complain, with_library
from node_timeout.domain.tokens import Role


@click.group()
def token() -> None:
    """Create, list and revoke tokens for the HTTP API."""


@token.command()
@click.option(
    "--role",
    type=click.Choice([each.value for each in Role]),
    required=True,
    help="Role of the token: what its holder may do.",
)
@click.option("--name", required=True, help="Who holds the token; appears in the history of runs.")
@click.option(
    "--expires-in", callback=duration, help="How long the token is valid, for example P90D."
)
def create(role: str, name: str, expires_in: float | None) -> int:
    """Create a token and print it once: only its hash is stored."""
    text, made = with_library(lambda app: app.create_token(role, name, expires_in=expires_in))
    click.echo(f"token {made.token_id} of {made.name}, role {made.role}:", err=True)
    click.echo(text)
    return 0


@token.command("list")
@json_option
def list_tokens(*, as_json: bool) -> int:
    """List all tokens that were created, without their text."""
    from node_timeout.cli.tables import print_tokens  # noqa: PLC0415
    from node_timeout.operations.forms import json_text, token_as_dict  # noqa: PLC0415

    found = with_library(lambda app: app.tokens())
    if as_json:
        click.echo(json_text({"tokens": [token_as_dict(each) for each in found]}))
    else:
        print_tokens(found)
    return 0


@token.command()
@click.argument("token_id")
def revoke(token_id: str) -> int:
    """Revoke the token with this id, which `token list` shows.

    It may still be accepted for five seconds. Exit code 1 if no valid token has this id.
    """
    if not with_library(lambda app: app.revoke_token(token_id)):
        return complain(f"no valid token has the id {token_id!r}", FAILURE)
    click.echo(f"token {token_id} is revoked")
    return 0
