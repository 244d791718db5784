"""The command line. Each command imports what it needs, so that ``--help`` answers at once."""

import asyncio
import contextlib
import gc
import getpass
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from node_timeout.domain.errors import (
    InvalidInputError,
    NodeTimeoutError,
    SettingsError,
    StrategyError,
)
from node_timeout.urls.redaction import excepthook, redact

if TYPE_CHECKING:
    from node_timeout.app import NodeTimeout
    from node_timeout.domain.run import HistoryEntry, LedgerRow
    from node_timeout.settings import Settings

T = TypeVar("T")
Command = Callable[..., Any]

MISTAKE = 2
FAILURE = 1
MISTAKES = (SettingsError, InvalidInputError, StrategyError)
PAUSE_SECONDS = (0.1, 86400.0)


def main() -> None:
    """Entry point: one line for a mistake (exit code 2) or a failure (1).

    Only a bug has a traceback, which is logged.
    """
    sys.excepthook = excepthook  # a bug has one, without secrets
    try:
        code = cli.main(standalone_mode=False)
    except click.exceptions.Abort:
        code = 130
    except click.ClickException as error:
        code = _complain(error.format_message(), MISTAKE)
    except Exception as error:  # noqa: BLE001 - the outermost edge
        code = _complain_of(error)
    sys.exit(code if isinstance(code, int) else 0)


def _complain(text: str, code: int) -> int:
    click.echo(f"node-timeout: {redact(' '.join(text.splitlines()))}", err=True)
    return code


def _complain_of(error: Exception) -> int:
    """A line for each known error, alone or in a group; anything else is logged in full."""
    group = error if isinstance(error, ExceptionGroup) else ExceptionGroup("errors", [error])
    known, bugs = group.split(NodeTimeoutError)
    errors = _leaves(known)
    for text in dict.fromkeys(map(str, errors)):
        _complain(text, FAILURE)
    if bugs:
        from node_timeout import logs  # noqa: PLC0415

        if not logging.getLogger().handlers:
            logs.configure("auto", "INFO")
        logger = logging.getLogger("node_timeout")
        logger.critical("ended by an unexpected error", exc_info=bugs if group is error else error)
    is_mistake = not bugs and all(isinstance(each, MISTAKES) for each in errors)
    return MISTAKE if is_mistake else FAILURE


def _leaves(group: ExceptionGroup[Exception] | None) -> list[Exception]:
    found: list[Exception] = []
    for each in group.exceptions if group else ():
        found += _leaves(each) if isinstance(each, ExceptionGroup) else [each]
    return found


def setting(
    name: str, kind: Any, text: str, default: str, unit: str = ""
) -> Callable[[Command], Command]:
    """An option that overrides a setting; without it the variable or the default counts."""
    notes = [f"variable: NODE_TIMEOUT_{name.upper()}", f"default: {default}"]
    notes += [f"unit: {unit}"] if unit else []
    return click.option(
        "--" + name.replace("_", "-"), name, type=kind, help=f"{text}  [{'; '.join(notes)}]"
    )


def options(*decorators: Callable[[Command], Command]) -> Callable[[Command], Command]:
    def decorate(command: Command) -> Command:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


log_options = options(
    setting("log_format", click.Choice(["auto", "text", "json"]), "Form of log lines.", "auto"),
    setting(
        "log_level",
        click.Choice(["DEBUG", "INFO", "WARNING", "ERROR"]),
        "Least level of log lines.",
        "INFO",
    ),
)
daemon_options = options(
    log_options,
    setting("metrics_host", str, "Address of the metrics port.", "127.0.0.1"),
    setting("metrics_port", int, "Port of /metrics, /healthz, /readyz.", "none"),
    setting("shutdown_timeout", float, "Time to finish when stopped.", "30", "seconds"),
)
engine_option = setting("engine", str, "Engine adapter to act through.", "none")


