"""Commands that run until stopped: scan, worker, serve, dev; and demo, which ends by itself.

Each imports its dependencies when it is called, so that ``--help`` is fast.
"""

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from node_timeout.cli.options import (
    Span,
    daemon_options,
    engine_option,
    log_options,
    options,
    setting,
)
from node_timeout.cli.running import (
    FAILURE,
    configure_logs,
    freeze,
    settings_of,
    until_signal,
    with_app,
)
from node_timeout.domain.errors import SettingsError

if TYPE_CHECKING:
    from node_timeout.app import NodeTimeout


@click.command()
@options(
    setting("scan_interval", Span(), "Longest sleep of an idle scanner.", "1", "seconds"),
    setting(
        "scan_batch_size", int, "Maximum number of node runs in one message.", "250", "node runs"
    ),
    setting("lease_seconds", Span(), "Duration of a claim's lease.", "15", "seconds"),
    daemon_options,
)
def scan(**overrides: Any) -> None:
    """Publish due nodes, and put back what Redis has lost."""
    settings = settings_of(overrides)
    configure_logs(settings)
    until_signal(lambda stop: with_app(settings, lambda app: app.scan(stop, ready=freeze)))


@click.command()
@click.option(
    "--queue",
    "queues",
    multiple=True,
    help="Queue to consume; may be given more than once.  "
    "[default: the dispatch queue; the handle queue and the events queue if set]",
)
@options(
    engine_option,
    setting(
        "worker_concurrency", int, "Maximum number of concurrent strategy calls.", "64", "calls"
    ),
    setting("strategy_timeout", Span(), "Time limit of a strategy call.", "30", "seconds"),
    setting("max_attempts", int, "Strategy calls before a node run is dead.", "20", "calls"),
    daemon_options,
)
def worker(queues: tuple[str, ...], **overrides: Any) -> None:
    """Deal with timed-out nodes."""
    settings = settings_of(overrides)
    configure_logs(settings)
    until_signal(lambda stop: with_app(settings, lambda app: app.work(stop, queues, ready=freeze)))


@click.command()
@options(
    setting("web_host", str, "Address to listen on.", "127.0.0.1"),
    setting("web_port", int, "Port to listen on.", "8642"),
    click.option(
        "--read-only",
        "web_read_only",
        is_flag=True,
        help="Refuse all requests that change something.",
    ),
    log_options,
)
def serve(*, web_read_only: bool, **overrides: Any) -> None:
    """Serve the HTTP API and the web console."""
    try:
        from node_timeout.web.server import WebServer  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"the web console is not installed ({error.name}); pip install 'node-timeout[web]'"
        ) from error
    settings = settings_of(overrides | ({"web_read_only": True} if web_read_only else {}))
    configure_logs(settings)

    async def work(app: "NodeTimeout", stop: asyncio.Event) -> None:
        server = WebServer(app)
        freeze()
        await server.run(stop, name=app.wiring.process_name("web"))

    until_signal(lambda stop: with_app(settings, lambda app: work(app, stop)))


@click.command()
@click.option(
    "--directory",
    type=click.Path(path_type=Path, file_okay=False),
    help="Directory for its data.  [default: the user's data directory]",
)
@click.option("--port", type=click.IntRange(1, 65535), help="Port of the console.  [default: 8642]")
@click.option("--sample", is_flag=True, help="Add a hanging node and a dead run, as samples.")
@options(
    setting("engine", str, "Engine adapter for the strategies.", "none; dev takes dry_run"),
    log_options,
)
def dev(
    directory: Path | None, port: int | None, sample: bool, engine: str | None, **overrides: Any
) -> None:
    """Run scanner, worker and console, with no external server."""
    from node_timeout.embedded import dev as room  # noqa: PLC0415

    configure_logs(settings_of(overrides))
    where = directory or room.default_directory()
    until_signal(lambda stop: room.run(where, stop, engine=engine, port=port, sample=sample))


@click.command()
def demo() -> int:
    """Run a sample pipeline whose nodes hang.

    It shows how each node is dealt with. Exit code 1 if a node did not end as expected.
    """
    from rich.console import Console  # noqa: PLC0415

    from node_timeout import logs  # noqa: PLC0415
    from node_timeout.embedded.demo import play  # noqa: PLC0415

    logs.configure("auto", "ERROR")
    console = Console(width=None if sys.stdout.isatty() else 140, highlight=False)
    return 0 if asyncio.run(play(console)) else FAILURE
