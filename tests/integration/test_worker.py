"""The worker on a real pool and a real database, with an exchange in memory."""

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import pytest

from node_timeout.domain.errors import (
    EngineRestingError,
    EngineUnavailableError,
    ExchangeUnavailableError,
    LedgerUnavailableError,
    PoolUnavailableError,
    StrategyRefusedError,
    TemporaryError,
)
from node_timeout.domain.history import HistoryKind
from node_timeout.domain.run import DueRun, ForeignRun, RunState, TimedOutNode
from node_timeout.handling.attempt import Limits
from node_timeout.handling.breaker import Breaker
from node_timeout.handling.outcomes import LONGEST_WAIT_SECONDS
from node_timeout.handling.prefetch import FEW
from node_timeout.handling.recorder import WorkReport
from node_timeout.handling.routes import Routes
from node_timeout.handling.worker import Worker
from node_timeout.runtime.loop import Backoff, Health
from node_timeout.stores.memory.exchange import MemoryDelivery, MemoryExchange
from node_timeout.stores.rabbitmq.consumer import RabbitConsumer
from node_timeout.stores.rabbitmq.exchange import RabbitExchange
from node_timeout.stores.redis.pool import RedisPool
from node_timeout.stores.sql.ledger import SqlLedger
from node_timeout.strategies.base import (
    ForcedFailAndSkipStrategy,
    ForcedFailStrategy,
    NodeTimeoutStrategy,
    StrategyResult,
)
from node_timeout.wire import dispatch
from tests.support import (
    ROOT,
    FakeEngine,
    absent,
    config,
    configure,
    due,
    foreign,
    id_of,
    left,
    run,
    started,
    wait_until,
)

QUEUE = "dispatch"


class Bench:
    """A worker, its stores, and an engine that notes what is done to it."""

    def __init__(self, pool: RedisPool, ledger: SqlLedger, exchange: Any) -> None:
        self.pool, self.ledger, self.exchange = pool, ledger, exchange
        self.engine = FakeEngine()
        self.strategies: dict[str, NodeTimeoutStrategy] = {
            "forced_fail": ForcedFailStrategy(self.engine),
            "forced_fail_and_skip": ForcedFailAndSkipStrategy(self.engine),
        }

    def worker(
        self,
        *,
        routes: Routes | None = None,
        queues: tuple[str, ...] = (QUEUE,),
        concurrency: int = 10,
        strategy_timeout: float = 5,
        max_attempts: int = 3,
        shutdown_timeout: float = 5,
        breaker: Breaker | None = None,
        dispatch_ahead: float = 0.0,
        lease_seconds: float = 30.0,
    ) -> Worker:
        return Worker(
            ledger=self.ledger,
            pool=self.pool,
            exchange=self.exchange,
            engine=self.engine,
            strategies=self.strategies,
            routes=routes or Routes(dispatch_queue=QUEUE),
            queues=queues,
            limits=Limits(
                concurrency=concurrency,
                strategy_timeout=strategy_timeout,
                max_attempts=max_attempts,
                retry=Backoff(first=100, longest=100, random=lambda: 0.5),
                shutdown_timeout=shutdown_timeout,
                dispatch_ahead=dispatch_ahead,
                lease_seconds=lease_seconds,
            ),
            breaker=breaker,
        )

    async def armed(
        self, *node_ids: str, action: str = "forced_fail", seconds: float = -1.0
    ) -> list[DueRun]:
        """Node runs in the ledger, running in the engine, due in so many seconds."""
        await configure(self.ledger, *(config(node_id, 1, action) for node_id in node_ids))
        runs = [run(node_id) for node_id in node_ids]
        self.engine.start(*runs)
        return await self.ledger.arm(started(runs), await self.pool.now() + seconds - 1)

    async def handle(self, due: Sequence[DueRun | ForeignRun], **limits: Any) -> WorkReport:
        """Send one message and let a worker deal with it."""
        return await self.handle_bodies(dispatch.encode(due), **limits)

    async def handle_bodies(self, *bodies: bytes, **limits: Any) -> WorkReport:
        worker = self.worker(**limits)
        async with self.exchange.consume(worker._prefetches()) as consumer:
            publishing = [
                asyncio.create_task(self.exchange.publish(QUEUE, body, 30)) for body in bodies
            ]
            await asyncio.sleep(0)
            report = await worker.once(consumer)
            await asyncio.gather(*publishing)
        return report

    async def state(self, node_id: str) -> tuple[RunState, str]:
        (row,) = await self.ledger.rows(node_id)
        return row.state, row.message or ""

    def strategy(self, action: str, deal: Callable[[TimedOutNode], Any]) -> None:
        """Plug a coroutine function in as a strategy."""

        class Plugged(NodeTimeoutStrategy):
            async def deal_with_timeout_node(self, node: TimedOutNode) -> Any:
                result = deal(node)
                return await result if isinstance(result, Awaitable) else result

        self.strategies[action] = Plugged(self.engine)


