"""The names of the ledger's tables, and the domain's values as rows, whichever driver is used."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from node_timeout.domain.history import HistoryEntry, HistoryKind
from node_timeout.domain.run import LedgerRow, RunState, StoppedBy
from node_timeout.domain.timeout_config import TimeoutConfig

logger = logging.getLogger(__name__)

CONFIGS, RUNS = "node_timeout_config", "node_timeout_run"
HISTORY, SETTINGS = "node_timeout_history", "node_timeout_setting"
TOKENS = "node_timeout_token"

STATES = {each.value: each for each in RunState}
KINDS = {each.value: each for each in HistoryKind}
STOPPED_BY = {each.value: each for each in StoppedBy}
CONFIG_COLUMNS = tuple(each.name for each in dataclasses.fields(TimeoutConfig))
ROW_NAMES = tuple(each.name for each in dataclasses.fields(LedgerRow))
"""The columns of a `LedgerRow`, without the run id, which is computed."""
RUN_COLUMNS = ("run_id", *ROW_NAMES)
_IDENTITY = ("run_id", "root_pipeline_id", "node_id", "version")
MUTABLE = [name for name in RUN_COLUMNS if name not in _IDENTITY]
"""The columns that a change of a run may write."""


def rows_of(found: Iterable[Any]) -> list[LedgerRow]:
    """The rows that can be read; ``found`` has its values in the order of `ROW_NAMES`. A row that
    someone damaged by hand does not block the others.
    """
    named = (dict(zip(ROW_NAMES, each)) for each in found)
    return [row for values in named if (row := row_of(values))]


def row_of(values: dict[str, Any]) -> LedgerRow | None:
    """The row; None if it cannot be read. The row takes over ``values``, which may be changed."""
    if (state := STATES.get(values["state"])) is not None:
        values["state"] = state
        if values["stopped_by"] is not None:
            values["stopped_by"] = STOPPED_BY.get(values["stopped_by"], StoppedBy.OPERATOR)
        return LedgerRow(**values)
    logger.error(
        "the ledger row of node %r, version %r, has the unknown state %r: it is left alone",
        values["node_id"],
        values["version"],
        values["state"],
    )
    return None


def entries_of(found: Iterable[dict[str, Any]]) -> list[HistoryEntry]:
    """The entries that can be read: a newer version, or a person, may have written others."""
    return [
        HistoryEntry(**{**values, "kind": KINDS[values["kind"]]})
        for values in found
        if values["kind"] in KINDS or _left_out(values["kind"])
    ]


@lru_cache(maxsize=100)
def _left_out(kind: str) -> bool:
    """Log an unknown kind and return False; cached, so that each kind is logged once."""
    logger.error("the ledger's history has entries of the unknown kind %r: they are left out", kind)
    return False


def values_of(row: LedgerRow) -> dict[str, Any]:
    """The row as a dict. `dataclasses.asdict` copies each value: a fifth of the cost of arming."""
    values = {name: getattr(row, name) for name in ROW_NAMES}
    values["run_id"] = row.run_id
    return values
