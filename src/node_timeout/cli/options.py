"""Options that several commands share."""

from collections.abc import Callable
from typing import Any

import click

from node_timeout.domain.durations import parse_move, parse_seconds
from node_timeout.domain.errors import InvalidInputError

Command = Callable[..., Any]


class Span(click.types.FloatParamType):
    """A number of seconds, or a duration such as PT1H."""

    name = "seconds"

    def __init__(self, least: float | None = None) -> None:
        self.least = least

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        try:
            seconds = parse_seconds(str(value))
        except InvalidInputError as error:
            self.fail(str(error), param, ctx)
        if self.least is not None and seconds < self.least:
            self.fail(f"{seconds:g} is less than {self.least:g}", param, ctx)
        return seconds


def setting(
    name: str, kind: Any, text: str, default: str, unit: str = ""
) -> Callable[[Command], Command]:
    """An option that overrides a setting; without it, the variable or the default applies."""
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
    setting("log_format", click.Choice(["auto", "text", "json"]), "Format of log lines.", "auto"),
    setting(
        "log_level",
        click.Choice(["DEBUG", "INFO", "WARNING", "ERROR"]),
        "Lowest level that is logged.",
        "INFO",
    ),
)
daemon_options = options(
    log_options,
    setting("metrics_host", str, "Address of the metrics port.", "127.0.0.1"),
    setting("metrics_port", int, "Port of /metrics, /healthz, /readyz.", "none"),
    setting("shutdown_timeout", Span(), "Time to finish after a stop signal.", "30", "seconds"),
)
engine_option = setting("engine", str, "Engine adapter for the strategies.", "none")
root_option = click.option("--root", "root_pipeline_id", help="Runs of this root pipeline only.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


def duration(_context: click.Context, _option: click.Parameter, text: str | None) -> float | None:
    """Option callback: the seconds of a duration; negative if it begins with a minus."""
    if text is None:
        return None
    try:
        return parse_move(text)
    except InvalidInputError as error:
        raise click.BadParameter(str(error)) from error