@pytest.fixture
def bench(pool: RedisPool, ledger: SqlLedger, memory_exchange: MemoryExchange) -> Bench:
    return Bench(pool, ledger, memory_exchange)


async def test_a_timed_out_node_is_failed(bench: Bench) -> None:
    report = await bench.handle(await bench.armed("a"))
    assert report.outcomes == {RunState.HANDLED: 1}
    assert bench.engine.failed == [run("a")]
    assert await bench.state("a") == (RunState.HANDLED, "failed")


async def test_a_timed_out_node_is_failed_and_skipped(bench: Bench) -> None:
    await bench.handle(await bench.armed("a", action="forced_fail_and_skip"))
    assert bench.engine.skipped == [run("a")]
    assert await bench.state("a") == (RunState.HANDLED, "failed and skipped")


async def test_a_handled_run_is_never_acted_on_again(bench: Bench) -> None:
    due = await bench.armed("a")
    await bench.handle(due)
    bench.engine.versions[ROOT, "a"] = "v1"
    report = await bench.handle(due)
    assert (report.dropped, report.outcomes) == (1, {})
    assert bench.engine.failed == [run("a")]


async def test_a_run_that_comes_twice_in_a_batch_is_handled_once(bench: Bench) -> None:
    due = await bench.armed("a")
    await bench.handle_bodies(dispatch.encode(due + due), dispatch.encode(due))
    assert bench.engine.failed == [run("a")]


async def test_a_node_that_moved_on_is_stale(bench: Bench) -> None:
    due = await bench.armed("a", "b")
    bench.engine.versions[ROOT, "a"] = "v2"
    del bench.engine.versions[ROOT, "b"]
    report = await bench.handle(due)
    assert report.outcomes == {RunState.STALE: 2}
    assert bench.engine.failed == []
    assert await bench.state("a") == (RunState.STALE, "no longer running at this version")


async def test_a_node_that_moves_on_between_question_and_act_is_stale(bench: Bench) -> None:
    def retried_meanwhile(node: TimedOutNode) -> Awaitable[str]:
        bench.engine.versions[ROOT, "a"] = "v2"
        return bench.engine.forced_fail(node, node.node_id)

    bench.strategy("raced", retried_meanwhile)
    await bench.handle(await bench.armed("a", action="raced"))
    assert await bench.state("a") == (RunState.STALE, "moved on")
    assert bench.engine.failed == []


async def test_a_cancelled_run_is_dropped(bench: Bench) -> None:
    due = await bench.armed("a")
    await bench.ledger.disarm(left(["a"]), await bench.pool.now())
    report = await bench.handle(due)
    assert (report.dropped, bench.engine.asked) == (1, [])


async def test_a_deadline_that_moved_into_the_future_is_armed_not_fired(bench: Bench) -> None:
    due = await bench.armed("a", seconds=50)
    report = await bench.handle([DueRun(run_id=each.run_id, due_at=1.0) for each in due])
    assert (report.later, bench.engine.asked) == (1, [])
    assert await absent(bench.pool, [id_of("a")]) == []
    assert (await bench.pool.counts()).overdue == 0


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (RuntimeError("boom"), "RuntimeError: boom"),
        (TimeoutError("its own"), "TimeoutError: its own"),
        (EngineUnavailableError("engine: 503"), "engine: 503"),
        (StrategyResult(False, "try later"), "try later"),
        ({"result": False, "message": None}, "the strategy reported a failure"),
    ],
)
async def test_a_temporary_failure_is_armed_again_after_a_back_off(
    bench: Bench, fault: Any, says: str
) -> None:
    def fail(_: TimedOutNode) -> Any:
        if isinstance(fault, Exception):
            raise fault
        return fault

    bench.strategy("flaky", fail)
    report = await bench.handle(await bench.armed("a", action="flaky"))
    assert report.outcomes == {RunState.ARMED: 1}
    (row,) = await bench.ledger.rows("a")
    assert (row.state, row.message, row.attempts) == (RunState.ARMED, says, 1)
    assert row.next_at == pytest.approx(await bench.pool.now() + 50, abs=2)
    assert await absent(bench.pool, [id_of("a")]) == [], "the pool is the only timer"


