"""The reason for failing a node, which an engine shows beside it: a template, to translate."""

from __future__ import annotations

from string import Formatter

from node_timeout.domain.run import TimedOutNode

DEFAULT_REASON = "node {node_id} timed out (version {version}, action {action})"
FIELDS = ("node_id", "version", "root_pipeline_id", "action", "seconds", "attempt")


def template_problem(template: str) -> str | None:
    """Say what is wrong with a template, or return None."""
    try:
        names = [name for _, name, *_ in Formatter().parse(template) if name is not None]
    except ValueError as error:
        return f"is no template: {error}; write a brace of the text twice"
    if unknown := [name for name in names if name not in FIELDS]:
        known = ", ".join(f"{{{name}}}" for name in FIELDS)
        return f"has {{{unknown[0]}}}; known are {known}"
    if any(spec or conversion for _, name, spec, conversion in Formatter().parse(template) if name):
        return "has a format inside braces; only names may stand there"
    return None


def reason_of(template: str, node: TimedOutNode) -> str:
    """The template filled with a node's values; `template_problem` must accept the template."""
    values = {name: getattr(node, name) for name in FIELDS}
    seconds = node.seconds
    return template.format_map(values | {"seconds": "?" if seconds is None else f"{seconds:.15g}"})
