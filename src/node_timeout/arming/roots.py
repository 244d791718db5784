"""Finds the root pipelines of events that do not name theirs, among the stored configs.

The config of a run may have come with its start, or may be deleted by now. So a `NodeLeft` event is
also looked up among the open runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from node_timeout.domain.errors import AmbiguousNodeError
from node_timeout.domain.events import Event, NodeLeft, NodeStarted
from node_timeout.domain.roots import only_root
from node_timeout.ports.ledger import Ledger

SHOWN = 2
"""How many roots an error names."""

E = TypeVar("E", NodeStarted, NodeLeft, Event)


@dataclass(slots=True)
class Rooted(Generic[E]):
    """Events, sorted by whether their root was found."""

    events: list[E] = field(default_factory=list)
    """Events with their root, in their original order."""
    origins: dict[int, E] = field(default_factory=dict)
    """The original event, by the ``id()`` of the event that has the root."""
    unknown: list[E] = field(default_factory=list)
    """Events whose nodes have no config and no open run: there is nothing to do."""
    ambiguous: list[tuple[E, AmbiguousNodeError]] = field(default_factory=list)


async def find_roots(events: Sequence[E], ledger: Ledger) -> Rooted[E]:
    """Give each event its root. Costs one read if starts lack it, one if `NodeLeft` events do.

    Raises `LedgerUnavailableError`.
    """
    roots: dict[type, dict[str, tuple[str, ...]]] = {NodeStarted: {}, NodeLeft: {}}
    for kind in roots:
        lacking = {
            each.node_id
            for each in events
            if each.root_pipeline_id is None and isinstance(each, kind)
        }
        if lacking:
            of_open_runs = kind is NodeLeft
            roots[kind] = await ledger.roots(sorted(lacking), of_open_runs=of_open_runs)
    brought: dict[str, set[str]] = {}
    """By node id: the roots named by configs that starts of this batch carry."""
    for start in events:
        if isinstance(start, NodeStarted) and start.config is not None:
            brought.setdefault(start.node_id, set()).add(start.config.root_pipeline_id)
    found: Rooted[E] = Rooted()
    event: E
    for event in events:
        if event.root_pipeline_id is not None:
            found.events.append(event)
            continue
        known = {*roots[type(event)].get(event.node_id, ()), *brought.get(event.node_id, ())}
        try:
            root = only_root(event.node_id, sorted(known)[:SHOWN])
        except AmbiguousNodeError as error:
            found.ambiguous.append((event, error))
            continue
        if root is None:
            found.unknown.append(event)
        else:
            rooted = replace(event, root_pipeline_id=root)
            found.events.append(rooted)
            found.origins[id(rooted)] = event
    return found


def ambiguity(rooted: Rooted[E]) -> AmbiguousNodeError:
    """One error that names every ambiguous node."""
    return AmbiguousNodeError(*dict.fromkeys(str(error) for _, error in rooted.ambiguous))