async def test_an_engine_that_asks_for_time_is_given_it(bench: Bench) -> None:
    bench.engine.errors = [EngineUnavailableError("429", retry_after=1000)]
    await bench.handle(await bench.armed("a"))
    (row,) = await bench.ledger.rows("a")
    assert row.next_at == pytest.approx(await bench.pool.now() + 1050, abs=2)


@pytest.mark.parametrize(
    ("named", "seconds"),
    [
        (float("inf"), LONGEST_WAIT_SECONDS),
        (1e300, LONGEST_WAIT_SECONDS),
        (10**400, LONGEST_WAIT_SECONDS),
        (float("nan"), 0.0),
        (float("-inf"), 0.0),
        (-1e9, 0.0),
        ("soon", 0.0),
        (None, 0.0),
        (7, 7.0),
    ],
    ids=lambda value: f"{value!s:.9}",
)
@pytest.mark.parametrize("resting", [False, True])
async def test_a_wait_that_somebody_else_names_is_bounded(
    pool: RedisPool,
    any_ledger: SqlLedger,
    memory_exchange: MemoryExchange,
    named: Any,
    seconds: float,
    resting: bool,
) -> None:
    """Its neighbour is recorded too, and both can be read."""
    bench = Bench(pool, any_ledger, memory_exchange)
    error = EngineRestingError if resting else TemporaryError

    async def ask_for_time(node: TimedOutNode) -> None:
        if node.node_id == "a":
            raise error("later", retry_after=named)

    bench.strategy("asks", ask_for_time)
    now = await pool.now()
    report = await bench.handle(await bench.armed("a", "b", action="asks"))
    assert report.outcomes == {RunState.ARMED: 1, RunState.HANDLED: 1}
    (row,) = await any_ledger.rows("a")
    assert row.next_at is not None
    # The back-off is 50 s; one that is put back waits half as long again.
    expected = 1.5 * seconds if resting else 50 + seconds
    assert row.next_at == pytest.approx(now + expected, abs=30)
    assert await absent(pool, [id_of("a")]) == []


async def test_plain_strategies_share_as_many_threads_as_may_run_at_once(bench: Bench) -> None:
    """However many of them have hung before."""
    release = threading.Event()

    class Hanging(NodeTimeoutStrategy):
        def deal_with_timeout_node(self, node: TimedOutNode) -> None:
            release.wait(30)

    bench.strategies["hanging"] = Hanging(bench.engine)
    worker = bench.worker(concurrency=3, strategy_timeout=0.1)
    due = await bench.armed(*(f"n{i}" for i in range(12)), action="hanging")

    def hung() -> int:
        return sum(each.name.startswith("strategy n") for each in threading.enumerate())

    async with bench.exchange.consume(worker._prefetches()) as consumer:
        publishing = asyncio.create_task(bench.exchange.publish(QUEUE, dispatch.encode(due), 30))
        await asyncio.sleep(0)
        report = await worker.once(consumer)
        await publishing
    assert report.outcomes == {RunState.ARMED: 12}
    assert hung() == 6, "three that were given up, three in their place"
    release.set()
    await worker._attempts.close()
    await wait_until(lambda: hung() == 0)


async def test_nodes_of_a_dead_engine_wait_and_use_up_no_attempt(bench: Bench) -> None:
    down = Breaker(failures=1)
    with pytest.raises(EngineUnavailableError), down.permit():
        raise EngineUnavailableError("gone")
    report = await bench.handle(await bench.armed("a"), breaker=down)
    assert report.outcomes == {RunState.ARMED: 1}
    (row,) = await bench.ledger.rows("a")
    assert (row.state, row.attempts) == (RunState.ARMED, 0)
    assert row.message is not None
    assert "the circuit is open, next probe in" in row.message
    assert bench.engine.asked == []
    assert row.next_at is not None
    assert row.next_at > await bench.pool.now()


async def test_after_the_last_attempt_a_run_is_dead(bench: Bench) -> None:
    bench.engine.errors = [RuntimeError("down")]
    await bench.handle(await bench.armed("a"), max_attempts=1)
    assert await bench.state("a") == (
        RunState.DEAD,
        "gave up after 1 attempts: RuntimeError: down",
    )


