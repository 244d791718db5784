"""Attempts: one attempt at one timed-out node, from asking the engine to the outcome."""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from node_timeout import metrics, tracing
from node_timeout.domain.errors import (
    EngineRestingError,
    NodeRunSupersededError,
    NodeTimeoutError,
    StrategyRefusedError,
    TemporaryError,
)
from node_timeout.domain.run import Outcome, RunState, TimedOutNode
from node_timeout.handling.breaker import Breaker
from node_timeout.handling.early_hold import EarlyHold
from node_timeout.handling.outcomes import ids_of, log_outcome, named_wait, outcome_of
from node_timeout.ports.engine import Engine
from node_timeout.ports.pool import Pool
from node_timeout.runtime.loop import Backoff
from node_timeout.runtime.threads import Threads
from node_timeout.strategies.base import NodeTimeoutStrategy, StrategyResult, call

logger = logging.getLogger(__name__)

STOPPED = "the worker stopped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of a worker: concurrency, durations (seconds), numbers of attempts."""

    concurrency: int
    strategy_timeout: float
    max_attempts: int
    retry: Backoff
    shutdown_timeout: float
    dispatch_ahead: float = 0.0
    """How long before its deadline a node may be taken; the worker then holds it until then."""
    lease_seconds: float = 30.0
    """How long a lease on a row lasts without renewal; also the longest wait for a slot."""
    max_seconds: float = math.inf
    """How long the total time of a run may become."""
    retention: float = 3600.0
    """The shortest time that a closed row is kept: the row of a run due earlier may be purged."""


