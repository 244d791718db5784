"""The command line: its commands, and how it reports mistakes and failures."""

import logging
import sys
from collections.abc import Sequence

import click

from node_timeout.cli import daemon, data, engines, letters, looking, steering, tokens
from node_timeout.cli.running import FAILURE, MISTAKE, complain
from node_timeout.domain.errors import (
    InvalidInputError,
    NodeTimeoutError,
    SettingsError,
    StrategyError,
)
from node_timeout.urls.redaction import excepthook

MISTAKES = (SettingsError, InvalidInputError, StrategyError)


def main(arguments: Sequence[str] | None = None, name: str | None = None) -> None:
    """Entry point. Prints one line for a mistake (exit code 2) or a failure (exit code 1).

    Only a bug has a traceback, which is logged. ``name``: the program's name in usage texts.
    """
    sys.excepthook = excepthook  # prints the traceback of a bug without secrets
    try:
        code = cli.main(args=arguments, prog_name=name, standalone_mode=False)
    except click.exceptions.Abort:
        code = 130
    except click.ClickException as error:
        code = complain(error.format_message(), MISTAKE)
    except Exception as error:  # noqa: BLE001 - nothing above can handle it
        code = _complain_of(error)
    sys.exit(code if isinstance(code, int) else 0)


def _complain_of(error: Exception) -> int:
    """Print a line for each known error, alone or in a group; log any other error in full."""
    group = error if isinstance(error, ExceptionGroup) else ExceptionGroup("errors", [error])
    known, bugs = group.split(NodeTimeoutError)
    errors = _leaves(known)
    for text in dict.fromkeys(map(str, errors)):
        complain(text, FAILURE)
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


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="node-timeout", message="%(version)s")
def cli() -> None:
    """Durable deadlines for the nodes of any workflow engine.

    Every setting is an environment variable NODE_TIMEOUT_…; each option that overrides a setting
    names the variable.
    """


for command in (
    *(daemon.scan, daemon.worker, daemon.serve, daemon.dev, daemon.demo),
    *(
        looking.check,
        engines.check_engine,
        looking.status,
        looking.processes,
        looking.list_runs,
        looking.names,
        looking.show,
        looking.lateness,
    ),
    *(steering.extend, steering.reconfigure, steering.pause, steering.resume),
    *(steering.fire, steering.cancel),
    *(steering.replay, steering.discard, steering.give_back),
    letters.letters,
    tokens.token,
    *(data.migrate, data.apply, data.import_bamboo, data.forget),
):
    cli.add_command(command)
