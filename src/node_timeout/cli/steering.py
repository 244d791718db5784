"""Commands that change what runs or has run: cancel, replay, discard, give-back.

Each imports what it needs, so that ``--help`` answers at once.
"""

from typing import TYPE_CHECKING, Any

import click

from node_timeout.cli.options import (
    dead_options,
    dry_run_option,
    reason_option,
    root_option,
)
from node_timeout.cli.running import FAILURE, user_name, with_library
from node_timeout.domain.run import RunState
from node_timeout.ports.directory import MAX_PAGE

if TYPE_CHECKING:
    from node_timeout.app import NodeTimeout
    from node_timeout.ports.directory import RunPage


@click.command()
@click.argument("node_id", required=False)
@click.option("--version", "version", help="Cancel exactly this version, no other.")
@root_option
@reason_option
@dry_run_option
def cancel(reason: str | None, dry_run: bool, **which: Any) -> int:
    """Disarm the armed runs of NODE_ID, or of a whole root pipeline.

    Where several root pipelines have a node of this id, --root says which one; --root alone
    disarms all of it. Exit code 1 if none was armed.
    """
    who = user_name()
    cancelled = with_library(
        lambda app: app.cancel(**which, actor=who, reason=reason, dry_run=dry_run)
    )
    if dry_run:
        _name_runs(RunState.ARMED, which)
    return _tell(cancelled, "armed node runs", "cancelled", dry_run=dry_run)


@click.command()
@dead_options
@reason_option
def replay(reason: str | None, dry_run: bool, everything: bool, **which: Any) -> int:
    """Arm dead node runs again, due now.

    Exit code 1 if none was dead.
    """
    who = user_name()
    replayed = with_library(
        lambda app: app.replay(
            **which, everything=everything, actor=who, reason=reason, dry_run=dry_run
        )
    )
    if dry_run:
        _name_runs(RunState.DEAD, which)
    return _tell(replayed, "dead node runs", "armed again", dry_run=dry_run)


@click.command()
@dead_options
def discard(dry_run: bool, everything: bool, **which: Any) -> int:
    """Delete dead node runs, with their history.

    Exit code 1 if none was dead.
    """
    discarded = with_library(
        lambda app: app.discard(**which, everything=everything, dry_run=dry_run)
    )
    if dry_run:
        _name_runs(RunState.DEAD, which)
    return _tell(discarded, "dead node runs", "deleted", dry_run=dry_run)


def _name_runs(state: RunState, which: dict[str, Any]) -> None:
    """Print the oldest of the chosen runs, a page of them."""
    from node_timeout.cli.tables import print_runs  # noqa: PLC0415

    async def look(app: "NodeTimeout") -> "tuple[RunPage, float]":
        return await app.find(state=state, limit=MAX_PAGE, **which), await app.pool.now()

    page, now = with_library(look)
    print_runs(page.rows, now)
    if page.after:
        click.echo(f"and more: these are the oldest {len(page.rows)}")


def _tell(count: int, what: str, done: str, *, dry_run: bool) -> int:
    click.echo(f"{count} {what} {'would be ' if dry_run else ''}{done}")
    return 0 if count else FAILURE


@click.command("give-back")
def give_back() -> int:
    """Write the open runs into the pool in the form of bamboo's own app.

    For those who go back to it: stop scanners and workers first. Exit code 1 if a run has no such
    form, which is then named.
    """
    report = with_library(lambda app: app.give_back())
    for problem in report.refused:
        click.echo(f"refused: {problem}", err=True)
    click.echo(f"{report.given} open node runs are in the pool as <node_id>_<version>")
    return FAILURE if report.refused else 0
