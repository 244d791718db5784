"""Strategies are loaded from entry points and settings, and bad ones refused."""

import importlib.metadata
from dataclasses import replace
from importlib.metadata import EntryPoint, EntryPoints
from typing import Any

import pytest

from node_timeout.domain.errors import SettingsError, StrategyError, StrategyRefusedError
from node_timeout.domain.reasons import DEFAULT_REASON, reason_of
from node_timeout.domain.run import TimedOutNode
from node_timeout.runtime.threads import Threads
from node_timeout.settings import Settings
from node_timeout.strategies import base as room
from node_timeout.strategies.base import (
    ForcedFailAndSkipStrategy,
    ForcedFailStrategy,
    NodeTimeoutStrategy,
    StrategyResult,
    call,
    known_actions,
    load_strategies,
)
from tests.support import FakeEngine

NODE = TimedOutNode(
    node_id="a", version="v1", root_pipeline_id="r", action="x", deadline=1.0, attempt=1
)


SETTINGS = Settings()


class Custom(NodeTimeoutStrategy):
    async def deal_with_timeout_node(self, node: TimedOutNode) -> StrategyResult:
        return StrategyResult(True, f"dealt with {node.node_id}")


class Unbuildable(Custom):
    def __init__(self, engine: Any) -> None:
        raise OSError("no licence file")


class NotAStrategy:
    pass


def plug(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    """Entry points as if packages had brought them, besides the built-in ones."""
    real = importlib.metadata.entry_points

    def found(*, group: str) -> EntryPoints:
        extra = [EntryPoint(name, value, group) for name, value in values.items()]
        return EntryPoints([*real(group=group), *extra])

    monkeypatch.setattr(room, "entry_points", found)


def test_the_built_in_actions_are_there() -> None:
    strategies = load_strategies({}, FakeEngine(), SETTINGS)
    assert set(strategies) == {"forced_fail", "forced_fail_and_skip", "webhook"}
    assert known_actions({}) == set(strategies)


def test_a_package_brings_a_strategy(monkeypatch: pytest.MonkeyPatch) -> None:
    plug(monkeypatch, page="tests.unit.test_strategy:Custom")
    assert "page" in known_actions({})
    assert type(load_strategies({}, FakeEngine(), SETTINGS)["page"]).__name__ == "Custom"


def test_a_handler_adds_and_overrides() -> None:
    path = "tests.unit.test_strategy:Custom"
    strategies = load_strategies({"forced_fail": path, "mine": path}, FakeEngine(), SETTINGS)
    assert type(strategies["forced_fail"]).__name__ == "Custom"
    assert type(strategies["mine"]).__name__ == "Custom"
    assert "mine" in known_actions({"mine": path})


def test_two_packages_that_claim_one_action_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    plug(monkeypatch, forced_fail="tests.unit.test_strategy:Custom")
    with pytest.raises(StrategyError, match="'forced_fail' is claimed twice"):
        load_strategies({}, FakeEngine(), SETTINGS)
    chosen = load_strategies(
        {"forced_fail": "tests.unit.test_strategy:Custom"}, FakeEngine(), SETTINGS
    )
    assert type(chosen["forced_fail"]).__name__ == "Custom"


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("tests.unit.test_strategy:NotAStrategy", "not a class derived from NodeTimeoutStrategy"),
        ("tests.unit.test_strategy:NODE", "not a class derived from NodeTimeoutStrategy"),
        ("tests.unit.test_strategy:Missing", "has no attribute 'Missing'"),
        ("tests.unit.no_such_module:X", "No module named"),
        ("no colon", "not of the form module:Class"),
        ("tests.unit.test_strategy:Unbuildable", "cannot be built: no licence file"),
        ("node_timeout.strategies.base:NodeTimeoutStrategy", "cannot be built"),
    ],
)
def test_a_strategy_that_cannot_be_used_is_refused_at_start(path: str, says: str) -> None:
    with pytest.raises(StrategyError) as error:
        load_strategies({"mine": path}, FakeEngine(), SETTINGS)
    assert says in str(error.value)
    assert "'mine'" in str(error.value)


async def test_a_plain_method_that_returns_a_coroutine_is_awaited() -> None:
    class Lazy(NodeTimeoutStrategy):
        def deal_with_timeout_node(self, node: TimedOutNode) -> Any:
            async def later() -> StrategyResult:
                return StrategyResult(True, "later")

            return later()

    assert (await call(Lazy(FakeEngine()), NODE, Threads(1, name="test"))).message == "later"


async def test_what_a_thread_raises_is_raised() -> None:
    class Raises(NodeTimeoutStrategy):
        def deal_with_timeout_node(self, node: TimedOutNode) -> None:
            raise KeyError("x")

    with pytest.raises(KeyError):
        await call(Raises(FakeEngine()), NODE, Threads(1, name="test"))


def test_what_a_strategy_may_return() -> None:
    assert StrategyResult.of(None) == StrategyResult(True)
    assert StrategyResult.of({"result": True, "message": "m", "data": 1}) == StrategyResult(
        True, "m", 1
    )
    for nonsense in (1, "done", {"result": 1}, {}, [True]):
        with pytest.raises(StrategyRefusedError):
            StrategyResult.of(nonsense)


def test_the_reason_names_the_run() -> None:
    assert reason_of(DEFAULT_REASON, NODE) == "node a timed out (version v1, action x)"
    assert isinstance(ForcedFailStrategy(FakeEngine()).engine, FakeEngine)


async def test_the_reason_may_be_in_the_words_of_the_user() -> None:
    engine = FakeEngine()
    engine.start(NODE.run)
    ours = Settings(reason="节点 {node_id} 超过 {seconds} 秒 {{第 {attempt} 次}}")
    strategy = ForcedFailStrategy.build(engine, ours)
    await strategy.deal_with_timeout_node(replace(NODE, seconds=90.0))
    assert engine.reasons == ["节点 a 超过 90 秒 {第 1 次}"]
    engine.start(NODE.run)
    await ForcedFailAndSkipStrategy.build(engine, ours).deal_with_timeout_node(NODE)
    assert engine.reasons[1:] == ["节点 a 超过 ? 秒 {第 1 次}"], "nobody told"


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{node", "is no template"),
        ("{0}", "has {0}; known are {node_id}, "),
        ("{node_id.__class__}", "has {node_id.__class__}; known are"),
        ("{seconds:.1f}", "has a format inside braces"),
        ("{node_id!r}", "has a format inside braces"),
    ],
)
def test_a_reason_that_cannot_be_filled_in_is_refused(template: str, says: str) -> None:
    with pytest.raises(SettingsError, match="NODE_TIMEOUT_REASON: ") as error:
        Settings(reason=template)
    assert says in str(error.value)
