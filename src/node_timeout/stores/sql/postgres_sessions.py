"""PostgreSQL's planner, and how it is talked to through a pooler.

A pooler in transaction mode (PgBouncer and others) lends a session of the server for one
transaction at a time. What is left behind there is met by other clients: so through a pooler the
planner is set for each transaction, and no statement is kept prepared. Directly both last as long
as the connection, which saves round trips.

Which it is shows itself: a pooler tells its clients another process id than the server's own.
"""

from typing import Any

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine

PLANNER = {
    # A plan that was cached while a table was small would scan it when it is large.
    "plan_cache_mode": "force_custom_plan",
    # Every statement finds its rows by their keys. Left alone, the planner reads all of a table of
    # 10,000 rows to find 250, which takes twice as long.
    "enable_seqscan": "off",
    "random_page_cost": "1.1",
    # What it compiles is over before it pays. Not by `jit`, which asyncpg itself sets, and not back
    # if it is off, when it asks what a type is.
    "jit_above_cost": "-1",
}
"""PostgreSQL's settings of each connection, or of each transaction through a pooler."""

_SET = ", ".join(f"set_config('{name}', '{value}', false)" for name, value in PLANNER.items())
SET_IF_DIRECT = f"SELECT {_SET} WHERE pg_backend_pid() = $1"
SET_LOCAL = "".join(f"SET LOCAL {name} = '{value}';" for name, value in PLANNER.items())


def prepare(engine: AsyncEngine) -> None:
    """Make the connections of an asyncpg engine such as suits what they reach."""
    through_pooler = _through_pooler()
    pooled = True  # as safe: nothing is left behind before the answer

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
    """Set the planner of this session, if it is nobody else's; return whether it was set."""
    async with connection.transaction():
        statement = await connection.prepare(SET_IF_DIRECT, name="")
        return await statement.fetchrow(connection.get_server_pid()) is not None


def _through_pooler() -> dict[str, Any]:
    """What SQLAlchemy and asyncpg connect with."""
    import asyncpg  # noqa: PLC0415 - only there if installed

    class PooledConnection(asyncpg.Connection):  # type: ignore[misc]  # asyncpg is not typed
        async def execute(self, query: str, *args: Any, **options: Any) -> Any:
            if query.startswith("BEGIN"):
                query += SET_LOCAL  # in one round trip
            return await super().execute(query, *args, **options)

    return {
        "connection_class": PooledConnection,
        "prepared_statement_cache_size": 0,
        "prepared_statement_name_func": str,  # the empty name, which the next one overwrites
        "statement_cache_size": 0,
    }
