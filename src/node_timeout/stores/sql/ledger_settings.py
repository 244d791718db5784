"""The settings of the processes that use the ledger, and a check of their rights."""

import contextlib
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import Integer, String, Table, and_, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from node_timeout.domain.errors import LedgerError
from node_timeout.domain.run_id import run_id
from node_timeout.stores.sql.database import rolled_back, transaction
from node_timeout.stores.sql.database_errors import is_forbidden, translate
from node_timeout.stores.sql.ledger_configs import LedgerConfigs
from node_timeout.stores.sql.run_rows import chunks
from node_timeout.stores.sql.tables import RunId, metadata
from node_timeout.stores.sql.tables import settings as setting_table

LEDGER_ID = "ledger_id"


class LedgerSettings(LedgerConfigs):
    """The part of `node_timeout.ports.Ledger` that is about settings and rights."""

    @transaction
    async def settings(self, connection: AsyncConnection) -> dict[str, str]:
        return await self._settings(connection)

    @transaction
    async def declare(
        self, connection: AsyncConnection, settings: Mapping[str, str]
    ) -> dict[str, str]:
        own = {"name": LEDGER_ID, "value": uuid.uuid4().hex}
        await connection.execute(self._insert(setting_table), own)  # unless there is one already
        before = await self._settings(connection)
        rows = [{"name": name, "value": settings[name]} for name in sorted(settings)]
        for chunk in chunks(rows):
            await connection.execute(self._insert(setting_table, replace=["value"]), list(chunk))
        return before

    async def _settings(self, connection: AsyncConnection) -> dict[str, str]:
        return {row.name: row.value for row in await connection.execute(select(setting_table))}

    @rolled_back
    async def probe(self, connection: AsyncConnection) -> None:
        for table in metadata.sorted_tables:
            row = _scratch_row(table)
            key = and_(*(column == row[column.name] for column in table.primary_key))
            statements = {
                "INSERT": insert(table).values(row),
                "UPDATE": update(table).where(key).values(row),
                "SELECT": select(table).where(key).with_for_update(),
                "DELETE": delete(table).where(key),
            }
            for verb, statement in statements.items():
                with _allowed(verb, table.name):
                    await connection.execute(statement)


def _scratch_row(table: Table) -> dict[str, Any]:
    """A row with a key that nobody else uses."""
    name = f"check {uuid.uuid4().hex}"
    row: dict[str, Any] = {}
    for column in table.columns:
        if isinstance(column.type, RunId):
            row[column.name] = run_id(name, name, name)
        elif isinstance(column.type, String):
            row[column.name] = name[: column.type.length]
        else:
            row[column.name] = 0 if isinstance(column.type, Integer) else 0.0
    return row


@contextlib.contextmanager
def _allowed(verb: str, table: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if not is_forbidden(error):
            raise
        text = str(translate(error)).removeprefix("database: ")
        raise LedgerError(f"{verb} on {table} is refused: {text}") from error
