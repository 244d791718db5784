"""What every engine adapter, and every engine behind one, must do: rules that can be checked.

Each rule is a function that raises `ConformanceError` if the engine breaks it. The `SAFE_RULES`
touch no existing node; the `NODE_RULES` need a running node that may be failed, and the last of
them fails or skips it.
"""

import asyncio
import contextlib
import dataclasses
import uuid
from collections.abc import Awaitable, Callable

from node_timeout.domain.errors import NodeRunSupersededError, NodeTimeoutError
from node_timeout.domain.run import TimedOutNode
from node_timeout.ports.engine import Engine
from node_timeout.testing.words import timed_out

ANSWER_SECONDS = 30.0
REASON = "tried by the conformance suite of node-timeout"


class ConformanceError(AssertionError):
    """Says what the engine did, and what it should have done."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The result of one rule."""

    rule: str
    passed: bool
    text: str = ""


Act = Callable[[Engine, TimedOutNode], Awaitable[str]]
SafeRule = Callable[[Engine], Awaitable[None]]
NodeRule = Callable[[Engine, TimedOutNode, Act], Awaitable[None]]


async def fail(engine: Engine, node: TimedOutNode) -> str:
    return await engine.forced_fail(node, REASON)


async def skip(engine: Engine, node: TimedOutNode) -> str:
    return await engine.forced_fail_and_skip(node, REASON)


def nobody() -> TimedOutNode:
    """A run that exists in no engine."""
    name = f"node-timeout-check-{uuid.uuid4().hex}"
    return timed_out(name, "0", name)


async def an_unknown_node_is_not_running(engine: Engine) -> None:
    await _require_running(engine, nobody(), False, "a node that does not exist")


async def an_unknown_node_is_not_failed(engine: Engine) -> None:
    await _require_refused(engine, nobody(), fail, "a node that does not exist")


async def an_unknown_node_is_not_skipped(engine: Engine) -> None:
    await _require_refused(engine, nobody(), skip, "a node that does not exist")


async def a_running_node_is_running(engine: Engine, node: TimedOutNode, _act: Act) -> None:
    await _require_running(engine, node, True, "the node")


async def another_version_is_left_alone(engine: Engine, node: TimedOutNode, act: Act) -> None:
    other = dataclasses.replace(node, version=f"{node.version[:40]}-{uuid.uuid4().hex[:8]}")
    await _require_running(engine, other, False, "another version of the node")
    await _require_refused(engine, other, act, "another version of the node")
    await _require_running(engine, node, True, "the node, whose other version was meant,")


async def another_pipeline_is_left_alone(engine: Engine, node: TimedOutNode, act: Act) -> None:
    other = dataclasses.replace(node, root_pipeline_id=uuid.uuid4().hex)
    await _require_running(engine, other, False, "the same node id in another root pipeline")
    await _require_refused(engine, other, act, "the same node id in another root pipeline")
    await _require_running(engine, node, True, "the node, whose other pipeline was meant,")


async def a_running_node_is_acted_on_once(engine: Engine, node: TimedOutNode, act: Act) -> None:
    """A repeated call, for example after a lost answer, does no harm."""
    await act(engine, node)
    await _require_running(engine, node, False, "the node that was acted on")
    with contextlib.suppress(NodeRunSupersededError):  # it has moved on, by our own first call
        await act(engine, node)
    await _require_running(engine, node, False, "the node that was acted on twice")


SAFE_RULES: tuple[SafeRule, ...] = (
    an_unknown_node_is_not_running,
    an_unknown_node_is_not_failed,
    an_unknown_node_is_not_skipped,
)
NODE_RULES: tuple[NodeRule, ...] = (
    a_running_node_is_running,
    another_version_is_left_alone,
    another_pipeline_is_left_alone,
    a_running_node_is_acted_on_once,
)


async def try_rule(name: str, rule: Callable[[], Awaitable[None]]) -> Finding:
    """Run one rule. Errors that an engine may cause become findings, and are not raised."""
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            await rule()
    except TimeoutError:
        return Finding(rule=name, passed=False, text=f"no answer within {ANSWER_SECONDS:g} s")
    except (ConformanceError, NodeTimeoutError) as error:
        return Finding(rule=name, passed=False, text=str(error))
    return Finding(rule=name, passed=True)


def name_of(rule: SafeRule | NodeRule) -> str:
    return rule.__name__.replace("_", " ")


async def _require_running(engine: Engine, node: TimedOutNode, running: bool, who: str) -> None:
    if await engine.is_running(node) is not running:
        said, wanted = ("is not running", "is") if running else ("is running", "is not")
        raise ConformanceError(f"the engine says that {who} {said}; it {wanted}")


async def _require_refused(engine: Engine, node: TimedOutNode, act: Act, who: str) -> None:
    try:
        said = await act(engine, node)
    except NodeRunSupersededError:
        return
    raise ConformanceError(
        f"the engine did not refuse to act on {who}: it answered {said!r} "
        f"(an HTTP engine answers 409 or 410)"
    )
