"""Durable deadlines for the nodes of any workflow engine. Only the public names are here.

Each is imported at its first use, so that the command line starts fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from node_timeout.app import NodeTimeout as NodeTimeout
    from node_timeout.app import apply_node_timeout_configs as apply_node_timeout_configs
    from node_timeout.blocking import BlockingNodeTimeout as BlockingNodeTimeout
    from node_timeout.blocking import (
        batch_create_node_timeout_config as batch_create_node_timeout_config,
    )
    from node_timeout.domain.errors import AmbiguousNodeError as AmbiguousNodeError
    from node_timeout.domain.errors import EngineRestingError as EngineRestingError
    from node_timeout.domain.errors import EngineUnavailableError as EngineUnavailableError
    from node_timeout.domain.errors import ExchangeUnavailableError as ExchangeUnavailableError
    from node_timeout.domain.errors import GreenThreadsError as GreenThreadsError
    from node_timeout.domain.errors import InvalidInputError as InvalidInputError
    from node_timeout.domain.errors import InvalidNodeRunError as InvalidNodeRunError
    from node_timeout.domain.errors import InvalidPipelineTreeError as InvalidPipelineTreeError
    from node_timeout.domain.errors import InvalidTimeoutConfigError as InvalidTimeoutConfigError
    from node_timeout.domain.errors import LedgerError as LedgerError
    from node_timeout.domain.errors import LedgerUnavailableError as LedgerUnavailableError
    from node_timeout.domain.errors import NodeRunSupersededError as NodeRunSupersededError
    from node_timeout.domain.errors import NodeTimeoutError as NodeTimeoutError
    from node_timeout.domain.errors import NotConfirmedError as NotConfirmedError
    from node_timeout.domain.errors import PoolUnavailableError as PoolUnavailableError
    from node_timeout.domain.errors import QueueMismatchError as QueueMismatchError
    from node_timeout.domain.errors import SchemaError as SchemaError
    from node_timeout.domain.errors import SettingsError as SettingsError
    from node_timeout.domain.errors import StrategyError as StrategyError
    from node_timeout.domain.errors import StrategyRefusedError as StrategyRefusedError
    from node_timeout.domain.errors import TemporaryError as TemporaryError
    from node_timeout.domain.errors import UnreadableMessageError as UnreadableMessageError
    from node_timeout.domain.events import NodeStarted as NodeStarted
    from node_timeout.domain.history import HistoryEntry as HistoryEntry
    from node_timeout.domain.history import HistoryKind as HistoryKind
    from node_timeout.domain.run import LedgerRow as LedgerRow
    from node_timeout.domain.run import NodeRun as NodeRun
    from node_timeout.domain.run import RunState as RunState
    from node_timeout.domain.run import TimedOutNode as TimedOutNode
    from node_timeout.domain.timeout_config import TimeoutConfig as TimeoutConfig
    from node_timeout.operations.configs import ImportReport as ImportReport
    from node_timeout.operations.give_back import GiveBackReport as GiveBackReport
    from node_timeout.ports.directory import RunPage as RunPage
    from node_timeout.ports.engine import CheckableEngine as CheckableEngine
    from node_timeout.ports.engine import Engine as Engine
    from node_timeout.ports.engine import SurveyableEngine as SurveyableEngine
    from node_timeout.ports.presence import Process as Process
    from node_timeout.ports.presence import ServiceState as ServiceState
    from node_timeout.settings import Settings as Settings
    from node_timeout.status import Status as Status
    from node_timeout.strategies.base import ForcedFailAndSkipStrategy as ForcedFailAndSkipStrategy
    from node_timeout.strategies.base import ForcedFailStrategy as ForcedFailStrategy
    from node_timeout.strategies.base import NodeTimeoutStrategy as NodeTimeoutStrategy
    from node_timeout.strategies.base import StrategyResult as StrategyResult

    apply_node_timout_configs = apply_node_timeout_configs

_ROOMS = {
    "app": ("NodeTimeout", "apply_node_timeout_configs"),
    "operations.configs": ("ImportReport",),
    "blocking": ("BlockingNodeTimeout", "batch_create_node_timeout_config"),
    "domain.errors": (
        "AmbiguousNodeError",
        "EngineRestingError",
        "EngineUnavailableError",
        "ExchangeUnavailableError",
        "GreenThreadsError",
        "InvalidInputError",
        "InvalidNodeRunError",
        "InvalidPipelineTreeError",
        "InvalidTimeoutConfigError",
        "LedgerError",
        "LedgerUnavailableError",
        "NodeRunSupersededError",
        "NodeTimeoutError",
        "NotConfirmedError",
        "PoolUnavailableError",
        "QueueMismatchError",
        "SchemaError",
        "SettingsError",
        "StrategyError",
        "StrategyRefusedError",
        "TemporaryError",
        "UnreadableMessageError",
    ),
    "domain.events": ("NodeStarted",),
    "domain.run": (
        "HistoryEntry",
        "HistoryKind",
        "LedgerRow",
        "NodeRun",
        "RunState",
        "TimedOutNode",
    ),
    "operations.give_back": ("GiveBackReport",),
    "ports.directory": ("RunPage",),
    "ports.engine": ("CheckableEngine", "Engine", "SurveyableEngine"),
    "ports.presence": ("Process", "ServiceState"),
    "settings": ("Settings",),
    "status": ("Status",),
    "strategies.base": (
        "ForcedFailAndSkipStrategy",
        "ForcedFailStrategy",
        "NodeTimeoutStrategy",
        "StrategyResult",
    ),
    "domain.timeout_config": ("TimeoutConfig",),
}
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names}
# The original's spelling, which its users import.
_ALIASES = {"apply_node_timout_configs": "apply_node_timeout_configs"}

__all__ = [*_ROOM_OF, *_ALIASES]  # noqa: PLE0604 - all of them are text


if not TYPE_CHECKING:  # so that a type checker refuses names that are not listed above

    def __getattr__(name: str) -> Any:
        name = _ALIASES.get(name, name)
        if name not in _ROOM_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        try:
            room = import_module(f"{__name__}.{_ROOM_OF[name]}")
        except ModuleNotFoundError as error:
            if not (error.name or "").startswith(__name__):
                raise
            raise ImportError(
                f"{name} is not part of node-timeout-bamboo, which is installed here; it is in "
                "node-timeout, which needs Python 3.11 or newer"
            ) from None
        return getattr(room, name)


def __dir__() -> list[str]:
    return sorted(__all__)
