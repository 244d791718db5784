"""Routes: the queues whose workers run strategies."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Routes:
    """Where a strategy runs: the queue of its action, else the handle queue, else here (None)."""

    dispatch_queue: str
    handle_queue: str | None = None
    handle_queues: Mapping[str, str] = field(default_factory=dict)

    @property
    def queues(self) -> list[str]:
        """Every queue by name, the dispatch queue first."""
        named = [self.dispatch_queue, self.handle_queue, *self.handle_queues.values()]
        return list(dict.fromkeys(name for name in named if name))

    def target(self, action: str | None) -> str | None:
        """The queue of an action (None: the run is unknown); the result None means here."""
        return self.handle_queues.get(action or "", self.handle_queue)
