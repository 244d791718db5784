"""What `NodeTimeout.status` reports: the state of every store."""

import dataclasses
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from node_timeout.domain.errors import TemporaryError
from node_timeout.domain.run import LedgerRow, RunState
from node_timeout.ports.exchange import Exchange
from node_timeout.ports.ledger import Ledger
from node_timeout.ports.pool import Pool
from node_timeout.ports.presence import Presence, Process


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What `NodeTimeout.status` reports. The fields of an unreachable store stay None."""

    armed: int | None = None
    """Members of the executing pool, leased ones included."""
    overdue: int | None = None
    oldest_overdue_seconds: float | None = None
    """How long the oldest overdue member has been in the pool."""
    overdue_for: Mapping[int, int] | None = None
    """By number of seconds: how many members have been overdue that long or longer."""
    ledger_armed: int | None = None
    ledger_oldest_overdue_seconds: float | None = None
    """How long the oldest overdue node run has waited for a worker."""
    executing: int | None = None
    paused: int | None = None
    dead: int | None = None
    queues: dict[str, int] | None = None
    """Ready messages by queue."""
    last_hour: dict[RunState, int] | None = None
    """Outcomes of the last hour by state."""
    recent: tuple[LedgerRow, ...] = ()
    unreachable: tuple[str, ...] = ()
    """One sentence for each store that did not answer."""
    processes: tuple[Process, ...] | None = None
    """The processes that are alive."""
    alarms: tuple[str, ...] = ()
    """One sentence for each sign that timed-out nodes are not dealt with."""

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def overdue_problem(
    limit: float, pool_seconds: float | None, ledger_seconds: float | None
) -> str | None:
    """What is wrong if a node is overdue for longer than ``limit`` (seconds); None if none is."""
    for seconds, where, who in (
        (pool_seconds, "in the pool", "no scanner runs"),
        (ledger_seconds, "for a worker", "no worker runs"),
    ):
        if seconds is not None and seconds > limit:
            return (
                f"the oldest overdue node has waited {min(seconds, 1e9):.0f} s {where}, more than "
                f"{limit:g} s (overdue_alarm): {who}, or the workers do not keep up"
            )
    return None


def needed_roles(events_queue: str | None) -> tuple[str, ...]:
    """The roles without which nobody acts on deadlines, or nobody reads the engine's events."""
    return ("scanner", "worker", *(["listener"] if events_queue else []))


def missing_roles(processes: Iterable[Process], roles: Iterable[str]) -> list[str]:
    """One sentence for each of these roles that no living process has."""
    alive = {service.role for process in processes for service in process.services}
    return [f"no {role} is alive" for role in roles if role not in alive]


async def look(
    ledger: Ledger,
    pool: Pool,
    exchange: Exchange,
    presence: Presence,
    *,
    recent: int,
    most: int | None = None,
    overdue_alarm: float,
    roles: Sequence[str],
) -> Status:
    """Read every store; ``unreachable`` names those that do not answer.

    ``overdue_alarm`` is in seconds. Each of ``roles`` must have a living service.
    """

    async def at_processes() -> dict[str, Any]:
        return {"processes": tuple(await presence.processes())}

    async def at_pool() -> dict[str, Any]:
        return dataclasses.asdict(await pool.counts())

    async def at_ledger() -> dict[str, Any]:
        counts = await ledger.counts(await pool.now(), most)
        return {
            "ledger_armed": counts.armed,
            "ledger_oldest_overdue_seconds": counts.oldest_overdue_seconds,
            "executing": counts.executing,
            "paused": counts.paused,
            "dead": counts.dead,
            "last_hour": dict(counts.last_hour),
            "recent": tuple(await ledger.recent(recent)),
        }

    async def at_exchange() -> dict[str, Any]:
        return {"queues": await exchange.depths()}

    looks: tuple[Callable[[], Awaitable[dict[str, Any]]], ...] = (
        at_pool,
        at_processes,
        at_ledger,
        at_exchange,
    )
    unreachable: list[str] = []
    status = Status()
    for each in looks:
        try:
            status = dataclasses.replace(status, **await each())
        except TemporaryError as error:
            unreachable.append(str(error))
    missing = [] if status.processes is None else missing_roles(status.processes, roles)
    problem = overdue_problem(
        overdue_alarm, status.oldest_overdue_seconds, status.ledger_oldest_overdue_seconds
    )
    alarms = [*missing, *([problem] if problem else [])]
    return dataclasses.replace(
        status, unreachable=tuple(dict.fromkeys(unreachable)), alarms=tuple(alarms)
    )