class Attempts:
    """Calls strategies, at most ``concurrency`` at once, each under its time limit."""

    def __init__(
        self,
        *,
        pool: Pool,
        holder: EarlyHold,
        engine: Engine,
        strategies: Mapping[str, NodeTimeoutStrategy],
        limits: Limits,
        breaker: Breaker,
        done: Callable[[], None],
    ) -> None:
        """``done`` is called after each attempt."""
        self.busy = 0
        """How many nodes have a running strategy, or wait for a slot."""
        self._pool = pool
        self._holder = holder
        self._engine = engine
        self._strategies = strategies
        self._limits = limits
        self._breaker = breaker
        self._done = done
        self._slots = asyncio.Semaphore(limits.concurrency)
        self._threads = Threads(limits.concurrency, name="strategy")
        """For plain functions; a function that hangs keeps its thread, see `Threads`."""

    async def close(self) -> None:
        """End the idle threads; do not wait for a plain function that hangs."""
        await self._threads.close(wait_seconds=0.0)

    def begin(self, node: TimedOutNode, start_before: float) -> asyncio.Task[Outcome | None]:
        """Start an attempt; it counts as busy from now on."""
        self.busy += 1
        return asyncio.create_task(self._attempt(node, start_before))

    def begin_later(
        self, node: TimedOutNode, start_before: float, owner: str, seconds: float
    ) -> asyncio.Task[Outcome | None]:
        """Hold the node for this long, then make an attempt; None if the node has left by then."""
        return asyncio.create_task(self._hold(node, start_before, owner, seconds))

    async def _hold(
        self, node: TimedOutNode, start_before: float, owner: str, seconds: float
    ) -> Outcome | None:
        try:
            is_ours = await self._holder.hold(node.run_id, owner, seconds)
        except asyncio.CancelledError as stop:
            return await self._put_back(node, str(stop) or STOPPED)
        except Exception as error:  # noqa: BLE001 - it is the ledger's, and will be seen there
            return await self._put_back(node, str(error))
        if not is_ours:
            metrics.DROPPED.labels(RunState.CANCELLED).inc()
            return None
        self.busy += 1
        return await self._attempt(node, start_before)

    async def _attempt(self, node: TimedOutNode, start_before: float) -> Outcome:
        """Wait for a slot, ask the engine, call the strategy; return the outcome. Does not raise.

        If it has not begun by ``start_before`` (monotonic), or is cancelled before it begins, the
        node is put back. If it is cancelled later, that counts as a failed attempt.
        """
        called = False
        try:
            async with self._slots:
                if time.monotonic() > start_before:
                    return await self._put_back(node, "not started: its turn did not come in time")
                called = True
                with tracing.span(
                    tracing.ATTEMPT, ids_of(node), kind="CONSUMER", link=node.trace
                ) as traced:
                    outcome = await self._judge(node)
                    traced["state"] = outcome.state
        except asyncio.CancelledError as stop:
            why = str(stop) or STOPPED
            if called:
                return await self._retry(node, f"{why} before the strategy ended")
            return await self._put_back(node, why)
        except Exception as error:
            # Not raised by the strategy, but while handling its result: an unreadable message, say.
            logger.exception(
                "node %s: the outcome cannot be told", node.node_id, extra=ids_of(node)
            )
            outcome = await self._retry(node, f"{type(error).__name__} in the worker")
        finally:
            self.busy -= 1
            self._done()
        log_outcome(outcome)
        return outcome

    async def _judge(self, node: TimedOutNode) -> Outcome:  # noqa: PLR0911 - a return per ending
        """Make one attempt; return its outcome."""
        strategy = self._strategies.get(node.action)
        if strategy is None:
            known = ", ".join(sorted(self._strategies))
            return await self._retry(
                node, f"no strategy for action {node.action!r} (this worker has: {known})"
            )
        limit = asyncio.timeout(self._limits.strategy_timeout)
        try:
            async with limit:
                if not strategy.asks_engine:
                    result = await call(strategy, node, self._threads)
                elif (answer := await self._if_running(strategy, node)) is None:
                    return outcome_of(node, RunState.STALE, "no longer running at this version")
                else:
                    result = answer
        except (NodeRunSupersededError, StrategyRefusedError, TemporaryError) as error:
            return await self._declined(node, error)
        except Exception as error:  # a user's strategy may raise anything
            if limit.expired():
                seconds = self._limits.strategy_timeout
                return await self._retry(node, f"the strategy took longer than {seconds:g} s")
            logger.warning(
                "node %s: its strategy raised", node.node_id, exc_info=error, extra=ids_of(node)
            )
            return await self._retry(node, f"{type(error).__name__}: {error}")
        if not result.result:
            why = result.message or "the strategy reported a failure"
            return await self._retry(node, why, result.retry_after or 0.0)
        if result.extend_by is not None:
            return await self._extended(node, result.extend_by, result.message)
        return outcome_of(node, RunState.HANDLED, result.message)

    async def _if_running(
        self, strategy: NodeTimeoutStrategy, node: TimedOutNode
    ) -> StrategyResult | None:
        """Call the strategy; None if the engine says that the node is no longer running."""
        with self._breaker.permit() as permit:
            if node.attempt == 1:
                metrics.LATENESS.observe(max(0.0, await self._pool.now() - node.deadline))
            if not await self._engine.is_running(node):
                return None
            permit.answered()
            with metrics.STRATEGY_SECONDS.labels(node.action).time():
                return await call(strategy, node, self._threads)

    async def _extended(self, node: TimedOutNode, seconds: float, message: str) -> Outcome:
        """The outcome if the strategy extends the deadline; too long an extension is a failure."""
        total = (node.seconds or 0.0) + (node.extended or 0.0) + seconds
        if total > self._limits.max_seconds:
            why = f"the strategy asked for {seconds:g} s more, which is over max_seconds"
            return await self._retry(node, why)
        due_at = max(node.deadline + seconds, await self._pool.now())
        text = f"by {seconds:g} s, by the strategy" + (f": {message}" if message else "")
        return replace(outcome_of(node, RunState.ARMED, text, due_at), extend_by=seconds)

    async def _declined(self, node: TimedOutNode, error: NodeTimeoutError) -> Outcome:
        """The outcome if the engine or the strategy declined to act."""
        match error:
            case NodeRunSupersededError():
                return outcome_of(node, RunState.STALE, str(error))
            case StrategyRefusedError():
                return outcome_of(node, RunState.DEAD, str(error))
            case EngineRestingError():
                return await self._put_back(node, str(error), error.retry_after)
            case TemporaryError():
                return await self._retry(node, str(error), error.retry_after)
        raise error

    async def _retry(self, node: TimedOutNode, error: str, at_least: float = 0.0) -> Outcome:
        """The outcome of a failed attempt: armed again after a back-off, or dead after the last."""
        if node.attempt >= self._limits.max_attempts:
            return outcome_of(
                node, RunState.DEAD, f"gave up after {node.attempt} attempts: {error}"
            )
        wait = named_wait(at_least) + self._limits.retry.seconds(node.attempt)
        due_at = await self._pool.now() + wait
        return outcome_of(node, RunState.ARMED, error, due_at=due_at)

    async def _put_back(self, node: TimedOutNode, why: str, at_least: float = 0.0) -> Outcome:
        """The outcome ``armed`` without a used attempt; a wait is jittered up to twice as long."""
        wait = named_wait(at_least) * (1.0 + self._limits.retry.random())
        due_at = max(node.deadline, await self._pool.now() + wait)
        return outcome_of(node, RunState.ARMED, why, due_at=due_at, called=False)