async def test_a_refusal_is_dead_at_once(bench: Bench) -> None:
    bench.engine.errors = [StrategyRefusedError("not skippable")]
    await bench.handle(await bench.armed("a"))
    assert await bench.state("a") == (RunState.DEAD, "not skippable")


async def test_a_strategy_that_returns_nonsense_is_dead(bench: Bench) -> None:
    bench.strategy("odd", lambda _: 42)
    await bench.handle(await bench.armed("a", action="odd"))
    state, text = await bench.state("a")
    assert (state, "returned 42" in text) == (RunState.DEAD, True)


async def test_an_action_without_a_strategy_is_tried_again(bench: Bench) -> None:
    await bench.handle(await bench.armed("a", action="unknown"))
    state, text = await bench.state("a")
    assert state is RunState.ARMED
    assert text.startswith("no strategy for action 'unknown' (this worker has: forced_fail")


async def test_what_an_engine_has_put_into_the_pool_is_dealt_with_in_its_root(bench: Bench) -> None:
    other = config("both", root="other")
    await configure(bench.ledger, config("a"), config("both"))
    await bench.ledger.save_configs([config("b", root="other"), other], [])
    members = [foreign(name, due_at=1.0) for name in ("a", "b", "both", "stranger")]
    bench.engine.start(run("a"), run("b", root="other"))
    for times in (1, 2):  # a message may come twice
        report = await bench.handle(members)
        assert report.unreadable == 2
        assert set(bench.engine.failed) == {run("a"), run("b", root="other")}
        assert len(bench.engine.failed) == 2
        letters = {reason: dispatch.decode(body)[0] for body, reason in bench.exchange.dead}
        assert letters["no timeout config is stored for node 'stranger'"] == [members[3]]
        (ambiguous,) = [reason for reason in letters if "'other' and 'root'" in reason]
        assert letters[ambiguous] == [members[2]]
        assert len(bench.exchange.dead) == 2 * times


async def test_a_run_that_the_ledger_has_lost_is_put_aside(bench: Bench) -> None:
    lost = due("lost", await bench.pool.now() - 9)
    report = await bench.handle([lost, due("purged long ago", 1.0)])
    assert (report.received, report.unreadable, report.dropped) == (2, 1, 1)
    ((body, reason),) = bench.exchange.dead
    assert (dispatch.decode(body)[0], reason) == ([lost], "the ledger has no run of this id")


async def test_a_strategy_that_hangs_is_cut_off(bench: Bench) -> None:
    bench.strategy("hangs", lambda _: asyncio.sleep(60))
    await bench.handle(await bench.armed("a", action="hangs"), strategy_timeout=0.05)
    assert await bench.state("a") == (RunState.ARMED, "the strategy took longer than 0.05 s")


async def test_a_plain_strategy_runs_in_a_thread(bench: Bench) -> None:
    seen: list[str] = []

    class Plain(NodeTimeoutStrategy):
        def deal_with_timeout_node(self, node: TimedOutNode) -> StrategyResult:
            seen.append(threading.current_thread().name)
            return StrategyResult(True, "by hand")

    bench.strategies["plain"] = Plain(bench.engine)
    await bench.handle(await bench.armed("a", action="plain"))
    assert await bench.state("a") == (RunState.HANDLED, "by hand")
    assert seen == ["strategy a"]


async def test_a_thread_that_hangs_holds_up_nobody(bench: Bench) -> None:
    release = threading.Event()

    class Hanging(NodeTimeoutStrategy):
        def deal_with_timeout_node(self, node: TimedOutNode) -> None:
            release.wait(30)

    bench.strategies["hanging"] = Hanging(bench.engine)
    due = await bench.armed("stuck", action="hanging") + await bench.armed("fine")
    await bench.handle(due, strategy_timeout=0.2)
    release.set()
    assert (await bench.state("stuck"))[0] is RunState.ARMED
    assert (await bench.state("fine"))[0] is RunState.HANDLED


async def test_one_bad_node_does_not_hold_back_its_batch(bench: Bench) -> None:
    bench.strategy("hangs", lambda _: asyncio.sleep(60))
    due = await bench.armed("slow", action="hangs")
    due += await bench.armed(*(f"n{i}" for i in range(30)))
    handling = asyncio.create_task(bench.handle(due, strategy_timeout=1.5))
    await wait_until(lambda: _handled(bench, 30), 1.4)
    assert not handling.done(), "the slow one is still running"
    assert (await handling).outcomes == {RunState.HANDLED: 30, RunState.ARMED: 1}


async def _handled(bench: Bench, count: int) -> bool:
    counts = await bench.ledger.counts(await bench.pool.now())
    return counts.last_hour.get(RunState.HANDLED, 0) == count


