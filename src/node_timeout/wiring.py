"""Wiring: the one place that builds stores, services, strategies and engines from settings."""

import asyncio
import contextlib
import os
import socket
import uuid
from collections.abc import Callable, Sequence

from node_timeout.arming.canary import Canary
from node_timeout.arming.listener import Listener
from node_timeout.arming.surveyor import Surveyor
from node_timeout.arming.tracker import Tracker
from node_timeout.dispatch.reconciler import Reconciler
from node_timeout.dispatch.scanner import Scanner
from node_timeout.domain import canary
from node_timeout.domain.config_check import ConfigRules
from node_timeout.domain.errors import SettingsError
from node_timeout.domain.hints import did_you_mean
from node_timeout.engines.registry import load_engine
from node_timeout.handling.attempt import Limits
from node_timeout.handling.routes import Routes
from node_timeout.handling.worker import Worker
from node_timeout.ports.engine import Engine, SurveyableEngine
from node_timeout.ports.exchange import Exchange
from node_timeout.ports.ledger import Retention
from node_timeout.runtime.agreement import Agreement
from node_timeout.runtime.loop import Backoff
from node_timeout.runtime.serving import Service, Serving
from node_timeout.setting_rules import variable
from node_timeout.settings import Settings
from node_timeout.stores.memory.exchange import MemoryExchange
from node_timeout.stores.rabbitmq.exchange import RabbitExchange
from node_timeout.stores.redis.pool import RedisPool
from node_timeout.stores.sql.ledger import SqlLedger
from node_timeout.stores.tls import Tls
from node_timeout.strategies.base import known_actions, load_strategies
from node_timeout.strategies.canary import CanaryStrategy
from node_timeout.urls.addresses import HostsUrl, split_urls

IN_PROCESS = "memory://"


def rules_of(settings: Settings) -> ConfigRules:
    """The rules that a timeout config must keep."""
    return ConfigRules(
        actions=known_actions(settings.handlers),
        max_seconds=settings.max_seconds,
        min_seconds=settings.min_seconds,
    )


def agreed_settings(settings: Settings) -> dict[str, str]:
    """The settings that must agree between processes, by the name that users know."""
    names = ("executing_pool", "pool_shards", "dispatch_exchange", "dispatch_queue")
    agreed = {variable(name): str(getattr(settings, name)) for name in names}
    agreed[variable("dispatch_ahead")] = f"{settings.dispatch_ahead:g}"
    amqp_url = settings.amqp_url.get_secret_value()
    if not amqp_url.startswith(IN_PROCESS):
        url, *_ = split_urls(amqp_url)
        agreed["vhost of " + variable("amqp_url")] = HostsUrl.parse(url).path
    return agreed


