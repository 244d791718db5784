"""Commands that change what runs or has run: cancel, replay, discard, give-back.

Each imports what it needs, so that ``--help`` answers at once.
"""

from collections.abc import Callable, Coroutine
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
    return _steer(
        lambda app: app.cancel(**which, actor=who, reason=reason, dry_run=dry_run),
        RunState.ARMED if dry_run else None,
        which,
        "armed node runs",
        "cancelled",
    )


@click.command()
@dead_options
@reason_option
def replay(reason: str | None, dry_run: bool, everything: bool, **which: Any) -> int:
    """Arm dead node runs again, due now.

    Exit code 1 if none was dead.
    """
    who = user_name()
    return _steer(
        lambda app: app.replay(
            **which, everything=everything, actor=who, reason=reason, dry_run=dry_run
        ),
        RunState.DEAD if dry_run else None,
        which,
        "dead node runs",
        "armed again",
    )


@click.command()
@dead_options
def discard(dry_run: bool, everything: bool, **which: Any) -> int:
    """Delete dead node runs, with their history.

    Exit code 1 if none was dead.
    """
    return _steer(
        lambda app: app.discard(**which, everything=everything, dry_run=dry_run),
        RunState.DEAD if dry_run else None,
        which,
        "dead node runs",
        "deleted",
    )


def _steer(
    call: Callable[["NodeTimeout"], Coroutine[Any, Any, int]],
    shown: RunState | None,
    which: dict[str, Any],
    what: str,
    done: str,
) -> int:
    """Do it and say how many; of a dry run, print the oldest runs of state ``shown`` as well."""

    async def steer(app: "NodeTimeout") -> "tuple[int, RunPage | None, float]":
        count = await call(app)
        if shown is None:
            return count, None, 0.0
        page = await app.find(state=shown, limit=MAX_PAGE, **which)
        return count, page, await app.pool.now()

    count, page, now = with_library(steer)
    if page is not None:
        from node_timeout.cli.tables import print_runs  # noqa: PLC0415

        print_runs(page.rows, now)
        if page.after:
            click.echo(f"and more: these are the oldest {len(page.rows)}")
    click.echo(f"{count} {what} {'would be ' if page is not None else ''}{done}")
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
