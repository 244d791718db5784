"""Options that several commands have."""

from collections.abc import Callable, Mapping
from typing import Any

import click

Command = Callable[..., Any]


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
root_option = click.option("--root", "root_pipeline_id", help="In this root pipeline only.")
reason_option = click.option("--reason", help="Why, for the history.")
dead_options = options(
    click.option("--node", "node_id", help="Dead versions of this node."),
    click.option("--root", "root_pipeline_id", help="Dead nodes of this root pipeline."),
    click.option("--all", "everything", is_flag=True, help="All dead nodes."),
)


def require_one(which: Mapping[str, Any]) -> None:
    """Of `dead_options` exactly one is given."""
    if sum(value not in (None, False) for value in which.values()) != 1:
        raise click.UsageError("choose one of --node, --root and --all")
