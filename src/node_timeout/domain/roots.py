"""Which root pipeline is meant where none is named: the only one that has a config for the node."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from node_timeout.domain.errors import AmbiguousNodeError
from node_timeout.domain.hints import shown


def only_root(node_id: str, roots: Sequence[str]) -> str | None:
    """The one root of a node; None if it has none. Raises `AmbiguousNodeError`, never guesses.

    Of several ``roots`` it is enough to give two.
    """
    if len(roots) > 1:
        raise AmbiguousNodeError(
            f"node {shown(node_id)} is in several root pipelines, "
            f"{' and '.join(map(shown, roots))} among them: say which root pipeline is meant"
        )
    return roots[0] if roots else None


def first_and_last(live: Collection[str], ended: Collection[str]) -> tuple[str, ...]:
    """Of the root pipelines that have a node: one, or the first and the last of several.

    Those that have ended count only if there is no other.
    """
    names = sorted(live or ended)
    return tuple(dict.fromkeys((names[0], names[-1]))) if names else ()


def no_config(node_id: str) -> str:
    """Why nothing is done about a node."""
    return f"no timeout config is stored for node {shown(node_id)}"
