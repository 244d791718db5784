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
"""Takes the place of a missing version when ids are checked."""

Run = tuple[str, str] | tuple[str, str, str | None]
Left = tuple[str, str | None] | tuple[str, str | None, str | None]


def apply_node_timeout_configs(pipeline_tree: Any, configs: Any) -> dict[str, Any]:
    """Return a copy of a pipeline tree that has each config as ``timeout_config`` of its node.

    ``configs`` is ``{"node_id": {"enable": True, "action": "forced_fail", "seconds": 10}}``; nodes
    inside sub-processes are found too. The input is never changed. Raises
    `InvalidTimeoutConfigError` or `InvalidPipelineTreeError`, which name every bad node.
    """
    return apply_configs(pipeline_tree, configs, rules_of(Settings()))


def _nothing() -> None:
    return


class NodeTimeout:
    """Arm, disarm, inspect and replay runs, in the stores that the settings name.

    An async context manager. It connects to a store when a call first needs it.
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
        """The dispatch exchange; it connects at its first use."""
        return self.wiring.exchange

    # Configs

    def apply_node_timeout_configs(self, pipeline_tree: Any, configs: Any) -> dict[str, Any]:
        """The module function of this name, with the rules of this object's settings."""
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
        ``result`` False and a message that names the bad nodes. If ``result`` is True, the message
        names what was ignored and may have been meant as a timeout. With ``lenient``, the message
        also names the nodes with a bad config: they get no timeout, all others do. ``payload``, any
        JSON, is for nodes whose config has no payload; their strategies receive it.
        A second call updates: node ids are unique within their root pipeline. A config without
        ``enable: True`` is not stored, and is deleted if it was stored before.
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
        """Do the same for many trees, ``{root_pipeline_id: tree}``, in one transaction.

        The result has the same form; its message names the root pipelines. One bad tree makes the
        call refuse all trees; with ``lenient``, only the bad tree gets no timeouts.
        Raises `LedgerUnavailableError`.
        """
        found = reading.read_trees(pipeline_trees, rules_of(self.settings), lenient=lenient)
        return await configs.store(self.ledger, found)

    async def root_finished(self, root_pipeline_id: str) -> int:
        """Report that the root pipeline has ended for good: its configs are deleted after
        ``config_retention``. Return how many. A config that is stored again is kept.

        Raises `InvalidInputError`, `LedgerUnavailableError`.
        """
        retention = self.settings.config_retention
        return await configs.end_root(self.ledger, self.pool, root_pipeline_id, retention)

    async def forget(self, root_pipeline_id: str, node_ids: Iterable[str] | None = None) -> int:
        """Delete now the configs of a root pipeline, or only those of ``node_ids``; return how many
        there were.

        Open runs keep their deadlines. Raises `InvalidInputError`, `LedgerUnavailableError`.
        """
        return await configs.forget_root(self.ledger, root_pipeline_id, node_ids)

    async def import_bamboo_configs(
        self,
        source_url: str,
        progress: Callable[[int, int], None],
        *,
        table: str = "node_timeout_timeoutnodeconfig",
    ) -> ImportReport:
        """Copy the configs of bamboo's own app from its database; configs stored here stay.

        ``table`` may also be ``taskflow3_timeoutnodeconfig`` (bk-sops) or
        ``task_timeoutnodeconfig`` (BKFlow). A second call copies what is new. ``progress`` is
        called with the rows read so far and the total. Raises `SettingsError`,
        `InvalidInputError`, `LedgerUnavailableError`, `LedgerError`.
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

        The deadline counts from ``happened_at`` (Unix seconds; None: now). A second call changes
        nothing. If ``root_pipeline_id`` is None, it is the only root pipeline that has a config for
        the node. Raises `InvalidNodeRunError`, `AmbiguousNodeError` (several root pipelines have
        one), `LedgerUnavailableError`.
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

        Nodes with the same id in other root pipelines stay armed; if ``root_pipeline_id`` is None,
        it is found as in `node_started`. Versions that started after ``happened_at`` (Unix seconds;
        None: now) stay armed, and so do those that started after the version named. With
        ``trust_ledger`` the call does not touch the pool if the ledger has nothing armed for the
        node: a node without a config costs one read.
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
        """The engine has suspended the node: stop its time until `node_started` reports that this
        version runs again; return whether it was armed.

        Raises `InvalidNodeRunError`, `AmbiguousNodeError`, `LedgerUnavailableError`.
        """
        ids = _ids(node_id, version, root_pipeline_id)
        event = NodeLeft(**ids, happened_at=happened_at, is_pause=True)
        return bool(await self.wiring.tracker.nodes_left([event]))

    async def nodes_started(self, runs: Iterable[Run], *, happened_at: float | None = None) -> int:
        """`node_started` for many (node_id, version[, root_pipeline_id]), one batch per store;
        return how many are armed. If it raises, none is armed.
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
        armed. If it raises, all are still armed.
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
        """Move the deadline: ``by`` seconds (negative: to an earlier instant), or ``until`` an
        instant (Unix seconds). A deadline that would lie in the past becomes now.

        No run's time may exceed ``max_seconds``. For a paused run the time left changes. Choose the
        runs of a node, exactly one version of it, the runs of a root pipeline, or runs by `Asked`:
        run ids, 500 at most, or all runs that match, the oldest 1,000 per call. If no root pipeline
        is named, it is the only one that has a config or an open run of the node. Each run gets a
        verdict, and its history records who asked and why. The verdict ``done`` is binding.
        Raises `InvalidInputError`, `AmbiguousNodeError`, `LedgerUnavailableError`.
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
        """Let armed and paused runs follow their nodes' configs as they are stored now. `extend`
        explains how to choose runs.

        Otherwise a run follows the config that it started with. The new seconds count from the same
        start as the old ones. A run that already follows the stored config is not changed.
        """
        return await self._change(Reconfigure(), node_id, version, root_pipeline_id, asked)

    async def pause(
        self,
        node_id: str | None = None,
        version: str | None = None,
        root_pipeline_id: str | None = None,
        **asked: Unpack[Asked],
    ) -> ChangeReport:
        """Stop the time of armed runs until `resume`. `extend` explains how to choose runs.

        An engine that suspends its node calls `node_paused` instead: what an operator has paused,
        the engine cannot resume.
        """
        return await self._change(Pause(), node_id, version, root_pipeline_id, asked)

    async def resume(
        self,
        node_id: str | None = None,
        version: str | None = None,
        root_pipeline_id: str | None = None,
        **asked: Unpack[Asked],
    ) -> ChangeReport:
        """Continue paused runs with the time they had left. `extend` explains how to choose."""
        return await self._change(Resume(), node_id, version, root_pipeline_id, asked)

    async def fire(
        self,
        node_id: str | None = None,
        version: str | None = None,
        root_pipeline_id: str | None = None,
        **asked: Unpack[Asked],
    ) -> ChangeReport:
        """Make armed and paused runs due now. `extend` explains how to choose runs."""
        return await self._change(Fire(), node_id, version, root_pipeline_id, asked)

    async def cancel(
        self,
        node_id: str | None = None,
        version: str | None = None,
        root_pipeline_id: str | None = None,
        **asked: Unpack[Asked],
    ) -> ChangeReport:
        """Cancel armed and paused runs. `extend` explains how to choose runs.

        A named version that the ledger does not know is removed from the pool all the same.
        """
        return await self._change(Cancel(), node_id, version, root_pipeline_id, asked)

    async def replay(
        self,
        node_id: str | None = None,
        version: str | None = None,
        root_pipeline_id: str | None = None,
        **asked: Unpack[Asked],
    ) -> ChangeReport:
        """Arm dead runs again, due now, with all their attempts. `extend` explains how to choose.

        If no root pipeline is named, the node is meant in all of them. Runs that die again before
        the call ends are not replayed twice.
        """
        return await self._change(Replay(), node_id, version, root_pipeline_id, asked)

    async def discard(
        self,
        node_id: str | None = None,
        version: str | None = None,
        root_pipeline_id: str | None = None,
        **asked: Unpack[Asked],
    ) -> ChangeReport:
        """Delete dead runs, with their history; `replay` explains how to choose runs."""
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
        """The ledger's row of each version of a node, in all root pipelines or in one of them."""
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
        """A page of runs, oldest first; without any filter, the armed runs.

        ``due_within`` (seconds) chooses armed runs that need attention within this time. ``after``
        is the previous page's ``after``. Raises `InvalidInputError`, `LedgerUnavailableError`.
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
        """Stored configs in order of (root pipeline, node), from behind ``after``.

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
        """The runs' node ids and root pipeline ids with this prefix, at most ``limit`` of each.

        Raises `InvalidInputError`, `LedgerUnavailableError`.
        """
        return await looking.names(self.ledger, prefix, limit)

    async def lateness(self, limit: int = MAX_ENDINGS) -> dict[str, Any]:
        """How late the last ``limit`` handled runs were: ``{"endings": [[finished_at, seconds], …],
        "minutes": [{"minute", "count", "p50", "p95", "p99"}, …]}``, ordered by time.

        Raises `InvalidInputError`, `LedgerUnavailableError`.
        """
        return await looking.late(self.ledger, limit)

    async def run(self, run_id: str) -> LedgerRow | None:
        """The run with this id; None if the ledger does not have it.

        Raises `InvalidInputError`, `LedgerUnavailableError`.
        """
        return await looking.run(self.ledger, run_id)

    async def history(self, run_ids: Sequence[str]) -> list[HistoryEntry]:
        """What happened to these runs beyond the normal course, in order for each run.

        Raises `InvalidInputError`, `LedgerUnavailableError`.
        """
        return await looking.history(self.ledger, run_ids)

    async def letters(self, limit: int = 100) -> Sifted:
        """The oldest dead letters, each with its reason.

        The call moves the letters it reads to the end of the queue. Raises `InvalidInputError`,
        `ExchangeUnavailableError`.
        """
        return await letters.look(self.exchange, limit)

    async def resend_letters(self, letter_ids: Collection[str] | None) -> Sifted:
        """Send the dead letters with these ids again, each to the queue of its kind; with None, the
        oldest 1,000. A letter that still cannot be read becomes a dead letter again.

        Raises `InvalidInputError`, `ExchangeUnavailableError`; letters sent before it stay sent.
        """
        return await letters.resend(
            self.exchange,
            letter_ids,
            dispatch_queue=self.settings.dispatch_queue,
            events_queue=self.settings.events_queue,
        )

    async def discard_letters(self, letter_ids: Collection[str] | None) -> Sifted:
        """Drop the dead letters with these ids; with None, the oldest 1,000.

        Raises `InvalidInputError`, `ExchangeUnavailableError`; letters dropped before it are gone.
        """
        return await letters.discard(self.exchange, letter_ids)

    async def give_back(self) -> GiveBackReport:
        """Write the open runs into the pool in the form of bamboo's own app; remove our members.

        For users who go back to that app. Raises `NodeTimeoutError` if a scanner or a worker runs.
        """
        return await give_back(self.ledger, self.pool, self.settings.lease_seconds)

    async def processes(self) -> Sequence[Process]:
        """The living processes of node-timeout, with what their services do.

        Raises `PoolUnavailableError`.
        """
        return await self.pool.presence.processes()

    async def status(self, recent: int = 10, *, most: int | None = None) -> Status:
        """Read the state of every store; ``unreachable`` names the stores that do not answer.

        With ``most``, each count of ledger rows stops at that number, so the cost is bounded
        whatever the size of the ledger.
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

    # For HTTP callers

    async def receive(self, body: bytes) -> Received:
        """Apply at most 500 events, in the format of the events queue, and report the result.

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
        """Create a token for the HTTP API; return its text, which is never shown again, and its
        stored record. ``expires_in`` is in seconds.

        Raises `InvalidInputError`, `LedgerUnavailableError`.
        """
        return await tokens.create(
            self.ledger, self.pool, role=role, name=name, expires_in=expires_in
        )

    async def tokens(self) -> Sequence[Token]:
        """Every token, the oldest first. Raises `LedgerUnavailableError`."""
        return await self.ledger.tokens()

    async def revoke_token(self, token_id: str) -> bool:
        """Make this token invalid; return False if no valid token has this id."""
        return await self.ledger.revoke_token(token_id, await self.pool.now())

    # Services

    async def scan(self, stop: asyncio.Event, *, ready: Callable[[], None] = _nothing) -> None:
        """Run the ``scan`` role, scanner and reconciler, until stopped.

        Waits for stores that are down; calls ``ready`` when all have answered. Raises
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
        """Run the ``worker`` role until stopped, on the given queues or the default ones.

        Waits for stores that are down; calls ``ready`` when all have answered. Raises
        `SettingsError`, `StrategyError`, `SchemaError`, `QueueMismatchError`.
        """
        services = self.wiring.worker_services(queues)
        self._refuse_in_process()
        await self.wiring.serve(stop, services, ready)

    async def scan_and_work(self, stop: asyncio.Event) -> None:
        """Run both roles in one process until stopped, on the default queues."""
        services = self.wiring.scan_services() | self.wiring.worker_services(())
        await self.wiring.serve(stop, services, _nothing, scans=True)

    def use_engine(self, engine: Engine) -> None:
        """Let the worker act through this engine instead of the one that the settings name."""
        self.wiring.use_engine(engine)

    def _refuse_in_process(self) -> None:
        if self.wiring.in_process:
            raise SettingsError(
                f"{variable('amqp_url')}: {IN_PROCESS} reaches no other process; "
                f"name a RabbitMQ, or use: node-timeout dev"
            )


def _ids(node_id: str, version: str | None, root_pipeline_id: str | None = None) -> dict[str, Any]:
    """Check and return the ids of an event. Raises `InvalidNodeRunError`."""
    check_ids(node_id, NO_VERSION if version is None else version, root_pipeline_id)
    return {"node_id": node_id, "version": version, "root_pipeline_id": root_pipeline_id}