def _pause(_context: click.Context, _option: click.Parameter, seconds: float) -> float:
    least, longest = PAUSE_SECONDS
    if not least <= seconds <= longest:  # NaN is neither
        raise click.BadParameter(f"{seconds:g} is not between {least:g} and {longest:g} seconds")
    return seconds


root_option = click.option("--root", "root_pipeline_id", help="In this root pipeline only.")
reason_option = click.option("--reason", help="Why, for the history.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="node-timeout", message="%(version)s")
def cli() -> None:
    """Durable deadlines for the nodes of any workflow engine.

    Every setting is an environment variable NODE_TIMEOUT_…; each option names its own.
    """


@cli.command()
@options(
    setting("scan_interval", float, "Longest sleep of an idle scanner.", "1", "seconds"),
    setting("scan_batch_size", int, "Node runs in one message.", "250", "node runs"),
    setting("lease_seconds", float, "How long a claim lasts.", "15", "seconds"),
    daemon_options,
)
def scan(**overrides: Any) -> None:
    """Publish due nodes, and put back what Redis has lost."""
    settings = _settings(overrides)
    _configure_logs(settings)
    _until_signal(lambda stop: _with_app(settings, lambda app: app.scan(stop, ready=_freeze)))


@cli.command()
@click.option(
    "--queue",
    "queues",
    multiple=True,
    help="Queue to consume; may be given more than once.  "
    "[default: the dispatch queue; the handle queue and the events queue if set]",
)
@options(
    engine_option,
    setting("worker_concurrency", int, "Strategy calls at once.", "64", "calls"),
    setting("strategy_timeout", float, "Longest strategy call.", "30", "seconds"),
    setting("max_attempts", int, "Strategy calls before a node run is dead.", "20", "calls"),
    daemon_options,
)
def worker(queues: tuple[str, ...], **overrides: Any) -> None:
    """Deal with timed-out nodes."""
    settings = _settings(overrides)
    _configure_logs(settings)
    _until_signal(
        lambda stop: _with_app(settings, lambda app: app.work(stop, queues, ready=_freeze))
    )


@cli.command()
@click.option(
    "--revision", default="head", help="Revision to go to, or base for none.  [default: head]"
)
def migrate(revision: str) -> None:
    """Bring the database's tables to this version's."""
    from node_timeout.stores.sql.schema import Schema  # noqa: PLC0415
    from node_timeout.stores.tls import Tls  # noqa: PLC0415

    settings = _settings({})
    schema = Schema(settings.database_url.get_secret_value(), tls=Tls.of(settings))

    async def go() -> str | None:
        try:
            return await schema.migrate(revision)
        finally:
            await schema.close()

    click.echo(f"the database is at revision {asyncio.run(go()) or 'none'}")


@cli.command()
@engine_option
def check(**overrides: Any) -> int:
    """Use the stores and queues as services do; look at settings, engine, strategies.

    Exit code 1 if one of them fails.
    """
    from node_timeout.check import run_checks  # noqa: PLC0415

    settings = _settings(overrides)
    _configure_logs(settings)
    results = asyncio.run(run_checks(settings))
    for result in results:
        click.echo(f"{'ok  ' if result.passed else 'FAIL'}  {result.name}: {redact(result.text)}")
    return 0 if all(result.passed for result in results) else FAILURE


@cli.command()
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
    settings = _settings({})
    _configure_logs(settings)
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

    _until_signal(lambda stop: _with_app(settings, lambda app: look(app, stop)))
    return FAILURE if failing else 0


@cli.command()
@click.argument("tree", type=click.Path(path_type=Path, allow_dash=True))
@click.argument("configs", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--create", is_flag=True, help="Store the configs as well; needs --root.")
@click.option("--root", help="Root pipeline id of --create.")
def apply(tree: Path, configs: Path, create: bool, root: str | None) -> None:
    """Print TREE with CONFIGS at its nodes.

    Both are JSON files: a pipeline tree, and a map of node id to timeout config. One of them may be
    -, standard input.
    """
    from node_timeout.app import apply_node_timeout_configs  # noqa: PLC0415
    from node_timeout.cli.output import STANDARD_INPUT, json_text, read_json  # noqa: PLC0415

    if create != (root is not None):
        raise click.UsageError("--create and --root go together")
    if tree == configs == STANDARD_INPUT:
        raise click.UsageError("only one of TREE and CONFIGS can be - (standard input)")
    new_tree = apply_node_timeout_configs(read_json(tree), read_json(configs))
    if create:
        result = _with_library(lambda app: app.batch_create_node_timeout_config(root, new_tree))
        if not result["result"]:
            raise InvalidInputError(result["message"])
        click.echo(f"{len(result['data'])} timeout configs stored", err=True)
    click.echo(json_text(new_tree, readable=True))


@cli.command("import-bamboo")
@click.option(
    "--from",
    "source",
    envvar="BAMBOO_DATABASE_URL",
    help="URL of the database that has bamboo's table.  [variable: BAMBOO_DATABASE_URL; "
    "default: the database of node-timeout]",
)
def import_bamboo(source: str | None) -> int:
    """Copy the configs of bamboo's own app.

    Configs that are stored here stay as they are, so it may be repeated. The actions of the rows
    must be installed here. Exit code 1 if a row was refused, which is then named.
    """
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import Progress  # noqa: PLC0415

    source = source or _settings({}).database_url.get_secret_value()
    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("timeout configs", total=None)
        report = _with_library(
            lambda app: app.import_bamboo_configs(
                source, lambda done, total: bar.update(task, completed=done, total=total)
            )
        )
    for problem in report.refused:
        click.echo(f"refused: {problem}", err=True)
    there = report.read - report.imported - len(report.refused)
    click.echo(
        f"{report.read} rows read: {report.imported} imported, {there} here already, "
        f"{len(report.refused)} refused"
    )
    return FAILURE if report.refused else 0


@cli.command()
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

    rows, entries = _with_library(look)
    for row in rows:
        own = [entry for entry in entries if entry.run_id == row.run_id]
        if as_json:
            found = {"run_id": row.run_id, **dataclasses.asdict(row)}
            found["history"] = [dataclasses.asdict(entry) for entry in own]
            click.echo(json_text(found))
        else:
            click.echo("\n".join([row_text(row), *map(entry_text, own)]))
    if not rows:
        return _complain(f"no node run of node {node_id!r} is in the ledger", FAILURE)
    return 0


@cli.command()
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
    who = _who()
    cancelled = _with_library(
        lambda app: app.cancel(node_id, version, root_pipeline_id, actor=who, reason=reason)
    )
    click.echo(f"{cancelled} armed node runs cancelled")
    return 0 if cancelled else FAILURE


@cli.command()
@click.option("--node", "node_id", help="Dead versions of this node.")
@click.option("--root", "root_pipeline_id", help="Dead nodes of this root pipeline.")
@click.option("--all", "everything", is_flag=True, help="All dead nodes.")
@reason_option
def replay(
    node_id: str | None, root_pipeline_id: str | None, everything: bool, reason: str | None
) -> int:
    """Arm dead node runs again, due now.

    Exit code 1 if none was dead.
    """
    if (node_id is not None) + (root_pipeline_id is not None) + everything != 1:
        raise click.UsageError("choose one of --node, --root and --all")
    who = _who()
    replayed = _with_library(
        lambda app: app.replay(
            node_id=node_id,
            root_pipeline_id=root_pipeline_id,
            everything=everything,
            actor=who,
            reason=reason,
        )
    )
    click.echo(f"{replayed} dead node runs armed again")
    return 0 if replayed else FAILURE


@cli.command()
@click.option("--node", "node_id", help="Dead versions of this node.")
@click.option("--root", "root_pipeline_id", help="Dead nodes of this root pipeline.")
@click.option("--all", "everything", is_flag=True, help="All dead nodes.")
def discard(node_id: str | None, root_pipeline_id: str | None, everything: bool) -> int:
    """Delete dead node runs, with their history.

    Exit code 1 if none was dead.
    """
    if (node_id is not None) + (root_pipeline_id is not None) + everything != 1:
        raise click.UsageError("choose one of --node, --root and --all")
    discarded = _with_library(
        lambda app: app.discard(
            node_id=node_id, root_pipeline_id=root_pipeline_id, everything=everything
        )
    )
    click.echo(f"{discarded} dead node runs deleted")
    return 0 if discarded else FAILURE


@cli.command()
@click.argument("root_pipeline_id")
def forget(root_pipeline_id: str) -> int:
    """Delete the timeout configs of the root pipeline ROOT_PIPELINE_ID.

    Its open runs go on as they are. Exit code 1 if it had no config.
    """
    forgotten = _with_library(lambda app: app.forget(root_pipeline_id))
    click.echo(f"{forgotten} timeout configs deleted")
    return 0 if forgotten else FAILURE


@cli.command("give-back")
def give_back() -> None:
    """Write the open runs into the pool in the form of bamboo's own app.

    For those who go back to it: stop scanners and workers first.
    """
    given = _with_library(lambda app: app.give_back())
    click.echo(f"{given} open node runs are in the pool as <node_id>_<version>")


@cli.command()
@click.option(
    "--directory",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where its data lies.  [default: the user's data directory]",
)
@options(
    setting("engine", str, "Engine adapter to act through.", "none; dev takes dry_run"), log_options
)
def dev(directory: Path | None, engine: str | None, **overrides: Any) -> None:
    """Scanner and worker, with no server."""
    from node_timeout.embedded import dev as room  # noqa: PLC0415

    _configure_logs(_settings(overrides))
    where = directory or room.default_directory()
    _until_signal(lambda stop: room.run(where, stop, engine=engine))


@cli.command()
def demo() -> int:
    """Play a sample pipeline whose nodes hang, and see each dealt with."""
    from rich.console import Console  # noqa: PLC0415

    from node_timeout import logs  # noqa: PLC0415
    from node_timeout.embedded.demo import play  # noqa: PLC0415

    logs.configure("auto", "ERROR")
    console = Console(width=None if sys.stdout.isatty() else 140, highlight=False)
    return 0 if asyncio.run(play(console)) else FAILURE


def _settings(overrides: dict[str, Any]) -> "Settings":
    from node_timeout.settings import Settings  # noqa: PLC0415

    return Settings(**{name: value for name, value in overrides.items() if value is not None})


def _configure_logs(settings: "Settings") -> None:
    from node_timeout import logs  # noqa: PLC0415

    logs.configure(settings.log_format, settings.log_level)


def _who() -> str:
    """Who types this, for the history."""
    try:
        return getpass.getuser()[:128]
    except (KeyError, OSError):  # an id without a name, as in a container
        return f"uid {os.getuid()}"


def _freeze() -> None:
    """What was made for the start stays: a full collection need not look at it again."""
    gc.collect()
    gc.freeze()


async def _with_app(
    settings: "Settings", work: Callable[["NodeTimeout"], Coroutine[Any, Any, T]]
) -> T:
    from node_timeout.app import NodeTimeout  # noqa: PLC0415

    async with NodeTimeout(settings) as app:
        return await work(app)


def _with_library(work: Callable[["NodeTimeout"], Coroutine[Any, Any, T]]) -> T:
    settings = _settings({})
    _configure_logs(settings)
    return asyncio.run(_with_app(settings, work))


def _until_signal(work: Callable[[asyncio.Event], Coroutine[Any, Any, None]]) -> None:
    """Run until done; SIGTERM or SIGINT asks it to stop, a second one ends it at once."""

    async def go() -> None:
        stop = asyncio.Event()
        task = asyncio.ensure_future(work(stop))

        def signalled() -> None:
            if stop.is_set():
                task.cancel()
            stop.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, signalled)
        await task

    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(go())
