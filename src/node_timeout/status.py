"""What `NodeTimeout.status` reports: a look at every store."""

import dataclasses
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from node_timeout.errors import TemporaryError
from node_timeout.node import RunState
from node_timeout.ports import Exchange, Ledger, LedgerRow, Pool


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What `NodeTimeout.status` reports. A store that cannot be reached leaves None."""

    armed: int | None = None
    """Members of the executing pool, leased ones included."""
    overdue: int | None = None
    oldest_overdue_seconds: float | None = None
    ledger_armed: int | None = None
    executing: int | None = None
    dead: int | None = None
    queues: dict[str, int] | None = None
    """Ready messages by queue."""
    last_hour: dict[RunState, int] | None = None
    """Outcomes of the last hour by state."""
    recent: tuple[LedgerRow, ...] = ()
    unreachable: tuple[str, ...] = ()
    """One sentence for each store that did not answer."""

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


async def look(ledger: Ledger, pool: Pool, exchange: Exchange, recent: int) -> Status:
    """One that does not answer is named in ``unreachable``."""

    async def at_pool() -> dict[str, Any]:
        return dataclasses.asdict(await pool.counts())

    async def at_ledger() -> dict[str, Any]:
        counts = await ledger.counts(await pool.now())
        return {
            "ledger_armed": counts.armed,
            "executing": counts.executing,
            "dead": counts.dead,
            "last_hour": dict(counts.last_hour),
            "recent": tuple(await ledger.recent(recent)),
        }

    async def at_exchange() -> dict[str, Any]:
        return {"queues": await exchange.depths()}

    looks: tuple[Callable[[], Awaitable[dict[str, Any]]], ...] = (at_pool, at_ledger, at_exchange)
    unreachable: list[str] = []
    status = Status()
    for each in looks:
        try:
            status = dataclasses.replace(status, **await each())
        except TemporaryError as error:
            unreachable.append(str(error))
    return dataclasses.replace(status, unreachable=tuple(unreachable))
