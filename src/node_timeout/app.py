"""`NodeTimeout`: the library API."""

import asyncio
import contextlib
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Self, Unpack

from node_timeout.domain.changes import (
    Cancel,
    Change,
    Discard,
    Extend,
    Fire,
    Pause,
    Reconfigure,
    Replay,
    Resume,
)
from node_timeout.domain.errors import SettingsError
from node_timeout.domain.events import NodeLeft, NodeStarted
from node_timeout.domain.history import HistoryEntry
from node_timeout.domain.ids import check_ids
from node_timeout.domain.lateness import MAX_ENDINGS
from node_timeout.domain.run import LedgerRow, Node, RunState
from node_timeout.domain.timeout_config import TimeoutConfig, apply_configs
from node_timeout.domain.tokens import Role, Token
from node_timeout.operations import (
    changing,
    configs,
    letters,
    looking,
    reading,
    receiving,
    tokens,
)
from node_timeout.operations.changing import ChangeReport
from node_timeout.operations.choosing import Asked
from node_timeout.operations.configs import ImportReport
from node_timeout.operations.give_back import GiveBackReport, give_back
from node_timeout.operations.letters import Sifted
from node_timeout.operations.receiving import Received
from node_timeout.ports.directory import Cursor, Names, RunPage
from node_timeout.ports.engine import Engine
from node_timeout.ports.exchange import Exchange
from node_timeout.ports.presence import Process
from node_timeout.setting_rules import variable
from node_timeout.settings import Settings
from node_timeout.status import Status, look, needed_roles
from node_timeout.stores.redis.pool import RedisPool
from node_timeout.stores.sql.ledger import SqlLedger
from node_timeout.wiring import IN_PROCESS, Wiring, rules_of

NO_VERSION = "none"
"""Stands for a version that is not named, in the check of ids."""

Run = tuple[str, str] | tuple[str, str, str | None]
Left = tuple[str, str | None] | tuple[str, str | None, str | None]


def apply_node_timeout_configs(pipeline_tree: Any, configs: Any) -> dict[str, Any]:
    """Return a copy of a pipeline tree with each config at its node's ``timeout_config``.

    ``configs`` is ``{"node_id": {"enable": True, "action": "forced_fail", "seconds": 10}}``; nodes
    inside sub-processes are found too. Raises `InvalidTimeoutConfigError` or
    `InvalidPipelineTreeError` that names every bad node; the input is never changed.
    """
    return apply_configs(pipeline_tree, configs, rules_of(Settings()))


def _nothing() -> None:
    return


