"""A cache of the configs of root pipelines, for a few seconds.

Most pipelines have no configs, and in the others most nodes have none. The engine reports every
state of each node: a cached answer saves a query.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

from node_timeout.domain.timeout_config import TimeoutConfig

KEPT_SECONDS = 10.0
"""How long a change by another process may be unknown here."""
MAX_ROOTS = 10_000
MAX_SIZE = 50_000
"""The most configs of all roots together; a long payload counts as several."""
PAYLOAD_OF_ONE = 500
"""Characters of payload that count as one more config."""

Configs = Mapping[str, TimeoutConfig]
"""The configs of one root, by node id."""


class RootConfigs:
    """Thread-safe; no thread waits while another reads from the ledger."""

    def __init__(
        self, load: Callable[[str], Configs], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """``load`` reads the configs of a root from the ledger, and may raise its errors."""
        self._load = load
        self._clock = clock
        self._kept: dict[str, tuple[float, Configs]] = {}
        """By root: until when its configs are valid, and the configs; in the order of reading."""
        self._size = 0
        self._changes = 0
        """How often `forget` was called."""
        self._changing = threading.Lock()

    def of(self, root_pipeline_id: str) -> Configs:
        """The configs of a root as they were at most `KEPT_SECONDS` ago; usually none."""
        kept = self._kept.get(root_pipeline_id)
        if kept is not None and self._clock() < kept[0]:
            return kept[1]
        changes = self._changes
        found = self._load(root_pipeline_id)
        with self._changing:
            self._drop(root_pipeline_id)
            if changes != self._changes:  # forgotten meanwhile: what was read may be old
                return found
            self._kept[root_pipeline_id] = (self._clock() + KEPT_SECONDS, found)
            self._size += _size(found)
            while self._is_too_large():
                self._drop(next(iter(self._kept)))
        return found

    def forget(self, root_pipeline_id: str) -> None:
        """Drop the configs of a root: they were changed here, or are not needed any more."""
        with self._changing:
            self._changes += 1
            self._drop(root_pipeline_id)

    def _is_too_large(self) -> bool:
        count = len(self._kept)
        return count > MAX_ROOTS or (self._size > MAX_SIZE and count > 1)

    def _drop(self, root_pipeline_id: str) -> None:
        kept = self._kept.pop(root_pipeline_id, None)
        if kept is not None:
            self._size -= _size(kept[1])


def _size(configs: Configs) -> int:
    return sum(1 + len(each.payload_json or "") // PAYLOAD_OF_ONE for each in configs.values())
