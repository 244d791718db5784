"""A user's code, read by the type checker and never run: every public name, with its types."""

from collections.abc import Sequence
from typing import Any, Self

from node_timeout import (
    BlockingNodeTimeout,
    CheckableEngine,
    Engine,
    EngineRestingError,
    EngineUnavailableError,
    ExchangeUnavailableError,
    ForcedFailAndSkipStrategy,
    ForcedFailStrategy,
    ImportReport,
    InvalidInputError,
    InvalidNodeRunError,
    InvalidPipelineTreeError,
    InvalidTimeoutConfigError,
    LedgerError,
    LedgerRow,
    LedgerUnavailableError,
    NodeRun,
    NodeRunSupersededError,
    NodeStarted,
    NodeTimeout,
    NodeTimeoutError,
    NodeTimeoutStrategy,
    NotConfirmedError,
    PoolUnavailableError,
    QueueMismatchError,
    RunState,
    SchemaError,
    Settings,
    SettingsError,
    Status,
    StrategyError,
    StrategyRefusedError,
    StrategyResult,
    SurveyableEngine,
    TemporaryError,
    TimedOutNode,
    TimeoutConfig,
    UnreadableMessageError,
    apply_node_timeout_configs,
    apply_node_timout_configs,
    batch_create_node_timeout_config,
)
from node_timeout.wire.signing import verify


class MyEngine:
    """An adapter for a workflow engine, with what it may have as well."""

    def __init__(self, settings: Settings) -> None:
        self.url: str | None = settings.engine_url

    async def is_running(self, node: TimedOutNode) -> bool:
        return node.attempt == 1

    async def forced_fail(self, node: TimedOutNode, reason: str) -> str:
        raise EngineUnavailableError(reason, retry_after=1.5)

    async def forced_fail_and_skip(self, node: TimedOutNode, reason: str) -> str:
        raise NodeRunSupersededError(f"{node.run_id}: {reason}")

    async def check(self) -> str:
        return "it answers"

    async def running(self, nodes: Sequence[tuple[str, str]]) -> list[NodeStarted]:
        runs = [
            NodeRun(root_pipeline_id=root, node_id=node_id, version="v1") for root, node_id in nodes
        ]
        return [NodeStarted.of(run, happened_at=1.5) for run in runs]

    async def close(self) -> None:
        return


class MyStrategy(NodeTimeoutStrategy):
    """A strategy with a setting of its own."""

    patience: float

    @classmethod
    def build(cls, engine: Engine, settings: Settings) -> Self:
        strategy = super().build(engine, settings)
        strategy.patience = settings.strategy_timeout
        return strategy

    async def deal_with_timeout_node(self, node: TimedOutNode) -> StrategyResult:
        if node.deadline < self.patience:
            raise TemporaryError("later", retry_after=self.patience)
        if not node.root_pipeline_id:
            raise StrategyRefusedError("never")
        return StrategyResult(True, await self.engine.forced_fail(node, "timed out"))


class OldStrategy(NodeTimeoutStrategy):
    """A plain function that returns the original's dict."""

    def deal_with_timeout_node(self, node: TimedOutNode) -> dict[str, Any]:
        return {"result": True, "message": node.node_id, "data": None}


def engines(settings: Settings) -> tuple[Engine, CheckableEngine, SurveyableEngine]:
    engine = MyEngine(settings)
    return engine, engine, engine


def configs(tree: dict[str, Any]) -> dict[str, Any]:
    config = {"node": {"enable": True, "action": "forced_fail", "seconds": 10}}
    tree = apply_node_timout_configs(apply_node_timeout_configs(tree, config), config)
    return batch_create_node_timeout_config("root", tree)


def row_of(row: LedgerRow) -> tuple[str, RunState, float | None, float | None]:
    return row.node_id, row.state, row.deadline, row.finished_at


def blocking(settings: Settings) -> Status:
    with BlockingNodeTimeout(settings, call_timeout=5.0) as timeouts:
        armed: bool = timeouts.node_started("node", "v1", happened_at=1.5)
        left: int = timeouts.node_left("node", "v1") + timeouts.nodes_left([("a", None)])
        rows: list[LedgerRow] = timeouts.rows("node")
        if armed and left and row_of(rows[0])[1] is RunState.DEAD:
            timeouts.replay(node_id="node")
        return timeouts.status(recent=3)


async def library(settings: Settings) -> tuple[ImportReport, Status, dict[str, Any]]:
    async with NodeTimeout(settings) as app:
        tree: dict[str, Any] = app.apply_node_timeout_configs({"activities": {}}, {})
        await app.batch_create_node_timeout_config("root", tree)
        await app.nodes_started([("a", "v1"), ("b", "v1")])
        report = await app.import_bamboo_configs("mysql://…", lambda done, total: None)
        app.use_engine(MyEngine(settings))
        status = await app.status()
        return report, status, status.as_dict()


def stored(config: TimeoutConfig) -> tuple[str, str, float]:
    return config.node_id, config.action, config.timeout


def signed(key: str, headers: dict[str, str], body: bytes) -> bool:
    return verify(key, headers, body, now=1.5)


ERRORS: tuple[type[NodeTimeoutError], ...] = (
    EngineRestingError,
    ExchangeUnavailableError,
    InvalidInputError,
    InvalidNodeRunError,
    InvalidPipelineTreeError,
    InvalidTimeoutConfigError,
    LedgerError,
    LedgerUnavailableError,
    NotConfirmedError,
    PoolUnavailableError,
    QueueMismatchError,
    SchemaError,
    SettingsError,
    StrategyError,
    UnreadableMessageError,
)
STRATEGIES: tuple[type[NodeTimeoutStrategy], ...] = (
    ForcedFailAndSkipStrategy,
    ForcedFailStrategy,
    MyStrategy,
    OldStrategy,
)
