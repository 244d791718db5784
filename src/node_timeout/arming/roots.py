"""The root pipelines of events that do not name theirs: looked up among the stored configs.

The config of a run may have come with its start, or be gone by now; so a leaving is also looked up
among the open runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from node_timeout.domain.errors import AmbiguousNodeError
from node_timeout.domain.events import Event, NodeLeft, NodeStarted
from node_timeout.domain.roots import only_root
from node_timeout.ports.ledger import Ledger

SHOWN = 2
"""Roots that an error names."""

E = TypeVar("E", NodeStarted, NodeLeft, Event)


@dataclass(slots=True)
class Rooted(Generic[E]):
    """Events by what is known of their roots."""

    events: list[E] = field(default_factory=list)
    """Each with its root, in the order of before."""
    origins: dict[int, E] = field(default_factory=dict)
    """What an event was, by the identity of the one with its root."""
    unknown: list[E] = field(default_factory=list)
    """Their nodes have no config, nor an open run: nothing is to be done."""
    ambiguous: list[tuple[E, AmbiguousNodeError]] = field(default_factory=list)


async def find_roots(events: Sequence[E], ledger: Ledger) -> Rooted[E]:
    """Give each event its root. Costs a read for starts that lack it, and one for leavings.

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
    """By starts of the same batch, with their configs."""
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
    """One error that names every node of which it is not known which one is meant."""
    return AmbiguousNodeError(*dict.fromkeys(str(error) for _, error in rooted.ambiguous))
