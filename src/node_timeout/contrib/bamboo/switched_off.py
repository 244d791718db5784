"""The client of a project in which node-timeout is switched off."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NoReturn

from node_timeout.contrib.bamboo.project_client import ProjectClient
from node_timeout.domain.errors import NodeTimeoutError
from node_timeout.domain.run import LedgerRow
from node_timeout.operations.reading import read_tree, read_trees, to_forget

OFF = "node-timeout is off: NODE_TIMEOUT['enabled'] is False"


class SwitchedOff(ProjectClient):
    """Never connects: it stores nothing and arms nothing. Calls that need a store raise."""

    def batch_create_node_timeout_config(
        self,
        root_pipeline_id: Any,
        pipeline_tree: Any,
        *,
        lenient: bool = False,
        payload: Any = None,
    ) -> dict[str, Any]:
        """See `NodeTimeout`; but the configs in ``data`` are not stored; ``message`` says so."""
        result, _ = read_tree(
            root_pipeline_id,
            pipeline_tree,
            self.settings.rules,
            lenient=lenient,
            payload=payload,
        )
        return _off(result)

    def batch_create_node_timeout_configs(
        self, pipeline_trees: Any, *, lenient: bool = False
    ) -> dict[str, Any]:
        """The same for many trees."""
        result, _ = read_trees(pipeline_trees, self.settings.rules, lenient=lenient)
        return _off(result)

    def node_started(self, *_: Any, **__: Any) -> bool:
        return False

    def node_left(self, *_: Any, **__: Any) -> int:
        return 0

    def node_paused(self, *_: Any, **__: Any) -> bool:
        return False

    def nodes_started(self, *_: Any, **__: Any) -> int:
        return 0

    def nodes_left(self, *_: Any, **__: Any) -> int:
        return 0

    def forget(self, root_pipeline_id: str, node_ids: Iterable[str] | None = None) -> int:
        to_forget(root_pipeline_id, node_ids)
        return 0

    def root_finished(self, *_: Any, **__: Any) -> int:
        return 0

    def rows(self, node_id: str, root_pipeline_id: str | None = None) -> list[LedgerRow]:
        del node_id, root_pipeline_id
        return []

    def _over(self, name: str) -> NoReturn:
        del name
        raise NodeTimeoutError(OFF)


def _off(result: dict[str, Any]) -> dict[str, Any]:
    if result["result"]:
        result["message"] = "; ".join(filter(None, [OFF, result["message"]]))
    return result