async def test_an_unreadable_message_is_dead_lettered_and_the_others_handled(bench: Bench) -> None:
    due = await bench.armed("a")
    mixed = json.loads(dispatch.encode(due))
    mixed["runs"].insert(0, {"node_id": "b", "version": "", "deadline": 1})
    report = await bench.handle_bodies(b"not JSON", json.dumps(mixed).encode())
    assert report.unreadable == 2
    assert bench.engine.failed == [run("a")]
    reasons = [reason for _, reason in bench.exchange.dead]
    assert "not JSON" in reasons[0]
    assert reasons[1] == "version of node 'b' is empty"


async def test_nodes_are_forwarded_to_the_queue_of_their_action(bench: Bench) -> None:
    routes = Routes(
        dispatch_queue=QUEUE,
        handle_queue="handle",
        handle_queues={"forced_fail_and_skip": "slow"},
    )
    due = await bench.armed("a") + await bench.armed("b", action="forced_fail_and_skip")
    due.append(DueRun(run_id=id_of("stranger"), due_at=1.0))
    dispatcher = bench.worker(routes=routes)
    handlers = {queue: bench.worker(routes=routes, queues=(queue,)) for queue in ("handle", "slow")}

    async def consume(worker: Worker) -> WorkReport:
        async with bench.exchange.consume(worker._prefetches()) as consumer:
            return await worker.once(consumer)

    working = {queue: asyncio.create_task(consume(each)) for queue, each in handlers.items()}
    dispatching = asyncio.create_task(consume(dispatcher))
    await bench.exchange.publish(QUEUE, dispatch.encode(due), 10)
    assert (await dispatching).forwarded == 3
    assert (await working["slow"]).outcomes == {RunState.HANDLED: 1}
    handled = await working["handle"]
    assert handled.received == 2
    assert bench.engine.skipped == [run("b")]
    assert bench.engine.failed == [run("a")]


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        (StrategyResult(True, None), RunState.HANDLED),  # type: ignore[arg-type]
        (StrategyResult(True, 7), RunState.HANDLED),  # type: ignore[arg-type]
        (StrategyResult("yes"), RunState.DEAD),  # type: ignore[arg-type]
        (SystemExit(3), RunState.ARMED),
        (StopIteration(), RunState.ARMED),
    ],
)
async def test_an_odd_ending_costs_no_neighbour_its_outcome(
    bench: Bench, answer: Any, state: RunState
) -> None:
    class Odd(NodeTimeoutStrategy):
        def deal_with_timeout_node(self, node: TimedOutNode) -> Any:
            if isinstance(answer, BaseException):
                raise answer
            return answer

    bench.strategies["odd"] = Odd(bench.engine)
    due = await bench.armed("a", action="odd") + await bench.armed("b")
    await bench.handle(due)
    assert (await bench.state("a"))[0] is state
    assert (await bench.state("b"))[0] is RunState.HANDLED


async def test_an_error_that_cannot_be_told_is_tried_again(bench: Bench) -> None:
    class Mute(Exception):  # noqa: N818
        def __str__(self) -> str:
            raise ZeroDivisionError

    def fail(_: TimedOutNode) -> None:
        raise Mute

    bench.strategy("mute", fail)
    due = await bench.armed("a", action="mute") + await bench.armed("b")
    await bench.handle(due)
    assert await bench.state("a") == (RunState.ARMED, "ZeroDivisionError in the worker")
    assert (await bench.state("b"))[0] is RunState.HANDLED


async def test_slow_nodes_that_come_one_by_one_fill_every_slot(bench: Bench) -> None:
    gate = asyncio.Event()
    started: list[str] = []

    async def slow(node: TimedOutNode) -> None:
        started.append(node.node_id)
        await gate.wait()

    bench.strategy("slow", slow)
    due = await bench.armed(*(f"n{i}" for i in range(20)), action="slow")
    stop = asyncio.Event()
    worker = bench.worker(concurrency=20, strategy_timeout=30)
    running = asyncio.create_task(worker.run(stop, Health(name="worker")))
    publishing = []
    for each in due:
        body = dispatch.encode([each])
        publishing.append(asyncio.create_task(bench.exchange.publish(QUEUE, body, 30)))
        await asyncio.sleep(0.01)
    await wait_until(lambda: len(started) == 20)
    gate.set()
    await asyncio.gather(*publishing)
    stop.set()
    await asyncio.wait_for(running, 10)


