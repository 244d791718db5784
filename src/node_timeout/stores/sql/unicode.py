"""Checks that a database can hold every text: ids, actions and messages are Unicode."""

from sqlalchemy import bindparam, text
from sqlalchemy.ext.asyncio import AsyncConnection

from node_timeout.domain.errors import SchemaError
from node_timeout.stores.sql.tables import metadata

MYSQL_COLUMNS = """
    SELECT table_name, column_name, collation_name FROM information_schema.columns
    WHERE table_schema = DATABASE() AND table_name IN :tables AND column_name <> 'state'
    AND collation_name <> 'utf8mb4_bin' LIMIT 1
"""
"""All columns except ``state`` hold text from outside."""


async def require_unicode(connection: AsyncConnection) -> None:
    """Raise `SchemaError` if some text cannot be written; the tables need not exist yet.

    SQLite holds every text. MySQL and MariaDB hold it in the tables that our migrations create, but
    somebody may have converted those.
    """
    if connection.dialect.name == "postgresql":
        encoding = (await connection.execute(text("SHOW server_encoding"))).scalar_one()
        if encoding != "UTF8":
            raise SchemaError(
                f"the database's encoding is {encoding}, which cannot hold every text; create it "
                "with: CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0"
            )
    elif connection.dialect.name in ("mysql", "mariadb"):
        statement = text(MYSQL_COLUMNS).bindparams(
            bindparam("tables", list(metadata.tables), expanding=True)
        )
        found = (await connection.execute(statement)).first()
        if found:
            table, column, collation = found
            raise SchemaError(
                f"the column {table}.{column} has the collation {collation}, which cannot hold "
                f"every text and tell all ids apart; run: ALTER TABLE {table} "
                "CONVERT TO CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
            )
