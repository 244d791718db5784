"""Reads bamboo's pipeline tree: which nodes it holds.

    {"activities": {node id: node}, "gateways": {node id: node},
     "start_event": node, "end_event": node}

An activity of type ``SubProcess`` or ``SubCanvas`` nests such a tree under ``pipeline``. Only an
activity of type ``ServiceActivity`` can time out.
"""

from __future__ import annotations

from typing import Any

from node_timeout.domain.errors import InvalidPipelineTreeError
from node_timeout.domain.hints import nearest, shown
from node_timeout.older_python import Self, dataclass

MAX_SUB_PROCESS_DEPTH = 50

SERVICE_ACTIVITY = "ServiceActivity"
NESTING = ("SubProcess", "SubCanvas")


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineTree:
    """The nodes of a tree and of the trees inside it."""

    nodes: dict[Any, dict[str, Any]]
    """By node id: activities, gateways, events. These are the tree's own dicts, not copies."""
    passed_over: tuple[str, ...]
    """One sentence for each part that is not a node or not a tree, and so names no node."""

    @classmethod
    def of(cls, tree: Any) -> Self:
        """Read a tree, without recursion and in linear time.

        Raises `InvalidPipelineTreeError` if it is not a tree, contains itself, is nested too deep,
        or holds a node id twice.
        """
        if problem := _problem(tree):
            raise InvalidPipelineTreeError(f"the pipeline tree {problem}")
        nodes: dict[Any, dict[str, Any]] = {}
        others: list[tuple[str, dict[str, Any]]] = []
        passed_over: list[str] = []
        pending: list[tuple[str, dict[str, Any], tuple[int, ...]]] = [
            ("the pipeline tree", tree, ())
        ]
        while pending:
            where, subtree, outer = pending.pop()
            if id(subtree) in outer:
                raise InvalidPipelineTreeError(f"{where} contains itself")
            if len(outer) > MAX_SUB_PROCESS_DEPTH:
                raise InvalidPipelineTreeError(
                    f"{where} is nested deeper than {MAX_SUB_PROCESS_DEPTH} sub-processes"
                )
            for node_id, node in subtree["activities"].items():
                if not isinstance(node, dict):
                    passed_over.append(
                        f"node {shown(node_id)} is {type(node).__name__}, not a dict: it is ignored"
                    )
                    continue
                if node_id in nodes:
                    raise InvalidPipelineTreeError(
                        f"node {shown(node_id)} stands twice in the tree"
                    )
                nodes[node_id] = node
                if node.get("type") not in NESTING:
                    continue
                name = f"the 'pipeline' of {node['type']} {shown(node_id)}"
                if problem := _problem(node.get("pipeline")):
                    passed_over.append(f"{name} {problem}: no node inside it gets a timeout")
                else:
                    pending.append((name, node["pipeline"], (*outer, id(subtree))))
            others += _gateways_and_events(subtree)
        return cls(nodes=dict(others) | nodes, passed_over=tuple(passed_over))


def type_of(node: dict[str, Any]) -> str:
    """The type of a node, with its article."""
    kind = node.get("type")
    return f"a {kind:.80}" if kind and isinstance(kind, str) else "a node without a type"


def _problem(tree: Any) -> str | None:
    """Why this is not a tree, as the end of a sentence; None if it is one."""
    if tree is None:
        return "is missing"
    if not isinstance(tree, dict):
        return f"is {type(tree).__name__}, not a dict"
    if isinstance(tree.get("activities"), dict):
        return None
    close = nearest("activities", tree)
    return "has no dict 'activities' (node id to node)" + (
        f"; is it {close!r}?" if close and close != "activities" else ""
    )


def _gateways_and_events(tree: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The gateways and events. They cannot have a timeout, but may carry a config."""
    gateways = tree.get("gateways")
    found = list(gateways.items()) if isinstance(gateways, dict) else []
    events = [tree.get(name) for name in ("start_event", "end_event")]
    found += [(event.get("id"), event) for event in events if isinstance(event, dict)]
    return [
        (node_id, node)
        for node_id, node in found
        if isinstance(node_id, str) and isinstance(node, dict)
    ]
