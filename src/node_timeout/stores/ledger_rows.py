"""The ledger's tables by their names, and the domain's values as rows: whatever reads and writes
them.
"""

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
"""What a `LedgerRow` holds: its run id is computed."""
RUN_COLUMNS = ("run_id", *ROW_NAMES)
_IDENTITY = ("run_id", "root_pipeline_id", "node_id", "version")
MUTABLE = [name for name in RUN_COLUMNS if name not in _IDENTITY]
"""Columns that a change of a run may write."""


def rows_of(found: Iterable[Any]) -> list[LedgerRow]:
    """Those that can be read, in the order of `ROW_NAMES`. One that someone spoilt by hand holds up
    no other.
    """
    named = (dict(zip(ROW_NAMES, each)) for each in found)
    return [row for values in named if (row := row_of(values))]


def row_of(values: dict[str, Any]) -> LedgerRow | None:
    """None if it cannot be read. The values are the row's from now on."""
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
    """Those that can be read: a newer version, or a hand, may have written others."""
    return [
        HistoryEntry(**{**values, "kind": KINDS[values["kind"]]})
        for values in found
        if values["kind"] in KINDS or _left_out(values["kind"])
    ]


@lru_cache(maxsize=100)
def _left_out(kind: str) -> bool:
    """Always False; logged once for each kind, as pages ask again and again."""
    logger.error("the ledger's history has entries of the unknown kind %r: they are left out", kind)
    return False


def values_of(row: LedgerRow) -> dict[str, Any]:
    """Not by `dataclasses.asdict`, which copies each value: a fifth of what arming a batch cost."""
    values = {name: getattr(row, name) for name in ROW_NAMES}
    values["run_id"] = row.run_id
    return values
