"""Commands for the tokens of the HTTP API.

Each imports what it needs, so that ``--help`` answers at once.
"""

import click

from node_timeout.cli.options import duration, json_option
from node_timeout.cli.running import FAILURE, complain, with_library
from node_timeout.domain.tokens import Role


@click.group()
def token() -> None:
    """Tokens for the HTTP API: make, list, revoke."""


@token.command()
@click.option(
    "--role",
    type=click.Choice([each.value for each in Role]),
    required=True,
    help="What it may do.",
)
@click.option("--name", required=True, help="Who holds it: stands in the history of runs.")
@click.option("--expires-in", callback=duration, help="How long it counts, as P90D.")
def create(role: str, name: str, expires_in: float | None) -> int:
    """Make a token and print it, once: only its hash is kept."""
    text, made = with_library(lambda app: app.create_token(role, name, expires_in=expires_in))
    click.echo(f"token {made.token_id} of {made.name}, role {made.role}:", err=True)
    click.echo(text)
    return 0


@token.command("list")
@json_option
def list_tokens(*, as_json: bool) -> int:
    """Every token that was made, without its text."""
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
    """Let nobody in by this token any more; its id is in the list.

    It may count for five more seconds. Exit code 1 if there is no valid one of this id.
    """
    if not with_library(lambda app: app.revoke_token(token_id)):
        return complain(f"no valid token has the id {token_id!r}", FAILURE)
    click.echo(f"token {token_id} is revoked")
    return 0