class Wiring:
    """Builds what the settings name, and closes all of it together. Connects at first use."""

    def __init__(self, settings: Settings) -> None:
        """Raises `SettingsError` for TLS files that cannot be read."""
        self.settings = settings
        self._name = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self._closing = closing = contextlib.AsyncExitStack()
        self._engine: Engine | None = None
        self._exchange: Exchange | None = None
        self.tls = Tls.of(settings)
        self.ledger = SqlLedger(settings.database_url.get_secret_value(), tls=self.tls)
        closing.push_async_callback(self.ledger.close)
        self.pool = RedisPool(
            settings.redis_url.get_secret_value(),
            settings.executing_pool,
            settings.pool_shards,
            tls=self.tls,
        )
        closing.push_async_callback(self.pool.close)
        self.tracker = Tracker(ledger=self.ledger, pool=self.pool)
        closing.push_async_callback(self.tracker.close)
        self.agreement = Agreement(
            ledger=self.ledger, pool=self.pool, settings=agreed_settings(settings)
        )
        closing.push_async_callback(self.agreement.close)

    async def close(self) -> None:
        await self._closing.aclose()

    def process_name(self, role: str) -> str:
        """A name that is unique, also among the processes of one host."""
        return f"{self._name}:{role}"

    def use_engine(self, engine: Engine) -> None:
        """Let the worker act through this engine instead of the one that the settings name."""
        self._engine = engine

    def scan_services(self) -> dict[str, Service]:
        """One scanner per shard, so that a shard that is down does not delay the others."""
        scanners = self.scanners()
        names = (
            ["scanner"] if len(scanners) == 1 else [f"scanner {i}" for i in range(len(scanners))]
        )
        services: dict[str, Service] = {
            name: scanner.run for name, scanner in zip(names, scanners, strict=True)
        }
        services["reconciler"] = self.reconciler().run
        if self.settings.canary_interval:
            services["canary"] = self.canary().run
        return services

    def worker_services(self, queues: Sequence[str]) -> dict[str, Service]:
        events_queue = self.settings.events_queue
        handled = [queue for queue in queues if queue != events_queue]
        services: dict[str, Service] = {}
        if handled or not queues:
            services["worker"] = self.worker(handled).run
            if surveyor := self.surveyor():
                services["surveyor"] = surveyor.run
        if events_queue and (events_queue in queues or not queues):
            services["listener"] = self.listener(events_queue).run
        return services

    def scanners(self) -> list[Scanner]:
        settings = self.settings
        return [
            Scanner(
                shard=shard,
                exchange=self.exchange,
                queue=settings.dispatch_queue,
                batch_size=settings.scan_batch_size,
                lease_seconds=settings.lease_seconds,
                scan_interval=settings.scan_interval,
                shutdown_timeout=settings.shutdown_timeout,
                dispatch_ahead=settings.dispatch_ahead,
            )
            for shard in self.pool.shards
        ]

    def reconciler(self) -> Reconciler:
        settings = self.settings
        return Reconciler(
            ledger=self.ledger,
            pool=self.pool,
            exchange=self.exchange,
            queues=self.routes().queues,
            name=self._name,
            lease_seconds=settings.lease_seconds,
            redispatch_after=settings.redispatch_after,
            dispatch_ahead=settings.dispatch_ahead,
            sweep_pause=settings.reconcile_pause,
            retention=Retention(
                handled_seconds=settings.record_retention,
                cancelled_seconds=settings.cancelled_retention,
                dead_seconds=settings.dead_retention,
            ),
        )

    def canary(self) -> Canary:
        settings = self.settings
        return Canary(
            ledger=self.ledger,
            pool=self.pool,
            tracker=self.tracker,
            name=self._name,
            lease_seconds=settings.lease_seconds,
            interval=settings.canary_interval,
        )

    def worker(self, queues: Sequence[str] = ()) -> Worker:
        settings, routes = self.settings, self.routes()
        for queue in queues:
            if queue not in routes.queues:
                raise SettingsError(
                    f"queue {queue!r} is none of {', '.join(routes.queues)}"
                    f"{did_you_mean(queue, routes.queues)}"
                )
        engine = self._load_engine()
        strategies = load_strategies(settings.handlers, engine, settings)
        strategies[canary.ACTION] = CanaryStrategy(engine)
        for strategy in strategies.values():
            self._closing.push_async_callback(strategy.close)
        default = [routes.dispatch_queue, *filter(None, [routes.handle_queue])]
        return Worker(
            ledger=self.ledger,
            pool=self.pool,
            exchange=self.exchange,
            engine=engine,
            strategies=strategies,
            routes=routes,
            queues=list(dict.fromkeys(queues or default)),
            limits=Limits(
                concurrency=settings.worker_concurrency,
                strategy_timeout=settings.strategy_timeout,
                max_attempts=settings.max_attempts,
                retry=Backoff(first=settings.retry_backoff, longest=settings.retry_backoff_max),
                shutdown_timeout=settings.shutdown_timeout,
                dispatch_ahead=settings.dispatch_ahead,
                lease_seconds=settings.worker_lease,
                max_seconds=settings.max_seconds,
                retention=min(
                    settings.record_retention,
                    settings.cancelled_retention,
                    settings.dead_retention,
                ),
            ),
        )

    def surveyor(self) -> Surveyor | None:
        """None if the engine cannot be asked which runs it is running."""
        engine, settings = self._load_engine(), self.settings
        if not isinstance(engine, SurveyableEngine):
            return None
        return Surveyor(
            ledger=self.ledger,
            pool=self.pool,
            engine=engine,
            tracker=self.tracker,
            name=self._name,
            lease_seconds=settings.lease_seconds,
            pause=settings.survey_pause,
        )

    def listener(self, events_queue: str) -> Listener:
        return Listener(
            exchange=self.exchange,
            tracker=self.tracker,
            ledger=self.ledger,
            pool=self.pool,
            queue=events_queue,
            rules=rules_of(self.settings),
        )

    def _load_engine(self) -> Engine:
        if self._engine is None:
            self._engine = load_engine(self.settings)
            self._closing.push_async_callback(self._engine.close)
        return self._engine

    def routes(self) -> Routes:
        settings = self.settings
        others = (
            settings.dispatch_queue,
            settings.handle_queue,
            *settings.handle_queues.values(),
        )
        if settings.events_queue and settings.events_queue in others:
            raise SettingsError(
                f"{variable('events_queue')}: {settings.events_queue!r} is another queue already"
            )
        if self.in_process:
            # Publishing to memory:// waits until the message is handled, so a worker that
            # forwards to another queue would wait for itself.
            return Routes(dispatch_queue=self.settings.dispatch_queue)
        return Routes(
            dispatch_queue=self.settings.dispatch_queue,
            handle_queue=self.settings.handle_queue,
            handle_queues=self.settings.handle_queues,
        )

    @property
    def in_process(self) -> bool:
        return self.settings.amqp_url.get_secret_value().startswith(IN_PROCESS)

    @property
    def exchange(self) -> Exchange:
        """The dispatch exchange; it connects at its first use."""
        if self._exchange is None and self.in_process:
            self._exchange = MemoryExchange()
        if self._exchange is None:
            rabbit = RabbitExchange(
                self.settings.amqp_url.get_secret_value(),
                exchange=self.settings.dispatch_exchange,
                queues=[*self.routes().queues, *filter(None, [self.settings.events_queue])],
                queue_type=self.settings.queue_type,
                name=self._name,
                tls=self.tls,
            )
            self._closing.push_async_callback(rabbit.close)
            self._exchange = rabbit
        return self._exchange

    async def serve(
        self,
        stop: asyncio.Event,
        services: dict[str, Service],
        ready: Callable[[], None],
        *,
        scans: bool = False,
    ) -> None:
        """Run services until stopped; ``scans``: whether a scanner is among them."""
        serving = Serving(
            name=self._name,
            settings=self.settings,
            ledger=self.ledger,
            pool=self.pool,
            exchange=self.exchange,
        )
        agree = self.agreement.declare if scans else self.agreement.compare
        await serving.serve(stop, services, ready, agree)
