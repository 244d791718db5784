"""Runs the services of a process concurrently, with metrics and health checks."""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any

from node_timeout import metrics
from node_timeout.domain.errors import SettingsError, TemporaryError
from node_timeout.domain.run import RunState
from node_timeout.ports.exchange import Exchange
from node_timeout.runtime.loop import Health, repeat, sleep, until_available
from node_timeout.runtime.monitor import MonitorHttp
from node_timeout.runtime.presence import present
from node_timeout.settings import Settings
from node_timeout.stores.redis.pool import RedisPool
from node_timeout.stores.sql.ledger import SqlLedger
from node_timeout.tasks import ended

logger = logging.getLogger(__name__)

MONITOR_SECONDS = 10.0
AGAIN_SECONDS = 1.0

Service = Callable[[asyncio.Event, Health], Coroutine[Any, Any, None]]


class Serving:
    """Runs services; the stores may become available later than the process."""

    def __init__(
        self,
        *,
        name: str,
        settings: Settings,
        ledger: SqlLedger,
        pool: RedisPool,
        exchange: Exchange,
    ) -> None:
        """``name`` is the name of the process."""
        self._name = name
        self._settings = settings
        self._ledger = ledger
        self._pool = pool
        self._exchange = exchange

    async def serve(
        self,
        stop: asyncio.Event,
        services: dict[str, Service],
        ready: Callable[[], None],
        agree: Callable[[], Coroutine[Any, Any, None]],
    ) -> None:
        """Run services concurrently until stopped; a service that dies ends the process.

        ``ready`` is called once the stores have answered, before the services start. ``agree``
        compares settings with other processes while the services run.
        """
        health = {name: Health(name=name) for name in services}
        async with self._monitor(list(health.values())):
            start = Health(name="start")
            await until_available(self._ledger.check_schema, stop=stop, health=start)
            await until_available(self._exchange.ensure, stop=stop, health=start)
            if stop.is_set():
                logger.info("stopped before %s could start", " and ".join(services))
                return
            await self._warn_of_eviction()
            ready()
            name = f"{self._name}:{'+'.join(services)}"
            alive = present(self._pool.presence, self._pool, name, [*health.values()])
            async with alive, asyncio.TaskGroup() as group:
                logger.info("%s started", " and ".join(services))
                group.create_task(_once_available(agree, stop), name="agreement")
                for name, run in services.items():
                    group.create_task(_alive(run, stop, health[name]), name=name)
        logger.info("%s stopped", " and ".join(services))

    @contextlib.asynccontextmanager
    async def _monitor(self, services: Sequence[Health]) -> AsyncIterator[None]:
        port = self._settings.metrics_port
        if port is None:
            yield
            return
        try:
            server = MonitorHttp(self._settings.metrics_host, port, services)
        except OSError as error:
            raise SettingsError(
                f"metrics_port: cannot listen on {self._settings.metrics_host}:{port}: {error}"
            ) from error
        server.start()
        stop = asyncio.Event()
        tasks = [asyncio.create_task(server.beat()), asyncio.create_task(self._gauge(stop))]
        try:
            yield
        finally:
            stop.set()
            await ended(*tasks)
            await asyncio.to_thread(server.close)

    async def _gauge(self, stop: asyncio.Event) -> None:
        """Keep the gauges of the stores up to date."""
        roles: set[str] = set()  # all roles ever seen: the gauge of a gone one is 0

        async def step() -> None:
            counts = await self._pool.counts()
            metrics.POOL_ARMED.set(counts.armed)
            metrics.POOL_OVERDUE.set(counts.overdue)
            metrics.POOL_OLDEST_OVERDUE.set(counts.oldest_overdue_seconds)
            for seconds, count in counts.overdue_for.items():
                metrics.POOL_OVERDUE_FOR.labels(str(seconds)).set(count)
            alive = Counter(
                service.role
                for process in await self._pool.presence.processes()
                for service in process.services
            )
            roles.update(alive)
            for role in roles:
                metrics.ALIVE.labels(role).set(alive[role])
            standing = await self._ledger.count([RunState.DEAD, RunState.PAUSED])
            metrics.DEAD.set(standing[RunState.DEAD])
            metrics.PAUSED.set(standing[RunState.PAUSED])
            await sleep(MONITOR_SECONDS, stop)

        await repeat(step, stop=stop, health=Health(name="monitor"))

    async def _warn_of_eviction(self) -> None:
        with contextlib.suppress(TemporaryError):
            policy = await self._pool.eviction_policy()
            if policy not in ("noeviction", "unknown"):
                logger.warning(
                    "Redis's maxmemory-policy is %s: it may drop deadlines; set noeviction", policy
                )


async def _once_available(
    call: Callable[[], Coroutine[Any, Any, None]], stop: asyncio.Event
) -> None:
    """Retry until the stores answer; logs only at debug level, as other services log outages."""
    while not stop.is_set():
        try:
            await call()
        except TemporaryError as error:
            logger.debug("settings not compared yet: %s", error)
            await sleep(AGAIN_SECONDS, stop)
        else:
            return


async def _alive(run: Service, stop: asyncio.Event, health: Health) -> None:
    """Run a service; raise RuntimeError if it ends before it is stopped."""
    try:
        await run(stop, health)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
    if not stop.is_set():
        raise RuntimeError(f"the {health.name} ended by itself")
