"""Commands that look and steer: check, status, list, show, cancel, replay, discard, give-back.

Each imports what it needs, so that ``--help`` answers at once.
"""

import asyncio
import sys
from typing import TYPE_CHECKING, Any

import click

from node_timeout.cli.options import (
    dead_options,
    engine_option,
    reason_option,
    require_one,
    root_option,
)
from node_timeout.cli.running import (
    FAILURE,
    complain,
    configure_logs,
    settings_of,
    until_signal,
    user_name,
    with_app,
    with_library,
)
from node_timeout.domain.errors import InvalidInputError
from node_timeout.domain.run import RunState
from node_timeout.ports.directory import MAX_PAGE, Cursor
from node_timeout.urls.redaction import redact

if TYPE_CHECKING:
    from node_timeout.app import NodeTimeout
    from node_timeout.domain.run import HistoryEntry, LedgerRow
    from node_timeout.ports.directory import RunPage

PAUSE_SECONDS = (0.1, 86400.0)


def _cursor(_context: click.Context, _option: click.Parameter, text: str | None) -> Cursor | None:
    try:
        return None if text is None else Cursor.parse(text)
    except InvalidInputError as error:
        raise click.BadParameter(str(error)) from error


@click.command()
@engine_option
def check(**overrides: Any) -> int:
    """Use the stores and queues as services do; look at settings, engine, strategies.

    Exit code 1 if one of them fails.
    """
    from node_timeout.check import run_checks  # noqa: PLC0415

    settings = settings_of(overrides)
    configure_logs(settings)
    results = asyncio.run(run_checks(settings))
    for result in results:
        click.echo(f"{'ok  ' if result.passed else 'FAIL'}  {result.name}: {redact(result.text)}")
    return 0 if all(result.passed for result in results) else FAILURE


def _pause(_context: click.Context, _option: click.Parameter, seconds: float) -> float:
    least, longest = PAUSE_SECONDS
    if not least <= seconds <= longest:  # NaN is neither
        raise click.BadParameter(f"{seconds:g} is not between {least:g} and {longest:g} seconds")
    return seconds


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--watch", is_flag=True, help="Print again until interrupted.")
@click.option(
    "--interval",
    type=float,
    default=2.0,
    callback=_pause,
    help="Pause of --watch, 0.1 at least.  [default: 2; unit: seconds]",
)
def status(as_json: bool, watch: bool, interval: float) -> int:
    """How many are armed, overdue, executing, dead; queue depths; recent outcomes.

    Exit code 1 if a store does not answer, or a node has been overdue for too long.
    """
    settings = settings_of({})
    configure_logs(settings)
    failing = False

    async def look(app: "NodeTimeout", stop: asyncio.Event) -> None:
        nonlocal failing
        from node_timeout.cli.output import json_text, status_text  # noqa: PLC0415
        from node_timeout.runtime.loop import sleep  # noqa: PLC0415

        while True:
            found = await app.status()
            failing = bool(found.unreachable or found.alarms)
            if watch and not as_json:
                click.clear()
            click.echo(json_text(found.as_dict()) if as_json else status_text(found))
            if not watch or stop.is_set():
                return
            await sleep(interval, stop)

    until_signal(lambda stop: with_app(settings, lambda app: look(app, stop)))
    return FAILURE if failing else 0


@click.command("list")
@click.option(
    "--state", type=click.Choice([each.value for each in RunState]), help="Runs of this state."
)
@root_option
@click.option("--node", "node_id", help="Runs of this node.")
@click.option("--action", help="Runs with this action.")
@click.option(
    "--due-within", type=click.FloatRange(min=0), help="Armed, and due by then.  [unit: seconds]"
)
@click.option(
    "--limit",
    type=click.IntRange(1, MAX_PAGE),
    default=50,
    help=f"Runs of a page, {MAX_PAGE} at most.  [default: 50]",
)
@click.option("--after", callback=_cursor, help="What the page before has printed.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def list_runs(as_json: bool, **which: Any) -> None:
    """Node runs, oldest first, page by page; the armed ones if nothing is chosen."""
    from node_timeout.cli.output import json_text, page_as_dict, page_table  # noqa: PLC0415

    async def look(app: "NodeTimeout") -> "tuple[RunPage, float]":
        return await app.find(**which), await app.pool.now()

    page, now = with_library(look)
    if as_json:
        click.echo(json_text(page_as_dict(page, now)))
        return
    from rich.console import Console  # noqa: PLC0415

    if page.rows:
        Console(width=None if sys.stdout.isatty() else 200, highlight=False).print(
            page_table(page, now)
        )
    if page.after:
        click.echo(f"more: --after {page.after}")


@click.command()
@click.argument("node_id")
@root_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each version.")
def show(node_id: str, root_pipeline_id: str | None, as_json: bool) -> int:
    """What the ledger knows of NODE_ID, version by version, with its history."""
    import dataclasses  # noqa: PLC0415

    from node_timeout.cli.output import entry_text, json_text, row_text  # noqa: PLC0415

    async def look(app: "NodeTimeout") -> "tuple[list[LedgerRow], list[HistoryEntry]]":
        rows = await app.rows(node_id, root_pipeline_id)
        return rows, await app.history([row.run_id for row in rows])

    rows, entries = with_library(look)
    told: dict[str, list[HistoryEntry]] = {}
    for entry in entries:
        told.setdefault(entry.run_id, []).append(entry)
    for row in rows:
        own = told.get(row.run_id, [])
        if as_json:
            found = {"run_id": row.run_id, **dataclasses.asdict(row)}
            found["history"] = [dataclasses.asdict(entry) for entry in own]
            click.echo(json_text(found))
        else:
            click.echo("\n".join([row_text(row), *map(entry_text, own)]))
    if not rows:
        return complain(f"no node run of node {node_id!r} is in the ledger", FAILURE)
    return 0


@click.command()
@click.argument("node_id")
@click.option("--version", "version", help="Cancel exactly this version, no other.")
@root_option
@reason_option
def cancel(
    node_id: str, version: str | None, root_pipeline_id: str | None, reason: str | None
) -> int:
    """Disarm every armed version of NODE_ID.

    Where several root pipelines have a node of this id, --root says which one. Exit code 1 if none
    was armed.
    """
    who = user_name()
    cancelled = with_library(
        lambda app: app.cancel(node_id, version, root_pipeline_id, actor=who, reason=reason)
    )
    click.echo(f"{cancelled} armed node runs cancelled")
    return 0 if cancelled else FAILURE


@click.command()
@dead_options
@reason_option
def replay(reason: str | None, **which: Any) -> int:
    """Arm dead node runs again, due now.

    Exit code 1 if none was dead.
    """
    require_one(which)
    who = user_name()
    replayed = with_library(lambda app: app.replay(**which, actor=who, reason=reason))
    click.echo(f"{replayed} dead node runs armed again")
    return 0 if replayed else FAILURE


@click.command()
@dead_options
def discard(**which: Any) -> int:
    """Delete dead node runs, with their history.

    Exit code 1 if none was dead.
    """
    require_one(which)
    discarded = with_library(lambda app: app.discard(**which))
    click.echo(f"{discarded} dead node runs deleted")
    return 0 if discarded else FAILURE


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