async def test_a_worker_takes_few_messages_in_hand_while_they_are_large(
    pool: RedisPool, ledger: SqlLedger, rabbit: RabbitExchange, names: dict[str, str]
) -> None:
    bench = Bench(pool, ledger, rabbit)
    queue = names["dispatch_queue"]
    gate = asyncio.Event()
    began: list[str] = []

    async def gated(node: TimedOutNode) -> None:
        began.append(node.node_id)
        await gate.wait()

    async def publish(name: str, messages: int, nodes: int) -> None:
        due = await bench.armed(*(f"{name}{i}" for i in range(messages * nodes)), action="gated")
        for i in range(0, len(due), nodes):
            await rabbit.publish(queue, dispatch.encode(due[i : i + nodes]), 30)

    async def waiting(count: int) -> bool:
        return await rabbit.waiting(queue) == count

    bench.strategy("gated", gated)
    stop = asyncio.Event()
    worker = bench.worker(
        routes=Routes(dispatch_queue=queue),
        queues=(queue,),
        concurrency=20,
        strategy_timeout=30,
    )
    running = asyncio.create_task(worker.run(stop, Health(name="worker")))
    await publish("first", 1, 30)
    await wait_until(lambda: len(began) == 20)
    await publish("large", 15, 30)
    await wait_until(lambda: waiting(15 - (FEW - 1)))
    gate.set()
    await wait_until(lambda: len(began) == 16 * 30)
    await publish("small", 1, 1)
    await wait_until(lambda: len(began) == 16 * 30 + 1)
    gate.clear()
    await publish("many", 20, 1)
    await wait_until(lambda: len(began) == 16 * 30 + 21)
    gate.set()
    stop.set()
    await asyncio.wait_for(running, 10)


async def test_the_first_batch_of_a_worker_is_bounded_in_nodes(bench: Bench) -> None:
    """It cannot know yet that the messages are large."""
    due = await bench.armed(*(f"n{i}" for i in range(1000)))
    bodies = [dispatch.encode(due[i : i + 50]) for i in range(0, len(due), 50)]
    worker = bench.worker(concurrency=20)
    async with bench.exchange.consume(worker._prefetches()) as consumer:
        publishing = [
            asyncio.create_task(bench.exchange.publish(QUEUE, body, 30)) for body in bodies
        ]
        await asyncio.sleep(0)
        received: list[int] = []
        while sum(received) < 1000:
            received.append((await worker.once(consumer)).received)
        await asyncio.gather(*publishing)
    assert max(received) <= 3 * 80, "four for each strategy at once, about"


async def test_a_worker_that_starts_into_a_backlog_leaves_half_of_it_to_others(
    pool: RedisPool, ledger: SqlLedger, rabbit: RabbitExchange, names: dict[str, str]
) -> None:
    bench = Bench(pool, ledger, rabbit)
    queue = names["dispatch_queue"]
    gate = asyncio.Event()
    bench.strategy("gated", lambda _: gate.wait())
    due = await bench.armed(*(f"n{i}" for i in range(2 * FEW * 10)), action="gated")
    for i in range(0, len(due), 10):
        await rabbit.publish(queue, dispatch.encode(due[i : i + 10]), 30)
    stop = asyncio.Event()
    worker = bench.worker(routes=Routes(dispatch_queue=queue), queues=(queue,), strategy_timeout=30)
    running = asyncio.create_task(worker.run(stop, Health(name="worker")))
    await wait_until(lambda: worker._attempts.busy)
    assert await rabbit.waiting(queue) >= FEW
    gate.set()
    await wait_until(lambda: _is_empty(rabbit, queue))
    stop.set()
    await asyncio.wait_for(running, 10)


async def _is_empty(rabbit: RabbitExchange, queue: str) -> bool:
    return await rabbit.waiting(queue) == 0


async def test_a_pass_on_a_stopped_consumer_does_nothing(bench: Bench) -> None:
    worker = bench.worker()
    async with bench.exchange.consume(worker._prefetches()) as consumer:
        await consumer.stop()
        assert (await worker.once(consumer)).received == 0


