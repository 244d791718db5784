"""Reads the config table of bamboo's own app, or that of bk-sops or BKFlow."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BigInteger, Column, Integer, MetaData, String, Table, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from node_timeout.domain.config_check import ConfigRules, payload_text
from node_timeout.domain.errors import (
    InvalidInputError,
    LedgerError,
    LedgerUnavailableError,
    SchemaError,
)
from node_timeout.domain.hints import shown
from node_timeout.domain.timeout_config import TimeoutConfig, read_config
from node_timeout.stores.sql.database import create_engine, dispose, transaction
from node_timeout.stores.tls import Tls

BATCH_SIZE = 1000

OWN_APP = "node_timeout_timeoutnodeconfig"
TABLES = (OWN_APP, "taskflow3_timeoutnodeconfig", "task_timeoutnodeconfig")
"""Those of bamboo's own app, bk-sops and BKFlow: equal columns; the last two add ``task_id``."""


def _table(name: str) -> Table:
    return Table(
        name,
        MetaData(),
        Column("node_id", String, primary_key=True),
        Column("root_pipeline_id", String),
        Column("action", String),
        Column("timeout", Integer),
        *([] if name == OWN_APP else [Column("task_id", BigInteger)]),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Rows in key order: the valid configs, and what is wrong with the other rows."""

    rows: int
    configs: tuple[TimeoutConfig, ...]
    refused: tuple[str, ...]


class BambooConfigs:
    """Reads the table in pages. Raises `LedgerUnavailableError`, `LedgerError`."""

    def __init__(self, url: str, table: str = OWN_APP, *, tls: Tls | None = None) -> None:
        """``table``: one of `TABLES`. Raises `SettingsError`, `InvalidInputError`."""
        if table not in TABLES:
            raise InvalidInputError(
                f"no table of timeout configs is called {shown(table)}; known: {', '.join(TABLES)}"
            )
        self._table = _table(table)
        self.engine = create_engine(url, tls, named="bamboo's database (BAMBOO_DATABASE_URL)")

    async def close(self) -> None:
        await dispose(self.engine)

    async def count(self) -> int:
        try:
            return await self._count()
        except LedgerUnavailableError as error:
            raise LedgerUnavailableError(f"bamboo's database: {error}") from error
        except SchemaError as error:
            raise LedgerError(
                f"the database has no table {self._table.name}; is it that of bamboo's project?"
            ) from error

    @transaction
    async def _count(self, connection: AsyncConnection) -> int:
        return int(
            (await connection.execute(select(func.count(self._table.c.node_id)))).scalar_one()
        )

    async def pages(self, rules: ConfigRules) -> AsyncIterator[Page]:
        """All rows, page by page; each row as it is when its page is read."""
        after = ""
        while rows := await self._rows(after):
            after = rows[-1].node_id
            yield _page(rows, rules)

    @transaction
    async def _rows(self, connection: AsyncConnection, after: str) -> list[TimeoutConfig]:
        found = await connection.execute(
            select(self._table)
            .where(self._table.c.node_id > after)
            .order_by(self._table.c.node_id)
            .limit(BATCH_SIZE)
        )
        return [
            TimeoutConfig(
                node_id=row.node_id,
                root_pipeline_id=row.root_pipeline_id,
                action=row.action,
                timeout=row.timeout,
                payload_json=payload_text(_payload(row)),
            )
            for row in found
        ]


def _payload(row: Any) -> Any:
    """The id of the node's task, if the table has it."""
    task_id = getattr(row, "task_id", None)
    return None if task_id is None else {"task_id": task_id}


def _page(rows: list[TimeoutConfig], rules: ConfigRules) -> Page:
    configs: list[TimeoutConfig] = []
    refused: list[str] = []
    for row in rows:
        raw = {
            "enable": True,
            "action": row.action,
            "seconds": row.timeout,
            "payload": row.payload,
        }
        try:
            config = read_config(row.node_id, row.root_pipeline_id, raw, rules)
        except InvalidInputError as error:
            refused.append(str(error))
        else:
            configs += [config] if config else []
    return Page(rows=len(rows), configs=tuple(configs), refused=tuple(refused))
