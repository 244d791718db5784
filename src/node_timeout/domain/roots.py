"""Finds the root pipeline if none is named: the only one that has a config for the node."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from node_timeout.domain.errors import AmbiguousNodeError
from node_timeout.domain.hints import shown


def only_root(node_id: str, roots: Sequence[str]) -> str | None:
    """The one root of a node; None if it has none. Raises `AmbiguousNodeError`, never guesses.

    If there are several ``roots``, two of them are enough.
    """
    if len(roots) > 1:
        raise AmbiguousNodeError(
            f"node {shown(node_id)} is in several root pipelines, "
            f"{' and '.join(map(shown, roots))} among them: say which root pipeline is meant"
        )
    return roots[0] if roots else None


def first_and_last(live: Collection[str], ended: Collection[str]) -> tuple[str, ...]:
    """The root pipelines that have a node: the only one, or the first and the last of several.

    Ended root pipelines count only if there is no live one.
    """
    names = sorted(live or ended)
    return tuple(dict.fromkeys((names[0], names[-1]))) if names else ()


def no_config(node_id: str) -> str:
    """The message that a node has no config, so that nothing deals with it."""
    return f"no timeout config is stored for node {shown(node_id)}"
