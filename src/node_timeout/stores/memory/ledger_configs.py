"""Configs of the ledger in memory, and what all its parts need."""

from collections.abc import Iterable, Sequence

from node_timeout.domain import changes
from node_timeout.domain.history import HistoryEntry
from node_timeout.domain.roots import first_and_last
from node_timeout.domain.run import LedgerRow, Node, RunState
from node_timeout.domain.timeout_config import TimeoutConfig

OPEN = (*changes.OPEN, RunState.EXECUTING)


class MemoryConfigs:
    """The part of `node_timeout.ports.ledger.Ledger` that is about configs."""

    def __init__(self) -> None:
        super().__init__()
        self._configs: dict[Node, tuple[TimeoutConfig, float | None]] = {}
        """By node: its config, and the instant at which that expires."""
        self._rows: dict[str, LedgerRow] = {}
        self._history: dict[str, list[HistoryEntry]] = {}
        self._settings: dict[str, str] = {}

    def _config(self, node: Node) -> TimeoutConfig | None:
        return self._configs[node][0] if node in self._configs else None

    def _known(self, run_ids: Iterable[str]) -> list[LedgerRow]:
        return [self._rows[run_id] for run_id in run_ids if run_id in self._rows]

    def _store(self, rows: Iterable[LedgerRow]) -> None:
        for row in list(rows):
            self._rows[row.run_id] = row

    def _note(self, entries: Iterable[HistoryEntry]) -> None:
        for entry in entries:
            self._history.setdefault(entry.run_id, []).append(entry)

    def _delete(self, run_ids: Iterable[str]) -> int:
        there = [run_id for run_id in run_ids if run_id in self._rows]
        for run_id in there:
            del self._rows[run_id]
            self._history.pop(run_id, None)
        return len(there)

    async def save_configs(
        self, configs: Sequence[TimeoutConfig], disabled: Sequence[Node]
    ) -> None:
        self._configs.update({config.node: (config, None) for config in configs})
        for node in disabled:
            self._configs.pop(node, None)

    async def end_root(self, root_pipeline_id: str, expires_at: float) -> int:
        lasting = [
            node
            for node, (_, until) in self._configs.items()
            if node[0] == root_pipeline_id and until is None
        ]
        for node in lasting:
            self._configs[node] = (self._configs[node][0], expires_at)
        return len(lasting)

    async def forget_root(
        self, root_pipeline_id: str, node_ids: Sequence[str] | None = None
    ) -> int:
        gone = [
            (root, node_id)
            for root, node_id in self._configs
            if root == root_pipeline_id and (node_ids is None or node_id in node_ids)
        ]
        for node in gone:
            del self._configs[node]
        return len(gone)

    async def purge_configs(self, now: float, limit: int) -> int:
        ends = {node: until for node, (_, until) in self._configs.items() if until is not None}
        gone = [node for node in sorted(ends, key=lambda node: ends[node]) if ends[node] < now]
        for node in gone[:limit]:
            del self._configs[node]
        return len(gone[:limit])

    async def add_configs(self, configs: Sequence[TimeoutConfig]) -> int:
        new = {config.node: config for config in configs if config.node not in self._configs}
        self._configs.update({node: (config, None) for node, config in new.items()})
        return len(new)

    async def configs(self, nodes: Sequence[Node]) -> dict[Node, TimeoutConfig]:
        return {node: config for node in nodes if (config := self._config(node))}

    async def roots(
        self, node_ids: Sequence[str], *, of_open_runs: bool = False
    ) -> dict[str, tuple[str, ...]]:
        roots: dict[str, tuple[str, ...]] = {}
        for node_id in node_ids:
            ends = {
                root: end for (root, node), (_, end) in self._configs.items() if node == node_id
            }
            live = {root for root, end in ends.items() if end is None}
            if of_open_runs:
                live |= {
                    row.root_pipeline_id
                    for row in self._rows.values()
                    if row.node_id == node_id and row.state in OPEN
                }
            if found := first_and_last(live, ends):
                roots[node_id] = found
        return roots

    async def configured(self, after: Node | None, limit: int) -> list[Node]:
        live = sorted(node for node, (_, end) in self._configs.items() if end is None)
        return [node for node in live if after is None or node > after][:limit]
