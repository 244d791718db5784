"""Commands that show the present state: check, status, processes, list, names, show, lateness.

Each imports its dependencies when it is called, so that ``--help`` is fast.
"""

import asyncio
from typing import TYPE_CHECKING, Any

import click

from node_timeout.cli.options import Span, engine_option, json_option, root_option
from node_timeout.cli.running import (
    FAILURE,
    complain,
    configure_logs,
    settings_of,
    until_signal,
    with_app,
    with_library,
)
from node_timeout.domain.errors import InvalidInputError
from node_timeout.domain.lateness import MAX_ENDINGS
from node_timeout.domain.run import RunState
from node_timeout.ports.directory import MAX_NAMES, MAX_PAGE, Cursor
from node_timeout.urls.redaction import redact

if TYPE_CHECKING:
    from node_timeout.app import NodeTimeout
    from node_timeout.domain.history import HistoryEntry
    from node_timeout.domain.run import LedgerRow
    from node_timeout.ports.directory import RunPage

PAUSE_SECONDS = (0.1, 86400.0)


def _cursor(_context: click.Context, _option: click.Parameter, text: str | None) -> Cursor | None:
    try:
        return None if text is None else Cursor.parse(text)
    except InvalidInputError as error:
        raise click.BadParameter(str(error)) from error


@click.command()
@engine_option
@click.option(
    "--running", is_flag=True, help="Also check whether a scanner and a worker are alive."
)
def check(running: bool, **overrides: Any) -> int:
    """Check stores, queues, settings, engine and strategies.

    It uses the stores and queues in the same way as the services. Exit code 1 if a check fails.
    """
    from node_timeout.check import run_checks  # noqa: PLC0415

    settings = settings_of(overrides)
    configure_logs(settings)
    results = asyncio.run(run_checks(settings, running=running))
    for result in results:
        click.echo(f"{'ok  ' if result.passed else 'FAIL'}  {result.name}: {redact(result.text)}")
    return 0 if all(result.passed for result in results) else FAILURE


def _pause(_context: click.Context, _option: click.Parameter, seconds: float) -> float:
    least, longest = PAUSE_SECONDS
    if not least <= seconds <= longest:  # also refuses NaN
        raise click.BadParameter(f"{seconds:g} is not between {least:g} and {longest:g} seconds")
    return seconds


@click.command()
@json_option
@click.option("--watch", is_flag=True, help="Print again at intervals, until interrupted.")
@click.option(
    "--interval",
    type=float,
    default=2.0,
    callback=_pause,
    help="Interval of --watch, 0.1 at least.  [default: 2; unit: seconds]",
)
def status(as_json: bool, watch: bool, interval: float) -> int:
    """Show counts of runs, queue depths and recent outcomes.

    It counts armed, overdue, executing, paused and dead runs.

    Exit code 1 if a store does not answer, if no scanner or no worker is alive (or no listener, if
    there is an events queue), or if a node has been overdue for too long.
    """
    settings = settings_of({})
    configure_logs(settings)
    failing = False

    async def look(app: "NodeTimeout", stop: asyncio.Event) -> None:
        nonlocal failing
        from node_timeout.cli.output import status_text  # noqa: PLC0415
        from node_timeout.operations.forms import json_text, status_as_dict  # noqa: PLC0415
        from node_timeout.runtime.loop import sleep  # noqa: PLC0415

        while True:
            found = await app.status()
            failing = bool(found.unreachable or found.alarms)
            if watch and not as_json:
                click.clear()
            click.echo(json_text(status_as_dict(found)) if as_json else status_text(found))
            if not watch or stop.is_set():
                return
            await sleep(interval, stop)

    until_signal(lambda stop: with_app(settings, lambda app: look(app, stop)))
    return FAILURE if failing else 0


