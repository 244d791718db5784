"""A program that migrates up and down, killed at each statement that writes, and repeats.

It prints how often it was killed. The tests run it in a process of its own, as it forks.
"""

import asyncio
import os
import signal
import sys
from typing import Any

from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, event, inspect

from node_timeout.stores.sql.schema import Schema
from node_timeout.stores.sql.tables import HEAD_REVISION, metadata, versions

READS = ("SELECT", "SHOW", "PRAGMA", "BEGIN", "DESCRIBE")


async def migrate(url: str, revision: str, killed_at: int | None) -> None:
    """Migrate, killed after the n-th statement that writes. Without n, look at what was made."""
    schema = Schema(url)
    writes = 0

    def executed(*args: Any) -> None:
        nonlocal writes
        writes += not str(args[2]).lstrip().upper().startswith(READS)
        if writes == killed_at:
            os.kill(os.getpid(), signal.SIGKILL)

    event.listen(schema.engine.sync_engine, "after_cursor_execute", executed)
    reached = await schema.migrate(revision)
    async with schema.engine.connect() as connection:
        if revision == "head":
            assert reached == HEAD_REVISION
            assert await connection.run_sync(_differences) == []
        else:
            assert reached is None
            tables = await connection.run_sync(lambda sync: inspect(sync).get_table_names())
            assert tables == [versions.name]
    await schema.close()


def _differences(connection: Connection) -> list[Any]:
    options = {"version_table": versions.name, "compare_type": True}
    return list(compare_metadata(MigrationContext.configure(connection, opts=options), metadata))


def survives(url: str, revision: str, killed_at: int | None) -> bool:
    """Migrate in a child; whether it ended by itself, and well."""
    child = os.fork()
    if not child:
        asyncio.run(migrate(url, revision, killed_at))
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, -signal.SIGKILL), code
    return code == 0


def main(url: str) -> None:
    kills = 0
    for revision in ("head", "base"):
        killed_at = 1
        while not survives(url, revision, killed_at):
            kills += 1
            assert survives(url, revision, None), f"{revision} after a kill at {killed_at}"
            assert survives(url, "base" if revision == "head" else "head", None)
            killed_at += 1
    print(kills)


if __name__ == "__main__":
    main(sys.argv[1])