async def test_what_was_forwarded_before_an_outage_is_not_forwarded_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    routes = Routes(dispatch_queue=QUEUE, handle_queues={"fast": "fast", "slow": "slow"})
    due = await bench.armed("a", action="fast") + await bench.armed("b", action="slow")
    sent: list[str] = []
    refusals = [1, 2]

    async def publish(queue: str, body: bytes, time_limit: float) -> None:
        if queue == "slow" and refusals:
            refusals.pop()
            raise ExchangeUnavailableError("RabbitMQ: no confirm")
        sent.append(queue)

    handler = bench.worker(routes=routes)._handler
    delivery = MemoryDelivery(exchange=bench.exchange, queue=QUEUE, body=dispatch.encode(due))
    monkeypatch.setattr(bench.exchange, "publish", publish)
    report = await handler.handle([delivery], asyncio.Event(), lambda _: None)
    assert report.forwarded == 2
    assert sorted(sent) == ["fast", "slow"]


def fail_first(
    monkeypatch: pytest.MonkeyPatch, target: Any, name: str, errors: list[Exception]
) -> None:
    """Let the next calls of a method raise, one error each."""
    real = getattr(target, name)

    async def method(*args: Any, **kwargs: Any) -> Any:
        if errors:
            raise errors.pop(0)
        return await real(*args, **kwargs)

    monkeypatch.setattr(target, name, method)


@pytest.mark.parametrize("step", ["take", "record"])
async def test_an_outage_of_the_database_delays_but_loses_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    due = await bench.armed("a")
    outage: list[Exception] = [LedgerUnavailableError("database: gone")] * 3
    fail_first(monkeypatch, bench.ledger, step, outage)
    await bench.handle(due)
    assert await bench.state("a") == (RunState.HANDLED, "failed")
    assert bench.engine.failed == [run("a")]