@click.command("list")
@click.option(
    "--state", type=click.Choice([each.value for each in RunState]), help="Runs in this state."
)
@root_option
@click.option("--node", "node_id", help="Runs of this node.")
@click.option("--version", "version", help="With --node: this version of the node.")
@click.option("--action", help="Runs with this action.")
@click.option(
    "--due-within",
    type=Span(least=0),
    help="Armed runs that are due within this time: seconds, or a duration such as PT1H.",
)
@click.option(
    "--limit",
    type=click.IntRange(1, MAX_PAGE),
    default=50,
    help=f"Number of runs on a page, {MAX_PAGE} at most.  [default: 50]",
)
@click.option(
    "--after", callback=_cursor, help="Continue after a page: the value that the page printed last."
)
@json_option
def list_runs(as_json: bool, **which: Any) -> None:
    """List node runs, oldest first, one page at a time.

    Without a filter, it lists armed runs.
    """
    from node_timeout.operations.forms import json_text, page_as_dict  # noqa: PLC0415

    async def look(app: "NodeTimeout") -> "tuple[RunPage, float]":
        return await app.find(**which), await app.pool.now()

    page, now = with_library(look)
    if as_json:
        click.echo(json_text(page_as_dict(page, now)))
        return
    from node_timeout.cli.tables import print_runs  # noqa: PLC0415

    print_runs(page.rows, now)
    if not page.rows:
        click.echo("there is no such node run", err=True)
    if page.after:
        click.echo(f"more: --after {page.after}")


@click.command()
@click.argument("prefix")
@click.option(
    "--limit",
    type=click.IntRange(1, MAX_NAMES),
    default=20,
    help=f"Number of ids of each kind, {MAX_NAMES} at most.  [default: 20]",
)
@json_option
def names(prefix: str, limit: int, as_json: bool) -> None:
    """List nodes and root pipelines whose ids begin with PREFIX."""
    from node_timeout.cli.tables import print_names  # noqa: PLC0415
    from node_timeout.operations.forms import json_text, names_as_dict  # noqa: PLC0415

    found = with_library(lambda app: app.names(prefix, limit))
    if as_json:
        click.echo(json_text(names_as_dict(found)))
    else:
        print_names(found)


@click.command()
@json_option
def processes(as_json: bool) -> int:
    """List the scanners, workers and listeners that are alive.

    It shows where each one runs, since when, and what it is doing. A killed process stays in the
    list for 30 more seconds. Exit code 1 if none is alive.
    """
    from node_timeout.cli.tables import print_processes  # noqa: PLC0415
    from node_timeout.operations.forms import json_text, process_as_dict  # noqa: PLC0415

    alive = with_library(lambda app: app.processes())
    if as_json:
        click.echo(json_text({"processes": [process_as_dict(each) for each in alive]}))
    else:
        print_processes(alive)
    return 0 if alive else complain("no process of node-timeout is alive", FAILURE)


@click.command()
@click.option(
    "--limit",
    type=click.IntRange(1, MAX_ENDINGS),
    default=MAX_ENDINGS,
    help=f"Number of runs: those that were handled last.  [default: {MAX_ENDINGS}]",
)
@json_option
def lateness(limit: int, as_json: bool) -> None:
    """Show how late the last runs were dealt with.

    It prints one line for each minute: percentiles of the lateness, and a bar.
    """
    from node_timeout.cli.tables import print_lateness  # noqa: PLC0415
    from node_timeout.operations.forms import json_text  # noqa: PLC0415

    found = with_library(lambda app: app.lateness(limit))
    if as_json:
        click.echo(json_text(found))
    else:
        print_lateness(found["minutes"])


@click.command()
@click.argument("node_id")
@click.option("--version", "version", help="Only this version.")
@root_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each run.")
def show(node_id: str, version: str | None, root_pipeline_id: str | None, as_json: bool) -> int:
    """Show each version of NODE_ID in the ledger, with its history."""
    from node_timeout.cli.output import end_text, entry_text, row_text  # noqa: PLC0415
    from node_timeout.operations.forms import (  # noqa: PLC0415
        history_as_dict,
        json_text,
        row_as_dict,
    )

    async def look(app: "NodeTimeout") -> "tuple[list[LedgerRow], list[HistoryEntry], float]":
        found = await app.rows(node_id, root_pipeline_id)
        rows = [row for row in found if version in (None, row.version)]
        return rows, await app.history([row.run_id for row in rows]), await app.pool.now()

    rows, entries, now = with_library(look)
    told: dict[str, list[HistoryEntry]] = {}
    for entry in entries:
        told.setdefault(entry.run_id, []).append(entry)
    for row in rows:
        own = told.get(row.run_id, [])
        if as_json:
            history = [history_as_dict(entry) for entry in own]
            click.echo(json_text(row_as_dict(row, now) | {"history": history}))
        else:
            lines = [row_text(row, now), *map(entry_text, own), end_text(row)]
            click.echo("\n".join(filter(None, lines)))
    if not rows:
        return complain(f"no such run of node {node_id!r} is in the ledger", FAILURE)
    return 0
