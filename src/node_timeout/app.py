"""`NodeTimeout`: the library API, and the only place that wires ports to adapters."""

import asyncio
import contextlib
import logging
import os
import socket
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from node_timeout.arming.listener import Listener
from node_timeout.arming.surveyor import Surveyor
from node_timeout.arming.tracker import Tracker
from node_timeout.dispatch.reconciler import Reconciler
from node_timeout.dispatch.scanner import Scanner
from node_timeout.domain.errors import (
    InvalidInputError,
    NodeTimeoutError,
    SettingsError,
    TemporaryError,
    joined,
)
from node_timeout.domain.events import NodeLeft, NodeStarted
from node_timeout.domain.hints import did_you_mean
from node_timeout.domain.run import HistoryEntry, LedgerRow, NodeRun, id_problem
from node_timeout.domain.timeout_config import ConfigRules, TreeConfigs, apply_configs, read_configs
from node_timeout.engines import load_engine
from node_timeout.handling.attempt import Limits
from node_timeout.handling.dispatch_handler import Routes
from node_timeout.handling.worker import Worker
from node_timeout.ports.engine import Engine, SurveyableEngine
from node_timeout.ports.exchange import Exchange
from node_timeout.ports.ledger import ReplayOrder, Retention
from node_timeout.runtime.agreement import Agreement
from node_timeout.runtime.loop import Backoff
from node_timeout.runtime.serving import Service, Serving
from node_timeout.settings import Settings, variable
from node_timeout.status import Status, look
from node_timeout.stores.memory.exchange import MemoryExchange
from node_timeout.stores.rabbitmq.exchange import RabbitExchange
from node_timeout.stores.redis.pool import RedisPool
from node_timeout.stores.sql.bamboo_configs import BambooConfigs
from node_timeout.stores.sql.ledger import SqlLedger
from node_timeout.stores.tls import Tls
from node_timeout.strategies.base import known_actions, load_strategies
from node_timeout.tasks import ended
from node_timeout.urls.addresses import HostsUrl, split_urls

logger = logging.getLogger(__name__)

REPLAY_BATCH = 500
IN_PROCESS = "memory://"


def apply_node_timeout_configs(pipeline_tree: Any, configs: Any) -> dict[str, Any]:
    """Return a copy of a pipeline tree with each config at its node's ``timeout_config``.

    ``configs`` is ``{"node_id": {"enable": True, "action": "forced_fail", "seconds": 10}}``; nodes
    inside sub-processes are found too. Raises `InvalidTimeoutConfigError` or
    `InvalidPipelineTreeError` that names every bad node; the input is never changed.
    """
    return apply_configs(pipeline_tree, configs, _rules(Settings()))


def _nothing() -> None:
    return


def read_tree(
    root_pipeline_id: Any, pipeline_tree: Any, settings: Settings
) -> tuple[dict[str, Any], TreeConfigs | None]:
    """The result of `NodeTimeout.batch_create_node_timeout_config`, and what is to be stored.

    Nothing is to be stored of a tree that is refused.
    """
    try:
        tree = read_configs(root_pipeline_id, pipeline_tree, _rules(settings))
    except InvalidInputError as error:
        return {"result": False, "data": [], "message": str(error)}, None
    message = joined(tree.findings)
    if message:
        logger.warning("root pipeline %s: %s", root_pipeline_id, message)
    return {"result": True, "data": list(tree.enabled), "message": message}, tree


def _rules(settings: Settings) -> ConfigRules:
    return ConfigRules(actions=known_actions(settings.handlers), max_seconds=settings.max_seconds)


@dataclass(slots=True, kw_only=True)
class ImportReport:
    """What `NodeTimeout.import_bamboo_configs` did, in rows."""

    read: int = 0
    imported: int = 0
    """The others were here already, or were refused."""
    refused: list[str] = field(default_factory=list)
    """One sentence for each row that is no valid config."""


