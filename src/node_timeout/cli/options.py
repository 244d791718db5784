"""Options that several commands have."""

from collections.abc import Callable
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
dry_run_option = click.option("--dry-run", is_flag=True, help="Change nothing; name the runs.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
dead_options = options(
    click.option("--node", "node_id", help="Dead runs of this node."),
    click.option("--version", "version", help="With --node: exactly this version, no other."),
    click.option("--root", "root_pipeline_id", help="Dead runs of this root pipeline."),
    click.option("--all", "everything", is_flag=True, help="All dead runs, and nothing beside it."),
    dry_run_option,
)
