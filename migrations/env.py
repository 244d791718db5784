"""Runs the migrations, on the connection of `node-timeout migrate` or on one of alembic's own."""

import asyncio

from alembic import context
from sqlalchemy import Connection

from node_timeout.settings import Settings
from node_timeout.stores.sql.database import create_engine
from node_timeout.stores.sql.tables import metadata, versions
from node_timeout.stores.tls import Tls


def run(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=metadata,
        version_table=versions.name,
        render_as_batch=connection.dialect.name == "sqlite",
        compare_type=True,
        # Other tables of the same database are none of our business.
        include_name=lambda name, kind, _parents: kind != "table" or name in metadata.tables,
    )
    with context.begin_transaction():
        context.run_migrations()


async def connect() -> None:
    settings = Settings()
    engine = create_engine(settings.database_url.get_secret_value(), Tls.of(settings))
    async with engine.connect() as connection:
        await connection.run_sync(run)
        await connection.commit()
    await engine.dispose()


given = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    asyncio.run(connect())
