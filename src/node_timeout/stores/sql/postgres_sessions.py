"""Settings of PostgreSQL's planner, directly and through a pooler.

A pooler in transaction mode (PgBouncer and others) lends a session of the server for one
transaction at a time. Other clients see what is left in the session: so through a pooler the
planner is set for each transaction, and no prepared statement is kept. On a direct connection both
last as long as the connection, which saves round trips.

A pooler is recognised by the process id: it gives its clients a different one than the server's.
"""

from typing import Any

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine

PLANNER = {
    # A plan cached while a table was small would still scan the table when it is large.
    "plan_cache_mode": "force_custom_plan",
    # Every statement finds its rows by their keys. By default the planner reads a whole table of
    # 10,000 rows to find 250, which takes twice as long.
    "enable_seqscan": "off",
    "random_page_cost": "1.1",
    # JIT compilation costs more than it saves here. Do not use `jit`: asyncpg sets that itself when
    # it looks up a type, and does not restore it if it was off.
    "jit_above_cost": "-1",
}
"""PostgreSQL's settings of each connection, or of each transaction through a pooler."""

_SET = ", ".join(f"set_config('{name}', '{value}', false)" for name, value in PLANNER.items())
SET_IF_DIRECT = f"SELECT {_SET} WHERE pg_backend_pid() = $1"
SET_LOCAL = "".join(f"SET LOCAL {name} = '{value}';" for name, value in PLANNER.items())


def prepare(engine: AsyncEngine) -> None:
    """Let an asyncpg engine connect in the way that suits a direct or a pooled connection."""
    through_pooler = _through_pooler()
    pooled = True  # the safe assumption: nothing is left in the session

    @event.listens_for(engine.sync_engine, "do_connect")
    def connecting(dialect: Any, _record: object, args: list[Any], options: dict[str, Any]) -> Any:
        nonlocal pooled
        while True:
            chosen = options | (through_pooler if pooled else {})
            connection = dialect.connect(*args, **chosen)
            if connection.run_async(_is_direct) is not pooled:
                return connection
            connection.close()
            pooled = not pooled


async def _is_direct(connection: Any) -> bool:
    """Set the planner if the session is not shared; return whether it was set."""
    async with connection.transaction():
        statement = await connection.prepare(SET_IF_DIRECT, name="")
        return await statement.fetchrow(connection.get_server_pid()) is not None


def _through_pooler() -> dict[str, Any]:
    """The options for SQLAlchemy and asyncpg."""
    import asyncpg  # noqa: PLC0415 - only there if installed

    class PooledConnection(asyncpg.Connection):  # type: ignore[misc]  # asyncpg is not typed
        async def execute(self, query: str, *args: Any, **options: Any) -> Any:
            if query.startswith("BEGIN"):
                query += SET_LOCAL  # in one round trip
            return await super().execute(query, *args, **options)

    return {
        "connection_class": PooledConnection,
        "prepared_statement_cache_size": 0,
        "prepared_statement_name_func": str,  # the empty name, which the next statement overwrites
        "statement_cache_size": 0,
    }
