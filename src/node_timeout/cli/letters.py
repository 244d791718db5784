"""Commands for the dead-letter queue.

Each imports its dependencies when it is called, so that ``--help`` is fast.
"""

from collections.abc import Callable
from typing import Any

import click

from node_timeout.cli.options import json_option
from node_timeout.cli.running import FAILURE, complain, with_library
from node_timeout.domain.errors import InvalidInputError


@click.group()
def letters() -> None:
    """List, resend or discard dead letters.

    Dead letters are messages that could not be read or matched to a run.
    """


@letters.command("list")
@click.option(
    "--limit",
    type=click.IntRange(1, 1000),
    default=100,
    help="Number of letters, 1000 at most.  [default: 100]",
)
@json_option
def list_letters(*, limit: int, as_json: bool) -> None:
    """List the oldest letters, with the reason of each.

    This moves the listed letters to the end of the queue.
    """
    from node_timeout.cli.tables import print_letters  # noqa: PLC0415
    from node_timeout.operations.forms import json_text, sifted_as_dict  # noqa: PLC0415

    found = with_library(lambda app: app.letters(limit))
    if as_json:
        click.echo(json_text(sifted_as_dict(found)))
        return
    print_letters(found.kept)
    if found.more:
        click.echo("more are there: --limit")


def _which(command: Callable[..., Any]) -> Callable[..., Any]:
    """The argument and the option that select letters."""
    command = click.option("--all", "everything", is_flag=True, help="The oldest 1,000 letters.")(
        command
    )
    return click.argument("letter_ids", nargs=-1)(command)


def _chosen(letter_ids: tuple[str, ...], *, everything: bool) -> tuple[str, ...] | None:
    if bool(letter_ids) == everything:
        raise InvalidInputError("name letters by their ids, as list prints them, or say --all")
    return letter_ids or None


@letters.command()
@_which
def resend(letter_ids: tuple[str, ...], *, everything: bool) -> int:
    """Send letters again, each to the queue of its kind.

    A letter that still cannot be read becomes a dead letter again.
    """
    chosen = _chosen(letter_ids, everything=everything)
    done = len(with_library(lambda app: app.resend_letters(chosen)).taken)
    return _told(done, "sent again")


@letters.command()
@_which
def discard(letter_ids: tuple[str, ...], *, everything: bool) -> int:
    """Delete letters."""
    chosen = _chosen(letter_ids, everything=everything)
    return _told(len(with_library(lambda app: app.discard_letters(chosen)).taken), "dropped")


def _told(count: int, what: str) -> int:
    if not count:
        return complain("no such letter is in the dead-letter queue", FAILURE)
    click.echo(f"{count} {what}")
    return 0
