"""Tracker: state events of the engine → ledger, then pool.

The ledger comes first and is sufficient. Runs that the pool misses are armed there as soon as Redis
answers again; if this process ends before that, the reconciler arms them.
"""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable, Sequence

from node_timeout import metrics, tracing
from node_timeout.arming.roots import ambiguity, find_roots
from node_timeout.domain.errors import LedgerUnavailableError, PoolUnavailableError
from node_timeout.domain.events import NodeLeft, NodeStarted
from node_timeout.domain.run import DueRun, NodeRun, RunState, foreign_member
from node_timeout.ports.ledger import Ledger
from node_timeout.ports.pool import Pool
from node_timeout.runtime.loop import Backoff
from node_timeout.tasks import ended

logger = logging.getLogger(__name__)

ARM_AGAIN = Backoff(first=0.2, longest=2.0)
MAX_MISSED = 100_000
"""The most missed runs to remember, so that an outage cannot fill the memory; the reconciler finds
the rest."""
NAMING_SECONDS = 60.0
"""The interval between two log lines that name a node that was not armed."""


class Tracker:
    """Arms node runs that enter RUNNING, disarms nodes that leave it."""

    def __init__(
        self, *, ledger: Ledger, pool: Pool, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ledger = ledger
        self._pool = pool
        self._clock = clock
        self._not_armed = 0
        """Starts that were not armed since the last log line that named one."""
        self._named_at = -math.inf
        self._missed: dict[str, DueRun] = {}
        """Runs that are armed in the ledger only."""
        self._arming: asyncio.Task[None] | None = None

    async def close(self) -> None:
        """Stop; the reconciler arms the runs that the pool still misses."""
        if self._arming is not None:
            await ended(self._arming)

    async def nodes_started(self, events: Sequence[NodeStarted]) -> int:
        """Arm the runs whose nodes have a config; return how many are armed.

        Raises `AmbiguousNodeError`, `LedgerUnavailableError` (nothing is armed then). Without Redis
        the call succeeds: the runs are armed there later.
        """
        now = await self._pool.now()  # before the lookup: what happens during it is later
        rooted = await find_roots(events, self._ledger)
        if rooted.ambiguous:
            raise ambiguity(rooted)
        self.not_armed(rooted.unknown)
        return await self.started(rooted.events, now)

    async def started(self, events: Sequence[NodeStarted], now: float) -> int:
        """`nodes_started` for events whose roots are known and that were received at ``now``."""
        with tracing.arming(events) as traced:
            armed = await self._ledger.arm(traced, now) if events else []
            if armed:
                metrics.ARMED_TOTAL.inc(len(armed))
                try:
                    await self._pool.arm(armed)
                except PoolUnavailableError as error:
                    self._warn("armed", [due.run_id for due in armed], error)
                    self._arm_later(armed)
        open_ids = {due.run_id for due in armed}
        self.not_armed([event for event in events if event.run.run_id not in open_ids])
        return len(armed)

    async def nodes_left(self, events: Sequence[NodeLeft]) -> int:
        """Disarm every armed version of the nodes, or pause the one that the engine has suspended;
        return how many runs were disarmed or paused.

        Versions that started after the event are unchanged: the event came late. A run that is
        named with its version leaves the pool even if the ledger does not know it: the engine may
        fill the pool itself. Raises `AmbiguousNodeError`, `LedgerUnavailableError`.
        """
        now = await self._pool.now()  # before the lookup: a run that starts during it is not meant
        rooted = await find_roots(events, self._ledger)
        if rooted.ambiguous:
            raise ambiguity(rooted)
        # At most one root has the node, so a pool member without a root means this node.
        foreign = [*rooted.unknown, *rooted.origins.values()]
        return await self.left(rooted.events, now, foreign)

    async def left(
        self, events: Sequence[NodeLeft], now: float, foreign: Sequence[NodeLeft] = ()
    ) -> int:
        """`nodes_left` for events whose roots are known, received at ``now``. ``foreign``: events
        that named no root.
        """
        members: list[str] = []
        cancelled: tuple[NodeRun, ...] = ()
        paused: tuple[NodeRun, ...] = ()
        if events:
            disarming = await self._ledger.disarm(events, now)
            paused = disarming.paused
            cancelled = (*disarming.cancelled, *paused)
            metrics.DISARMED.inc(len(cancelled))
            named = [event.run for event in events if not event.trust_ledger]
            gone = dict.fromkeys([*cancelled, *filter(None, named)])
            kept = set(disarming.kept)
            members = [run.run_id for run in gone if run not in kept]
        for member in members:
            self._missed.pop(member, None)
        members += [
            foreign_member(event.node_id, event.version)
            for event in foreign
            if event.version is not None and not event.trust_ledger
        ]
        if members:
            try:
                await self._pool.disarm(members)
                if paused:
                    await self._arm_crossed(paused)
            except PoolUnavailableError as error:
                self._warn("disarmed", members, error)
        return len(cancelled)

    async def _arm_crossed(self, paused: Sequence[NodeRun]) -> None:
        """Arm again the runs that resumed meanwhile and were disarmed by mistake."""
        try:
            rows = await self._ledger.rows_of([run.run_id for run in paused])
        except LedgerUnavailableError:
            return  # the reconciler finds them
        armed = [
            DueRun(run_id=row.run_id, due_at=row.next_at)
            for row in rows
            if row.state is RunState.ARMED and row.next_at is not None
        ]
        if armed:
            await self._pool.arm(armed)

    def not_armed(self, events: Sequence[NodeStarted]) -> None:
        """Count the starts that were not armed; name one of them, at most once a minute.

        An engine may run many nodes without a config on purpose, so this is not a warning.
        """
        runs = {(each.node_id, each.version, each.root_pipeline_id): each for each in events}
        metrics.NOT_ARMED.inc(len(runs))
        self._not_armed += len(runs)
        if not runs or self._clock() < self._named_at + NAMING_SECONDS:
            return
        event = min(runs.values(), key=lambda event: (event.node_id, event.version))
        logger.info(
            "node %s started and is not armed: it has no timeout config, or its version %s is "
            "closed already (%d such starts since the last line like this)",
            event.node_id,
            event.version,
            self._not_armed,
            extra={
                "node_id": event.node_id,
                "version": event.version,
                "root_pipeline_id": event.root_pipeline_id,
            },
        )
        self._not_armed, self._named_at = 0, self._clock()

    def _arm_later(self, due: Sequence[DueRun]) -> None:
        room = MAX_MISSED - len(self._missed)
        self._missed.update((each.run_id, each) for each in due[:room])
        if self._arming is None or self._arming.done():
            self._arming = asyncio.create_task(self._arm_missed(), name="arm what Redis missed")

    async def _arm_missed(self) -> None:
        """Retry until all are in the pool. A run that has left meanwhile does no harm: its row is
        closed, or it has no row and nothing is done.
        """
        failures = 0
        while self._missed:
            failures += 1
            await asyncio.sleep(ARM_AGAIN.seconds(failures))
            with contextlib.suppress(PoolUnavailableError):
                due = list(self._missed.values())
                await self._pool.arm(due)
                for each in due:
                    self._missed.pop(each.run_id, None)

    def _warn(self, what: str, members: Sequence[str], error: Exception) -> None:
        metrics.ARM_FAILURES.inc(len(members))
        for member in members:
            logger.warning(
                "run %s is %s in the ledger only: %s", member, what, error, extra={"run_id": member}
            )