class NodeTimeout:
    """Arm, disarm, look and replay, over the stores that the settings name.

    An async context manager. Nothing is connected before it is needed.
    """

    def __init__(
        self,
        settings: Settings | None = None,
    ) -> None:
        self.settings = settings or Settings()
        self._name = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self._closing = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        settings = self.settings
        self._engine: Engine | None = None
        self._exchange: Exchange | None = None
        self._tls = Tls.of(settings)
        self.ledger = SqlLedger(settings.database_url.get_secret_value(), tls=self._tls)
        self._closing.push_async_callback(self.ledger.close)
        self.pool = RedisPool(
            settings.redis_url.get_secret_value(),
            settings.executing_pool,
            settings.pool_shards,
            tls=self._tls,
        )
        self._closing.push_async_callback(self.pool.close)
        self._tracker = Tracker(ledger=self.ledger, pool=self.pool)
        self._closing.push_async_callback(self._tracker.close)
        self._comparing: asyncio.Task[None] | None = None
        self._closing.push_async_callback(self._stop_comparing)
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self._closing.aclose()

    # Configs

    def apply_node_timeout_configs(self, pipeline_tree: Any, configs: Any) -> dict[str, Any]:
        """The function of this name, checked against this object's settings."""
        return apply_configs(pipeline_tree, configs, _rules(self.settings))

    async def batch_create_node_timeout_config(
        self, root_pipeline_id: Any, pipeline_tree: Any
    ) -> dict[str, Any]:
        """Store the timeout configs of a tree, all or none, in one transaction.

        Return ``{"result": bool, "data": [TimeoutConfig, …], "message": str}``. Bad input gives
        ``result`` False and a message that names the bad nodes. With ``result`` True the message
        names what was passed over and may have been meant as a timeout.
        Called again it updates: node ids are unique over all trees. What does not say
        ``enable: True`` is left out, and removed if it was stored before.
        Raises `LedgerUnavailableError`.
        """
        result, tree = read_tree(root_pipeline_id, pipeline_tree, self.settings)
        if tree:
            await self.ledger.save_configs(root_pipeline_id, tree.enabled, tree.disabled)
        return result

    async def import_bamboo_configs(
        self, source_url: str, progress: Callable[[int, int], None]
    ) -> ImportReport:
        """Copy the configs of bamboo's own app from its database; those stored here stay.

        Called again it copies what is new. ``progress`` is told the rows read and their number.
        Raises `SettingsError`, `LedgerUnavailableError`, `LedgerError`.
        """
        report = ImportReport()
        source = BambooConfigs(source_url, tls=self._tls)
        try:
            total = await source.count()
            async for page in source.pages(_rules(self.settings)):
                report.read += page.rows
                report.imported += await self.ledger.add_configs(page.configs)
                report.refused += page.refused
                progress(report.read, max(total, report.read))
        finally:
            await source.close()
        return report

    # Node runs

    async def node_started(
        self, node_id: str, version: str, *, happened_at: float | None = None
    ) -> bool:
        """The node entered RUNNING: arm it if it has a config; return whether it is armed.

        The deadline counts from ``happened_at`` (Unix seconds; None: now). Called again it changes
        nothing. Raises `InvalidNodeRunError`, `LedgerUnavailableError`.
        """
        return bool(await self.nodes_started([(node_id, version)], happened_at=happened_at))

    async def node_left(
        self,
        node_id: str,
        version: str | None = None,
        *,
        happened_at: float | None = None,
        trust_ledger: bool = False,
    ) -> int:
        """The node left RUNNING: disarm every armed version of it; return how many were armed.

        Versions that started after ``happened_at`` (Unix seconds; None: now) are left alone, and
        so are those that started after the version named. ``trust_ledger`` leaves the pool alone
        where the ledger knows of nothing armed: a node without a config costs one read.
        Raises `InvalidNodeRunError`, `LedgerUnavailableError`.
        """
        return await self.nodes_left(
            [(node_id, version)], happened_at=happened_at, trust_ledger=trust_ledger
        )

    async def nodes_started(
        self, runs: Iterable[tuple[str, str]], *, happened_at: float | None = None
    ) -> int:
        """`node_started` for many (node_id, version), a batch a store; how many are armed."""
        self._compare_settings()
        return await self._tracker.nodes_started(
            [NodeStarted(run=NodeRun.of(*run), happened_at=happened_at) for run in runs]
        )

    def _compare_settings(self) -> None:
        """Beside the first start that finds the stores there: wrong settings lose its deadline."""
        if self._comparing is None:
            self._comparing = asyncio.create_task(self._compare(), name="compare settings")

    async def _compare(self) -> None:
        try:
            await self.agreement().compare()
        except TemporaryError:
            self._comparing = None  # at the next start again
        except NodeTimeoutError as error:
            logger.debug("settings not compared: %s", error)

    async def _stop_comparing(self) -> None:
        if self._comparing:
            await ended(self._comparing)

    async def nodes_left(
        self,
        nodes: Iterable[tuple[str, str | None]],
        *,
        happened_at: float | None = None,
        trust_ledger: bool = False,
    ) -> int:
        """`node_left` for many (node_id, version or None); return how many were armed."""
        events = [
            _left(node_id, version, happened_at=happened_at, trust_ledger=trust_ledger)
            for node_id, version in nodes
        ]
        return await self._tracker.nodes_left(events)

    async def cancel(
        self,
        node_id: str,
        version: str | None = None,
        *,
        actor: str = "library",
        reason: str | None = None,
    ) -> int:
        """Cancel the armed runs of a node, or exactly this version; return how many were armed.

        The history says who and why. A version that the ledger does not know leaves the pool all
        the same. Raises
        `InvalidInputError`, `LedgerUnavailableError`.
        """
        event = _left(
            node_id, version, only_version=version is not None, actor=actor, reason=reason
        )
        return await self._tracker.cancel(event)

    async def rows(self, node_id: str) -> list[LedgerRow]:
        """What the ledger knows of each version of a node."""
        return await self.ledger.rows(node_id)

    async def history(self, node_id: str) -> list[HistoryEntry]:
        """What happened to the runs of a node beyond their plain course, in order."""
        return await self.ledger.history(node_id)

    async def replay(
        self,
        *,
        node_id: str | None = None,
        root_pipeline_id: str | None = None,
        everything: bool = False,
        actor: str = "library",
        reason: str | None = None,
    ) -> int:
        """Arm dead node runs again, due now: of a node, of a root pipeline, or all; how many.

        The history says who and why.

        Raises `InvalidInputError` unless exactly one is chosen.
        """
        if (node_id is not None) + (root_pipeline_id is not None) + everything != 1:
            raise InvalidInputError("choose one of node_id, root_pipeline_id and everything")
        now = await self.pool.now()
        order: ReplayOrder | None = ReplayOrder(
            until=now,
            node_id=node_id,
            root_pipeline_id=root_pipeline_id,
            actor=actor,
            reason=reason,
        )
        replayed = 0
        while order is not None:
            page = await self.ledger.replay(order, now, REPLAY_BATCH)
            replayed += len(page.due)
            await self.pool.arm(page.due)
            order = page.rest
        return replayed

    async def status(self, recent: int = 10) -> Status:
        """A look at every store; one that does not answer is named in ``unreachable``."""
        return await look(
            self.ledger,
            self.pool,
            self.exchange,
            recent=recent,
            overdue_alarm=self.settings.overdue_alarm,
        )

    # Services

    async def scan(self, stop: asyncio.Event, *, ready: Callable[[], None] = _nothing) -> None:
        """The ``scan`` role until stopped: scanner and reconciler.

        Waits for stores that are down; ``ready`` is called when they have answered. Raises
        `SchemaError`, `QueueMismatchError`.
        """
        services = self._scan_services()
        self._refuse_in_process()
        await self._serve(stop, services, ready, scans=True)

    async def work(
        self,
        stop: asyncio.Event,
        queues: Sequence[str] = (),
        *,
        ready: Callable[[], None] = _nothing,
    ) -> None:
        """The ``worker`` role until stopped, on the queues given or the default ones.

        Waits for stores that are down; ``ready`` is called when they have answered. Raises
        `SettingsError`, `StrategyError`, `SchemaError`, `QueueMismatchError`.
        """
        services = self._worker_services(queues)
        self._refuse_in_process()
        await self._serve(stop, services, ready)

    async def scan_and_work(self, stop: asyncio.Event) -> None:
        """Both roles in one process, on the default queues."""
        services = self._scan_services() | self._worker_services(())
        await self._serve(stop, services, _nothing, scans=True)

    def _scan_services(self) -> dict[str, Service]:
        """A scanner a shard: one that is down holds no other up."""
        scanners = self.scanners()
        names = (
            ["scanner"] if len(scanners) == 1 else [f"scanner {i}" for i in range(len(scanners))]
        )
        services: dict[str, Service] = {
            name: scanner.run for name, scanner in zip(names, scanners, strict=True)
        }
        return services | {"reconciler": self.reconciler().run}

    def _worker_services(self, queues: Sequence[str]) -> dict[str, Service]:
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
            queues=self._routes().queues,
            name=self._name,
            lease_seconds=settings.lease_seconds,
            redispatch_after=settings.redispatch_after,
            dispatch_ahead=settings.dispatch_ahead,
            sweep_pause=settings.reconcile_pause,
            retention=Retention(
                handled_seconds=settings.record_retention,
                cancelled_seconds=settings.cancelled_retention,
            ),
        )

    def worker(self, queues: Sequence[str] = ()) -> Worker:
        settings, routes = self.settings, self._routes()
        for queue in queues:
            if queue not in routes.queues:
                raise SettingsError(
                    f"queue {queue!r} is none of {', '.join(routes.queues)}"
                    f"{did_you_mean(queue, routes.queues)}"
                )
        engine = self._load_engine()
        strategies = load_strategies(settings.handlers, engine, settings)
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
            ),
        )

    def surveyor(self) -> Surveyor | None:
        """None if the engine cannot be asked."""
        engine, settings = self._load_engine(), self.settings
        if not isinstance(engine, SurveyableEngine):
            return None
        return Surveyor(
            ledger=self.ledger,
            pool=self.pool,
            engine=engine,
            tracker=self._tracker,
            name=self._name,
            lease_seconds=settings.lease_seconds,
            pause=settings.survey_pause,
        )

    def listener(self, events_queue: str) -> Listener:
        return Listener(
            exchange=self.exchange,
            tracker=self._tracker,
            pool=self.pool,
            queue=events_queue,
            rules=_rules(self.settings),
        )

    def _load_engine(self) -> Engine:
        if self._engine is None:
            self._engine = load_engine(self.settings)
            self._closing.push_async_callback(self._engine.close)
        return self._engine

    def _routes(self) -> Routes:
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
        if self._in_process:
            # Its confirm means handled: a worker that forwards would wait for itself.
            return Routes(dispatch_queue=self.settings.dispatch_queue)
        return Routes(
            dispatch_queue=self.settings.dispatch_queue,
            handle_queue=self.settings.handle_queue,
            handle_queues=self.settings.handle_queues,
        )

    @property
    def _in_process(self) -> bool:
        return self.settings.amqp_url.get_secret_value().startswith(IN_PROCESS)

    @property
    def exchange(self) -> Exchange:
        """The dispatch exchange; connected when it is first used."""
        if self._exchange is None and self._in_process:
            self._exchange = MemoryExchange()
        if self._exchange is None:
            rabbit = RabbitExchange(
                self.settings.amqp_url.get_secret_value(),
                exchange=self.settings.dispatch_exchange,
                queues=[*self._routes().queues, *filter(None, [self.settings.events_queue])],
                queue_type=self.settings.queue_type,
                name=self._name,
                tls=self._tls,
            )
            self._closing.push_async_callback(rabbit.close)
            self._exchange = rabbit
        return self._exchange

    def agreement(self) -> Agreement:
        """Whether this process is set as the scanners are."""
        settings = self.settings
        names = ("executing_pool", "pool_shards", "dispatch_exchange", "dispatch_queue")
        agreed = {variable(name): str(getattr(settings, name)) for name in names}
        agreed[variable("dispatch_ahead")] = f"{settings.dispatch_ahead:g}"
        if not self._in_process:
            url, *_ = split_urls(settings.amqp_url.get_secret_value())
            agreed["vhost of " + variable("amqp_url")] = HostsUrl.parse(url).path
        return Agreement(ledger=self.ledger, pool=self.pool, settings=agreed)

    def use_engine(self, engine: Engine) -> None:
        """Let the worker act through this engine, not through the one that the settings name."""
        self._engine = engine

    def _refuse_in_process(self) -> None:
        if self._in_process:
            raise SettingsError(
                f"{variable('amqp_url')}: {IN_PROCESS} reaches no other process; "
                f"name a RabbitMQ, or use: node-timeout dev"
            )

    async def _serve(
        self,
        stop: asyncio.Event,
        services: dict[str, Service],
        ready: Callable[[], None],
        *,
        scans: bool = False,
    ) -> None:
        serving = Serving(
            settings=self.settings, ledger=self.ledger, pool=self.pool, exchange=self.exchange
        )
        agreement = self.agreement()
        agree = agreement.declare if scans else agreement.compare
        await serving.serve(stop, services, ready, agree)


def _left(node_id: str, version: str | None, **how: Any) -> NodeLeft:
    """Check and build. Raises `InvalidInputError`."""
    if version is not None:
        NodeRun.of(node_id, version)
    elif problem := id_problem("node id", node_id):
        raise InvalidInputError(problem)
    return NodeLeft(node_id=node_id, version=version, **how)