class NodeTimeout:
    """Arm, disarm, look and replay, over the stores that the settings name.

    An async context manager. Nothing is connected before it is needed.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()
        self._closing = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        self.wiring = Wiring(self.settings)
        self._closing.push_async_callback(self.wiring.close)
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self._closing.aclose()

    @property
    def ledger(self) -> SqlLedger:
        return self.wiring.ledger

    @property
    def pool(self) -> RedisPool:
        return self.wiring.pool

    @property
    def exchange(self) -> Exchange:
        """The dispatch exchange; connected when it is first used."""
        return self.wiring.exchange

    # Configs

    def apply_node_timeout_configs(self, pipeline_tree: Any, configs: Any) -> dict[str, Any]:
        """The function of this name, checked against this object's settings."""
        return apply_configs(pipeline_tree, configs, rules_of(self.settings))

    async def batch_create_node_timeout_config(
        self,
        root_pipeline_id: Any,
        pipeline_tree: Any,
        *,
        lenient: bool = False,
        payload: Any = None,
    ) -> dict[str, Any]:
        """Store the timeout configs of a tree, all or none, in one transaction.

        Return ``{"result": bool, "data": [TimeoutConfig, …], "message": str}``. Bad input gives
        ``result`` False and a message that names the bad nodes. With ``result`` True the message
        names what was passed over and may have been meant as a timeout. With ``lenient`` that is
        also what is wrong with single nodes: they get no timeout, all others do. ``payload`` is
        that of the nodes whose config has none: any JSON, which their strategies are given.
        Called again it updates: node ids are unique within their root pipeline. What does not say
        ``enable: True`` is left out, and removed if it was stored before.
        Raises `LedgerUnavailableError`.
        """
        rules = rules_of(self.settings)
        found = reading.read_tree(
            root_pipeline_id, pipeline_tree, rules, lenient=lenient, payload=payload
        )
        return await configs.store(self.ledger, found)

    async def batch_create_node_timeout_configs(
        self, pipeline_trees: Any, *, lenient: bool = False
    ) -> dict[str, Any]:
        """The same for many trees at once: ``{root_pipeline_id: tree}``, in one transaction.

        The result is of the same form; its message says of which root pipeline it speaks. One bad
        tree refuses all of them; with ``lenient`` it alone gets no timeouts.
        Raises `LedgerUnavailableError`.
        """
        found = reading.read_trees(pipeline_trees, rules_of(self.settings), lenient=lenient)
        return await configs.store(self.ledger, found)

    async def root_finished(self, root_pipeline_id: str) -> int:
        """The root pipeline has ended for good: its configs are deleted ``config_retention`` later;
        return how many. Storing one again keeps it.

        Raises `InvalidInputError`, `LedgerUnavailableError`.
        """
        retention = self.settings.config_retention
        return await configs.end_root(self.ledger, self.pool, root_pipeline_id, retention)

    async def forget(self, root_pipeline_id: str, node_ids: Iterable[str] | None = None) -> int:
        """Delete the configs of a root pipeline, or of these of its nodes, now; return how many
        there were.

        Open runs go on as they are. Raises `InvalidInputError`, `LedgerUnavailableError`.
        """
        return await configs.forget_root(self.ledger, root_pipeline_id, node_ids)

    async def import_bamboo_configs(
        self,
        source_url: str,
        progress: Callable[[int, int], None],
        *,
        table: str = "node_timeout_timeoutnodeconfig",
    ) -> ImportReport:
        """Copy the configs of bamboo's own app from its database; those stored here stay.

        ``table`` may also be ``taskflow3_timeoutnodeconfig`` (bk-sops) or
        ``task_timeoutnodeconfig`` (BKFlow). Called again it copies what is new. ``progress`` is
        told the rows read and their number. Raises `SettingsError`, `InvalidInputError`,
        `LedgerUnavailableError`, `LedgerError`.
        """
        rules = rules_of(self.settings)
        return await configs.import_bamboo(
            self.ledger, source_url, table, rules, self.wiring.tls, progress
        )

    # Node runs

    async def node_started(
        self,
        node_id: str,
        version: str,
        root_pipeline_id: str | None = None,
        *,
        happened_at: float | None = None,
    ) -> bool:
        """The node entered RUNNING: arm it if it has a config; return whether it is armed.

        The deadline counts from ``happened_at`` (Unix seconds; None: now). Called again it changes
        nothing. Without ``root_pipeline_id`` the node is that of the only root pipeline that has a
        config for it. Raises `InvalidNodeRunError`, `AmbiguousNodeError` (several have),
        `LedgerUnavailableError`.
        """
        run = (node_id, version, root_pipeline_id)
        return bool(await self.nodes_started([run], happened_at=happened_at))

    async def node_left(
        self,
        node_id: str,
        version: str | None = None,
        root_pipeline_id: str | None = None,
        *,
        happened_at: float | None = None,
        trust_ledger: bool = False,
    ) -> int:
        """The node left RUNNING: disarm every armed version of it; return how many were armed.

        Nodes of the same id in other root pipelines are left alone, and a node without a
        ``root_pipeline_id`` is found as for `node_started`. Versions that started after
        ``happened_at`` (Unix seconds; None: now) are left alone, and so are those that started
        after the version named. ``trust_ledger`` leaves the pool alone where the ledger knows of
        nothing armed: a node without a config costs one read.
        Raises `InvalidNodeRunError`, `AmbiguousNodeError`, `LedgerUnavailableError`.
        """
        return await self.nodes_left(
            [(node_id, version, root_pipeline_id)],
            happened_at=happened_at,
            trust_ledger=trust_ledger,
        )

    async def node_paused(
        self,
        node_id: str,
        version: str,
        root_pipeline_id: str | None = None,
        *,
        happened_at: float | None = None,
    ) -> bool:
        """The engine has suspended the node: its time stands still until `node_started` says that
        this version runs again; return whether it was armed.

        Raises `InvalidNodeRunError`, `AmbiguousNodeError`, `LedgerUnavailableError`.
        """
        ids = _ids(node_id, version, root_pipeline_id)
        event = NodeLeft(**ids, happened_at=happened_at, is_pause=True)
        return bool(await self.wiring.tracker.nodes_left([event]))

    async def nodes_started(self, runs: Iterable[Run], *, happened_at: float | None = None) -> int:
        """`node_started` for many (node_id, version[, root_pipeline_id]), a batch a store; return
        how many are armed. If it raises, none is.
        """
        self.wiring.agreement.compare_beside()  # wrong settings lose a deadline
        events = [NodeStarted(**_ids(*run), happened_at=happened_at) for run in runs]
        return await self.wiring.tracker.nodes_started(events)

    async def nodes_left(
        self,
        nodes: Iterable[Left],
        *,
        happened_at: float | None = None,
        trust_ledger: bool = False,
    ) -> int:
        """`node_left` for many (node_id, version or None[, root_pipeline_id]); return how many were
        armed. If it raises, all still are.
        """
        events = [
            NodeLeft(**_ids(*node), happened_at=happened_at, trust_ledger=trust_ledger)
            for node in nodes
        ]
        return await self.wiring.tracker.nodes_left(events)

    # Changes of running deadlines

    async def extend(
        self,
        node_id: str | None = None,
        version: str | None = None,
        root_pipeline_id: str | None = None,
        *,
        by: float | None = None,
        until: float | None = None,
        **asked: Unpack[Asked],
    ) -> ChangeReport:
        """Move the deadline: ``by`` seconds (fewer than none: to an earlier instant), or ``until``
        an instant (Unix seconds). One that would lie in the past is now.

        No run's time may become longer than ``max_seconds``. Of a paused run the time left is
        changed. Which runs: those of a node, exactly this version of it, those of a root pipeline,
        or what `Asked` says: named ones, 500 at most, or all that match, the oldest 1,000 at a
        time. Without a root pipeline the node is that of the only one that has a config for it, or
        an open run. Each run gets a verdict, and its history says who and why. What is ``done``
        holds. Raises `InvalidInputError`, `AmbiguousNodeError`, `LedgerUnavailableError`.
        """
        change = Extend(by=by, until=until)
        return await self._change(change, node_id, version, root_pipeline_id, asked)

    async def reconfigure(
        self,
        node_id: str | None = None,
        version: str | None = None,
        root_pipeline_id: str | None = None,
        **asked: Unpack[Asked],
    ) -> ChangeReport:
        """Let armed and paused runs follow their nodes' configs as they are stored now; which runs,
        see `extend`.

        Otherwise a run follows the config that it started with. The new seconds count from where
        those of before were counted. A run that follows it already is left alone.
        """
        return await self._change(Reconfigure(), node_id, version, root_pipeline_id, asked)

    async def pause(
        self,
        node_id: str | None = None,
        version: str | None = None,
        root_pipeline_id: str | None = None,
        **asked: Unpack[Asked],
    ) -> ChangeReport:
        """Let the time of armed runs stand still until `resume`; which runs, see `extend`.

        An engine that suspends its node says so by `node_paused`: what an operator has paused does
        not go on by the engine's word.
        """
        return await self._change(Pause(), node_id, version, root_pipeline_id, asked)

    async def resume(
        self,
        node_id: str | None = None,
        version: str | None = None,
        root_pipeline_id: str | None = None,
        **asked: Unpack[Asked],
    ) -> ChangeReport:
        """Let paused runs go on with the time they had left; which runs, see `extend`."""
        return await self._change(Resume(), node_id, version, root_pipeline_id, asked)

    async def fire(
        self,
        node_id: str | None = None,
        version: str | None = None,
        root_pipeline_id: str | None = None,
        **asked: Unpack[Asked],
    ) -> ChangeReport:
        """Make armed and paused runs due now; which runs, see `extend`."""
        return await self._change(Fire(), node_id, version, root_pipeline_id, asked)

    async def cancel(
        self,
        node_id: str | None = None,
        version: str | None = None,
        root_pipeline_id: str | None = None,
        **asked: Unpack[Asked],
    ) -> ChangeReport:
        """Cancel armed and paused runs; which runs, see `extend`.

        A version that the ledger does not know leaves the pool all the same.
        """
        return await self._change(Cancel(), node_id, version, root_pipeline_id, asked)

    async def replay(
        self,
        node_id: str | None = None,
        version: str | None = None,
        root_pipeline_id: str | None = None,
        **asked: Unpack[Asked],
    ) -> ChangeReport:
        """Arm dead runs again, due now, with all their attempts; which runs, see `extend`.

        A node without a root pipeline is that of each of them. Those that die again before the end
        are left alone.
        """
        return await self._change(Replay(), node_id, version, root_pipeline_id, asked)

    async def discard(
        self,
        node_id: str | None = None,
        version: str | None = None,
        root_pipeline_id: str | None = None,
        **asked: Unpack[Asked],
    ) -> ChangeReport:
        """Delete dead runs, with their history; which runs, see `replay`."""
        return await self._change(Discard(), node_id, version, root_pipeline_id, asked)

    async def _change(
        self,
        change: Change,
        node_id: str | None,
        version: str | None,
        root_pipeline_id: str | None,
        asked: Asked,
    ) -> ChangeReport:
        return await changing.carry_out(
            self.ledger,
            self.pool,
            change,
            {
                "node_id": node_id,
                "version": version,
                "root_pipeline_id": root_pipeline_id,
                **asked,
            },
            max_seconds=self.settings.max_seconds,
        )

    # Looking

    async def rows(self, node_id: str, root_pipeline_id: str | None = None) -> list[LedgerRow]:
        """What the ledger knows of each version of a node, in each root pipeline or in this one."""
        return await self.ledger.rows(node_id, root_pipeline_id)

    async def find(
        self,
        *,
        state: RunState | str | None = None,
        root_pipeline_id: str | None = None,
        node_id: str | None = None,
        version: str | None = None,
        action: str | None = None,
        due_within: float | None = None,
        limit: int = 50,
        after: Cursor | None = None,
    ) -> RunPage:
        """A page of runs, oldest first; the armed ones if nothing is chosen.

        ``due_within`` (seconds): armed, and wanting attention by then. ``after`` is that of the
        page before. Raises `InvalidInputError`, `LedgerUnavailableError`.
        """
        return await looking.find(
            self.ledger,
            self.pool,
            state=state,
            root_pipeline_id=root_pipeline_id,
            node_id=node_id,
            version=version,
            action=action,
            due_within=due_within,
            limit=limit,
            after=after,
        )

    async def find_configs(
        self,
        *,
        root_pipeline_id: str | None = None,
        node_id: str | None = None,
        limit: int = 50,
        after: Node | None = None,
    ) -> list[TimeoutConfig]:
        """Stored configs in order of (root pipeline, node), those behind ``after``.

        Raises `InvalidInputError`, `LedgerUnavailableError`.
        """
        return await looking.find_configs(
            self.ledger,
            root_pipeline_id=root_pipeline_id,
            node_id=node_id,
            limit=limit,
            after=after,
        )

    async def names(self, prefix: str, limit: int = 20) -> Names:
        """Node ids and root pipeline ids of runs that begin so, at most ``limit`` of each.

        Raises `InvalidInputError`, `LedgerUnavailableError`.
        """
        return await looking.names(self.ledger, prefix, limit)

    async def lateness(self, limit: int = MAX_ENDINGS) -> dict[str, Any]:
        """How late the last ``limit`` handled runs were: ``{"endings": [[finished_at, seconds], …],
        "minutes": [{"minute", "count", "p50", "p95", "p99"}, …]}``, in order of time.

        Raises `InvalidInputError`, `LedgerUnavailableError`.
        """
        return await looking.late(self.ledger, limit)

    async def run(self, run_id: str) -> LedgerRow | None:
        """The run of this id, if the ledger has it.

        Raises `InvalidInputError`, `LedgerUnavailableError`.
        """
        return await looking.run(self.ledger, run_id)

    async def history(self, run_ids: Sequence[str]) -> list[HistoryEntry]:
        """What happened to these runs beyond their plain course, each in order.

        Raises `InvalidInputError`, `LedgerUnavailableError`.
        """
        return await looking.history(self.ledger, run_ids)

    async def letters(self, limit: int = 100) -> Sifted:
        """The oldest messages that nobody could read or place, with the reason of each.

        What was looked at stands behind the others then. Raises `InvalidInputError`,
        `ExchangeUnavailableError`.
        """
        return await letters.look(self.exchange, limit)

    async def resend_letters(self, letter_ids: Collection[str] | None) -> Sifted:
        """Send dead letters again, to the queue of their kind: those of these ids, or with None the
        oldest 1,000. What cannot be read still comes back.

        Raises `InvalidInputError`, `ExchangeUnavailableError`; those that were sent before are.
        """
        return await letters.resend(
            self.exchange,
            letter_ids,
            dispatch_queue=self.settings.dispatch_queue,
            events_queue=self.settings.events_queue,
        )

    async def discard_letters(self, letter_ids: Collection[str] | None) -> Sifted:
        """Drop dead letters: those of these ids, or with None the oldest 1,000.

        Raises `InvalidInputError`, `ExchangeUnavailableError`; those that were dropped before are.
        """
        return await letters.discard(self.exchange, letter_ids)

    async def give_back(self) -> GiveBackReport:
        """Write the open runs into the pool in the form of bamboo's own app, and take ours out.

        For those who go back to it. Raises `NodeTimeoutError` if a scanner or a worker is at work.
        """
        return await give_back(self.ledger, self.pool, self.settings.lease_seconds)

    async def processes(self) -> Sequence[Process]:
        """The processes of node-timeout that are alive, with what their services do.

        Raises `PoolUnavailableError`.
        """
        return await self.pool.presence.processes()

    async def status(self, recent: int = 10, *, most: int | None = None) -> Status:
        """A look at every store; one that does not answer is named in ``unreachable``.

        With ``most`` no number of the ledger is counted further: then the look costs the same
        however much there is.
        """
        return await look(
            self.ledger,
            self.pool,
            self.exchange,
            self.pool.presence,
            recent=recent,
            most=most,
            overdue_alarm=self.settings.overdue_alarm,
            roles=needed_roles(self.settings.events_queue),
        )

    # For those who reach us over HTTP

    async def receive(self, body: bytes) -> Received:
        """Events in the form of the events queue, 500 at most, by a call that is answered.

        May be repeated. Raises `UnreadableMessageError`, `InvalidInputError`,
        `LedgerUnavailableError`.
        """
        return await receiving.receive(
            body,
            ledger=self.ledger,
            pool=self.pool,
            tracker=self.wiring.tracker,
            rules=rules_of(self.settings),
        )

    async def create_token(
        self, role: Role | str, name: str, *, expires_in: float | None = None
    ) -> tuple[str, Token]:
        """Make a token for the HTTP API; return its text, which cannot be had again, and what is
        stored of it. ``expires_in`` in seconds.

        Raises `InvalidInputError`, `LedgerUnavailableError`.
        """
        return await tokens.create(
            self.ledger, self.pool, role=role, name=name, expires_in=expires_in
        )

    async def tokens(self) -> Sequence[Token]:
        """Every token that was made, the oldest first. Raises `LedgerUnavailableError`."""
        return await self.ledger.tokens()

    async def revoke_token(self, token_id: str) -> bool:
        """Let nobody in by this token any more; False if there is no valid one of this id."""
        return await self.ledger.revoke_token(token_id, await self.pool.now())

    # Services

    async def scan(self, stop: asyncio.Event, *, ready: Callable[[], None] = _nothing) -> None:
        """The ``scan`` role until stopped: scanner and reconciler.

        Waits for stores that are down; ``ready`` is called when they have answered. Raises
        `SchemaError`, `QueueMismatchError`.
        """
        services = self.wiring.scan_services()
        self._refuse_in_process()
        await self.wiring.serve(stop, services, ready, scans=True)

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
        services = self.wiring.worker_services(queues)
        self._refuse_in_process()
        await self.wiring.serve(stop, services, ready)

    async def scan_and_work(self, stop: asyncio.Event) -> None:
        """Both roles in one process, on the default queues."""
        services = self.wiring.scan_services() | self.wiring.worker_services(())
        await self.wiring.serve(stop, services, _nothing, scans=True)

    def use_engine(self, engine: Engine) -> None:
        """Let the worker act through this engine, not through the one that the settings name."""
        self.wiring.use_engine(engine)

    def _refuse_in_process(self) -> None:
        if self.wiring.in_process:
            raise SettingsError(
                f"{variable('amqp_url')}: {IN_PROCESS} reaches no other process; "
                f"name a RabbitMQ, or use: node-timeout dev"
            )


def _ids(node_id: str, version: str | None, root_pipeline_id: str | None = None) -> dict[str, Any]:
    """The ids of an event, checked. Raises `InvalidNodeRunError`."""
    check_ids(node_id, NO_VERSION if version is None else version, root_pipeline_id)
    return {"node_id": node_id, "version": version, "root_pipeline_id": root_pipeline_id}