async def test_a_result_that_cannot_be_recorded_within_its_lease_goes_back(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    outage: list[Exception] = [LedgerUnavailableError("database: gone")] * 1000
    fail_first(monkeypatch, bench.ledger, "record", outage)
    due = await bench.armed("a")
    worker = bench.worker(strategy_timeout=0.01, lease_seconds=0.3)
    async with bench.exchange.consume(worker._prefetches()) as consumer:
        publishing = asyncio.create_task(bench.exchange.publish(QUEUE, dispatch.encode(due), 30))
        await asyncio.sleep(0)
        with pytest.raises(LedgerUnavailableError):
            await worker.once(consumer)
        assert await bench.exchange.depths() == {QUEUE: 1}
        publishing.cancel()
        await asyncio.gather(publishing, return_exceptions=True)


async def test_an_outage_of_the_broker_delays_the_dead_letter(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    outage: list[Exception] = [ExchangeUnavailableError("RabbitMQ: gone")] * 2
    fail_first(monkeypatch, bench.exchange, "dead_letter", outage)
    report = await bench.handle_bodies(b"not JSON")
    assert (report.unreadable, len(bench.exchange.dead)) == (1, 1)


async def test_a_retry_that_redis_misses_is_in_the_ledger(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.engine.errors = [RuntimeError("down")]
    outage: list[Exception] = [PoolUnavailableError("Redis: gone")]
    fail_first(monkeypatch, bench.pool, "put_back", outage)
    await bench.handle(await bench.armed("a"))
    assert (await bench.state("a"))[0] is RunState.ARMED
    assert await absent(bench.pool, [id_of("a")]) == [id_of("a")]


async def test_a_late_result_is_counted_and_not_written(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def record(*_: Any, **__: Any) -> int:
        return 0

    monkeypatch.setattr(bench.ledger, "record", record)
    report = await bench.handle(await bench.armed("a"))
    assert report.late == 1


async def test_a_node_whose_turn_does_not_come_is_put_back_for_other_workers(
    bench: Bench,
) -> None:
    bench.strategy("slow", lambda _: asyncio.sleep(0.5))
    due = await bench.armed("a", "b", "c", action="slow")
    report = await bench.handle(due, concurrency=1, strategy_timeout=5, lease_seconds=0.4)
    assert report.outcomes[RunState.HANDLED] == 1
    assert report.outcomes[RunState.ARMED] == 2
    rows: Mapping[str, Any] = {name: (await bench.ledger.rows(name))[0] for name in "abc"}
    assert sorted(row.attempts for row in rows.values()) == [0, 0, 1]
    (entry,) = [each for name in "abc" for each in await bench.ledger.history([id_of(name)])][:1]
    assert (entry.kind, entry.detail) == (
        HistoryKind.PUT_BACK,
        "not started: its turn did not come in time",
    )


async def run_until_stopped(
    bench: Bench, worker: Worker, due: list[DueRun], until: Callable[[], Any]
) -> None:
    """Run a worker's service on one message, and stop it when a condition holds."""
    stop = asyncio.Event()
    running = asyncio.create_task(worker.run(stop, Health(name="worker")))
    publishing = asyncio.create_task(bench.exchange.publish(QUEUE, dispatch.encode(due), 30))
    await wait_until(until)
    stop.set()
    await asyncio.wait_for(running, 10)
    publishing.cancel()
    await asyncio.gather(publishing, return_exceptions=True)


async def test_a_stopping_worker_finishes_what_is_in_flight(bench: Bench) -> None:
    started = asyncio.Event()

    async def slow(node: TimedOutNode) -> None:
        started.set()
        await asyncio.sleep(0.3)

    bench.strategy("slow", slow)
    due = await bench.armed("a", action="slow")
    await run_until_stopped(bench, bench.worker(), due, started.is_set)
    assert (await bench.state("a"))[0] is RunState.HANDLED


async def test_what_comes_while_it_is_told_to_stop_is_dealt_with(
    pool: RedisPool,
    ledger: SqlLedger,
    rabbit: RabbitExchange,
    names: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The stop falls into the change of a prefetch, which takes a while, and so does a message."""
    bench, queue, stop = Bench(pool, ledger, rabbit), names["dispatch_queue"], asyncio.Event()

    async def slow(node: TimedOutNode) -> None:
        await asyncio.sleep(0.3)  # meanwhile the worker waits for more

    async def resize(*_: object) -> None:
        if (await bench.state("a"))[0] is RunState.HANDLED and not stop.is_set():
            await rabbit.publish(queue, dispatch.encode(second), 10)
            await asyncio.sleep(0.2)
            stop.set()

    bench.strategy("slow", slow)
    first, second = await bench.armed("a", action="slow"), await bench.armed("b")
    monkeypatch.setattr(RabbitConsumer, "resize", resize)
    worker = bench.worker(routes=Routes(dispatch_queue=queue), queues=(queue,))
    running = asyncio.create_task(worker.run(stop, Health(name="worker")))
    await rabbit.publish(queue, dispatch.encode(first), 10)
    await asyncio.wait_for(running, 10)
    assert bench.engine.failed == [run("b")]
    assert await rabbit.waiting(queue) == 0


async def test_past_the_shutdown_timeout_nodes_are_put_back(bench: Bench) -> None:
    started: list[str] = []

    async def endless(node: TimedOutNode) -> None:
        started.append(node.node_id)
        await asyncio.sleep(60)

    bench.strategy("endless", endless)
    due = await bench.armed("a", "b", action="endless")
    worker = bench.worker(concurrency=1, strategy_timeout=30, shutdown_timeout=0.1)
    await run_until_stopped(bench, worker, due, lambda: started)
    rows = [(await bench.ledger.rows(name))[0] for name in ("a", "b")]
    assert [row.state for row in rows] == [RunState.ARMED, RunState.ARMED]
    assert sorted(row.attempts for row in rows) == [0, 1], "only one was called"
    assert await absent(bench.pool, [id_of("a"), id_of("b")]) == []


async def test_a_worker_stopped_in_an_outage_gives_its_messages_back(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    outage: list[Exception] = [LedgerUnavailableError("database: gone")] * 10_000
    tried = len(outage)
    fail_first(monkeypatch, bench.ledger, "take", outage)
    due = await bench.armed("a")
    await run_until_stopped(bench, bench.worker(), due, lambda: len(outage) < tried - 1)
    assert await bench.exchange.depths() == {QUEUE: 1}
    assert (await bench.state("a"))[0] is RunState.ARMED


async def test_an_unexpected_error_sends_the_messages_back_and_the_worker_goes_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_first(monkeypatch, bench.ledger, "take", [ZeroDivisionError("a bug")])
    due = await bench.armed("a")
    await run_until_stopped(bench, bench.worker(), due, lambda: bench.engine.failed)
    assert (await bench.state("a"))[0] is RunState.HANDLED


async def test_a_stuck_batch_does_not_keep_a_worker_from_ending(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node_timeout.handling.worker.PUT_BACK_SECONDS", 0.1)
    stuck = asyncio.Event()

    async def never(*_: Any, **__: Any) -> int:
        stuck.set()
        await asyncio.sleep(60)
        return 0

    monkeypatch.setattr(bench.ledger, "record", never)
    due = await bench.armed("a")
    worker = bench.worker(shutdown_timeout=0.1)
    await run_until_stopped(bench, worker, due, stuck.is_set)
    (row,) = await bench.ledger.rows("a")
    assert row.state is RunState.EXECUTING, "its lease will run out"
