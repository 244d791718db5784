"""Commands that change what runs or has run: extend, reconfigure, pause, resume, fire, cancel,
replay, discard, give-back.

Each imports what it needs, so that ``--help`` answers at once.
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
    click.option("--reason", help="Why, for the history."),
    click.option("--dry-run", is_flag=True, help="Change nothing; name the runs."),
    click.option("--json", "as_json", is_flag=True, help="Print one JSON object."),
)
open_options = options(
    click.argument("node_id", required=False),
    click.option("--version", "version", help="Exactly this version, no other."),
    root_option,
    click.option(
        "--run", "run_ids", multiple=True, help="This run, by its run id; may be repeated."
    ),
    click.option(
        "--state", type=click.Choice([each.value for each in RunState]), help="Runs in this state."
    ),
    click.option("--action", help="Runs of this action."),
    click.option("--if-revision", type=int, help="Only if nobody has changed it since."),
    conditions,
)
dead_options = options(
    click.option("--node", "node_id", help="Dead runs of this node."),
    click.option("--version", "version", help="With --node: exactly this version, no other."),
    click.option("--root", "root_pipeline_id", help="Dead runs of this root pipeline."),
    click.option(
        "--run", "run_ids", multiple=True, help="This run, by its run id; may be repeated."
    ),
    click.option("--all", "everything", is_flag=True, help="All dead runs, and nothing beside it."),
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
@click.option("--by", callback=duration, help="How much later, as PT10M; earlier, as -PT10M.")
@click.option("--until", callback=_instant, help="The new deadline, as 2026-12-01T18:00:00+08:00.")
@click.option("--key", "idempotency_key", help="A name for this order: it is carried out once.")
def extend(**asked: Any) -> int:
    """Move the deadline of NODE_ID, or of all nodes of a root pipeline.

    Of a paused node the time left is changed. Exit code 1 if nothing was moved.
    """
    return _change("extend", "moved", asked)


@click.command()
@open_options
def reconfigure(**asked: Any) -> int:
    """Let NODE_ID follow its config as it is stored now, not as it was at the start.

    The new seconds count from where those of before were counted. Exit code 1 if nothing was
    reconfigured.
    """
    return _change("reconfigure", "reconfigured", asked)


@click.command()
@open_options
def pause(**asked: Any) -> int:
    """Let the time of NODE_ID stand still until it is resumed.

    Exit code 1 if nothing was paused.
    """
    return _change("pause", "paused", asked)


@click.command()
@open_options
def resume(**asked: Any) -> int:
    """Let NODE_ID go on with the time it had left.

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
    """Cancel the deadlines of NODE_ID, or of a whole root pipeline.

    Where several root pipelines have a node of this id, --root says which one; --root alone
    cancels all of it. Exit code 1 if none was there.
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
    """Give the order, print what became of each run, and say how many were changed."""
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
    """Write the open runs into the pool in the form of bamboo's own app.

    For those who go back to it: stop scanners and workers first. Exit code 1 if a run has no such
    form, which is then named.
    """
    report = with_library(lambda app: app.give_back())
    for problem in report.refused:
        click.echo(f"refused: {problem}", err=True)
    click.echo(f"{report.given} open node runs are in the pool as <node_id>_<version>")
    return FAILURE if report.refused else 0
