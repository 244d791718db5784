"""The client of a Django project, with the methods of `BlockingNodeTimeout`, the asyncio bridge."""

# mypy: disable-error-code="no-any-return"
# One distribution lacks the bridge, so its calls have no types.

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from node_timeout.contrib.bamboo.app_settings import AppSettings
from node_timeout.contrib.bamboo.installed import beyond
from node_timeout.domain.history import HistoryEntry
from node_timeout.domain.run import LedgerRow
from node_timeout.domain.timeout_config import apply_configs
from node_timeout.older_python import Self


class ProjectClient:
    """Every call uses the bridge; the derived clients need it for few calls, or for none.

    Without a bridge, as in `node-timeout-bamboo`, such a call raises `NodeTimeoutError`.
    """

    def __init__(self, settings: AppSettings, bridge: Any = None) -> None:
        """``bridge``: a `BlockingNodeTimeout`, which starts its thread and connects only when a
        call needs it.
        """
        self.settings = settings
        self.bridge = bridge

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; a later call opens new ones."""
        if self.bridge is not None:
            self.bridge.close()

    def _over(self, name: str) -> Any:
        """The bridge's method of this name."""
        if self.bridge is None:
            raise beyond(f"{name}()")
        return getattr(self.bridge, name)

    def apply_node_timeout_configs(self, pipeline_tree: Any, configs: Any) -> dict[str, Any]:
        """`node_timeout.apply_node_timeout_configs` with these settings; it never connects."""
        return apply_configs(pipeline_tree, configs, self.settings.rules)

    def batch_create_node_timeout_config(
        self,
        root_pipeline_id: Any,
        pipeline_tree: Any,
        *,
        lenient: bool = False,
        payload: Any = None,
    ) -> dict[str, Any]:
        return self._over("batch_create_node_timeout_config")(
            root_pipeline_id, pipeline_tree, lenient=lenient, payload=payload
        )

    def batch_create_node_timeout_configs(
        self, pipeline_trees: Any, *, lenient: bool = False
    ) -> dict[str, Any]:
        return self._over("batch_create_node_timeout_configs")(pipeline_trees, lenient=lenient)

    def forget(self, root_pipeline_id: str, node_ids: Iterable[str] | None = None) -> int:
        return self._over("forget")(root_pipeline_id, node_ids)

    def root_finished(self, root_pipeline_id: str) -> int:
        return self._over("root_finished")(root_pipeline_id)

    def node_started(
        self,
        node_id: str,
        version: str,
        root_pipeline_id: str | None = None,
        *,
        happened_at: float | None = None,
    ) -> bool:
        return self._over("node_started")(
            node_id, version, root_pipeline_id, happened_at=happened_at
        )

    def node_left(
        self,
        node_id: str,
        version: str | None = None,
        root_pipeline_id: str | None = None,
        *,
        happened_at: float | None = None,
        trust_ledger: bool = False,
    ) -> int:
        return self._over("node_left")(
            node_id,
            version,
            root_pipeline_id,
            happened_at=happened_at,
            trust_ledger=trust_ledger,
        )

    def node_paused(
        self,
        node_id: str,
        version: str,
        root_pipeline_id: str | None = None,
        *,
        happened_at: float | None = None,
    ) -> bool:
        return self._over("node_paused")(
            node_id, version, root_pipeline_id, happened_at=happened_at
        )

    def nodes_started(
        self, runs: Iterable[Sequence[str]], *, happened_at: float | None = None
    ) -> int:
        return self._over("nodes_started")(runs, happened_at=happened_at)

    def nodes_left(
        self,
        nodes: Iterable[Sequence[str | None]],
        *,
        happened_at: float | None = None,
        trust_ledger: bool = False,
    ) -> int:
        return self._over("nodes_left")(nodes, happened_at=happened_at, trust_ledger=trust_ledger)

    def rows(self, node_id: str, root_pipeline_id: str | None = None) -> list[LedgerRow]:
        return self._over("rows")(node_id, root_pipeline_id)

    def history(self, run_ids: Sequence[str]) -> list[HistoryEntry]:
        return self._over("history")(run_ids)

    # Queries and changes of many runs: only over the bridge

    def find(self, **which: Any) -> Any:
        return self._over("find")(**which)

    def extend(self, *which: Any, **how: Any) -> Any:
        return self._over("extend")(*which, **how)

    def reconfigure(self, *which: Any, **how: Any) -> Any:
        return self._over("reconfigure")(*which, **how)

    def pause(self, *which: Any, **how: Any) -> Any:
        return self._over("pause")(*which, **how)

    def resume(self, *which: Any, **how: Any) -> Any:
        return self._over("resume")(*which, **how)

    def fire(self, *which: Any, **how: Any) -> Any:
        return self._over("fire")(*which, **how)

    def cancel(self, *which: Any, **how: Any) -> Any:
        return self._over("cancel")(*which, **how)

    def replay(self, *which: Any, **how: Any) -> Any:
        return self._over("replay")(*which, **how)

    def discard(self, *which: Any, **how: Any) -> Any:
        return self._over("discard")(*which, **how)

    def give_back(self) -> Any:
        return self._over("give_back")()

    def processes(self) -> Any:
        return self._over("processes")()

    def status(self, recent: int = 10) -> Any:
        return self._over("status")(recent)
