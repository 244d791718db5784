"""Commands that change runs: extend, reconfigure, pause, resume, fire, cancel, replay, discard,
give-back.

Each imports its dependencies when it is called, so that ``--help`` is fast.
"""

import secrets
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from node_timeout.cli.options import (
    duration,
    options,
    root_option,
)
from node_timeout.cli.running import FAILURE, user_name, with_library
from node_timeout.domain.run import RunState

if TYPE_CHECKING:
    from node_timeout.app import NodeTimeout
    from node_timeout.operations.changing import ChangeReport

conditions = options(
    click.option("--reason", help="Reason, recorded in the history."),
    click.option("--dry-run", is_flag=True, help="Change nothing; list the runs."),
    click.option("--json", "as_json", is_flag=True, help="Print one JSON object."),
)
open_options = options(
    click.argument("node_id", required=False),
    click.option("--version", "version", help="Only this version."),
    root_option,
    click.option(
        "--run", "run_ids", multiple=True, help="This run, by its run id; may be repeated."
    ),
    click.option(
        "--state", type=click.Choice([each.value for each in RunState]), help="Runs in this state."
    ),
    click.option("--action", help="Runs with this action."),
    click.option("--if-revision", type=int, help="Only if the run still has this revision."),
    conditions,
)
dead_options = options(
    click.option("--node", "node_id", help="Dead runs of this node."),
    click.option("--version", "version", help="With --node: only this version."),
    click.option("--root", "root_pipeline_id", help="Dead runs of this root pipeline."),
    click.option(
        "--run", "run_ids", multiple=True, help="This run, by its run id; may be repeated."
    ),
    click.option(
        "--all", "everything", is_flag=True, help="All dead runs; excludes the options above."
    ),
    conditions,
)


def _instant(_context: click.Context, _option: click.Parameter, text: str | None) -> float | None:
    if text is None:
        return None
    try:
        instant = datetime.fromisoformat(text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is no instant such as 2026-12-01T18:00:00Z") from error
    if instant.tzinfo is None:
        raise click.BadParameter(f"{text!r} names no zone: end it with Z, or with +08:00")
    return instant.timestamp()


@click.command()
@open_options
@click.option(
    "--by",
    callback=duration,
    help="How much later, for example PT10M; or earlier, for example -PT10M.",
)
@click.option(
    "--until",
    callback=_instant,
    help="The new deadline, for example 2026-12-01T18:00:00+08:00.",
)
@click.option(
    "--key",
    "idempotency_key",
    help="Idempotency key: a change with this key is carried out once.",
)
def extend(**asked: Any) -> int:
    """Move the deadline of NODE_ID, or of all nodes of a root pipeline.

    For a paused node, this changes the time that is left. Exit code 1 if nothing was moved.
    """
    return _change("extend", "moved", asked)


@click.command()
@open_options
def reconfigure(**asked: Any) -> int:
    """Let NODE_ID follow its config as it is stored now.

    Without this command, it follows the config that it started with. The new seconds count from the
    same instant as the old ones. Exit code 1 if nothing was reconfigured.
    """
    return _change("reconfigure", "reconfigured", asked)


@click.command()
@open_options
def pause(**asked: Any) -> int:
    """Stop the clock of NODE_ID until it is resumed.

    Exit code 1 if nothing was paused.
    """
    return _change("pause", "paused", asked)


@click.command()
@open_options
def resume(**asked: Any) -> int:
    """Let NODE_ID continue with the time that was left.

    Exit code 1 if nothing was resumed.
    """
    return _change("resume", "resumed", asked)


@click.command()
@open_options
def fire(**asked: Any) -> int:
    """Make NODE_ID due now.

    Exit code 1 if nothing was made due.
    """
    return _change("fire", "due now", asked)


@click.command()
@open_options
def cancel(**asked: Any) -> int:
    """Cancel the deadlines of NODE_ID or of a root pipeline.

    If several root pipelines have a node with this id, --root selects one. --root without NODE_ID
    cancels all deadlines of the root pipeline. Exit code 1 if there was none.
    """
    return _change("cancel", "cancelled", asked)


@click.command()
@dead_options
def replay(**asked: Any) -> int:
    """Arm dead node runs again, due now.

    Exit code 1 if none was dead.
    """
    return _change("replay", "armed again", asked)


@click.command()
@dead_options
def discard(**asked: Any) -> int:
    """Delete dead node runs, with their history.

    Exit code 1 if none was dead.
    """
    return _change("discard", "deleted", asked)


def _change(name: str, done: str, asked: dict[str, Any]) -> int:
    """Carry out the change, print the verdict of each refused run, and how many were changed."""
    as_json = asked.pop("as_json")
    is_dry = asked["dry_run"]
    given = {
        key: value
        for key, value in asked.items()
        if not (value is None or value is False or value == ())
    }

    async def go(app: "NodeTimeout") -> "tuple[ChangeReport, float]":
        order: Callable[..., Any] = getattr(app, name)
        more: dict[str, Any] = {"idempotency_key": secrets.token_hex(8)}
        if name in ("replay", "discard") and not given.get("run_ids"):
            more["finished_by"] = await app.pool.now()
        asked = more | given
        report: ChangeReport = await order(actor=user_name(), **asked)
        while report.after is not None and not is_dry:
            next_page: ChangeReport = await order(actor=user_name(), **asked, after=report.after)
            report = report.joined(next_page)
        return report, await app.pool.now()

    report, now = with_library(go)
    _print(report, now, is_dry=is_dry, done=done, as_json=as_json)
    return 0 if report.done else FAILURE


def _print(report: "ChangeReport", now: float, *, is_dry: bool, done: str, as_json: bool) -> None:
    from node_timeout.cli.tables import print_runs  # noqa: PLC0415
    from node_timeout.operations.forms import json_text, report_as_dict  # noqa: PLC0415

    if as_json:
        click.echo(json_text(report_as_dict(report, now)))
        return
    if is_dry:
        print_runs([each.row for each in report.runs if each.row], now)
    for each in report.refused:
        row = each.row
        which = f"node {row.node_id}, version {row.version}" if row else f"run {each.run_id}"
        click.echo(f"{which}: {each.verdict}")
    if report.after is not None:
        click.echo(f"and more: these are the oldest {len(report.runs)}")
    runs = "node run" if report.done == 1 else "node runs"
    click.echo(f"{report.done} {runs} {'would be ' if is_dry else ''}{done}")


@click.command("give-back")
def give_back() -> int:
    """Write open runs into the pool in the format of bamboo's app.

    This is for users who go back to bamboo's own app. Stop scanners and workers first. Exit code 1
    if a run cannot be written in this format; the command prints each such run.
    """
    report = with_library(lambda app: app.give_back())
    for problem in report.refused:
        click.echo(f"refused: {problem}", err=True)
    click.echo(f"{report.given} open node runs are in the pool as <node_id>_<version>")
    return FAILURE if report.refused else 0
