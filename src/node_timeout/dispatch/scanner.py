"""Scanner: due members of one shard of the pool → dispatch exchange.

The path of a member, and what a crash leaves behind:

    armed ──claim──▶ leased ──publish──▶ leased, message safe ──finish──▶ gone from the pool
             ▲         │                        │
             └─────────┴── released, or ◀───────┘   (then published twice: the ledger lets
                           lease expired             only one of the two act)

A backlog stays in the pool, which is ordered, not in the queue, which is not. Only a few messages
wait in the queue, so a run that falls due now does not wait behind all overdue runs.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from node_timeout import metrics, tracing
from node_timeout.dispatch.members import read
from node_timeout.dispatch.queue_room import QueueRoom
from node_timeout.dispatch.reports import ScanReport
from node_timeout.domain.errors import (
    ExchangeUnavailableError,
    NotConfirmedError,
    PoolUnavailableError,
    TemporaryError,
)
from node_timeout.domain.run import DueRun, ForeignRun
from node_timeout.ports.exchange import Exchange
from node_timeout.ports.pool import Claim, ClaimedMember, Shard
from node_timeout.runtime.loop import Backoff, Health, repeat
from node_timeout.tasks import ended
from node_timeout.wire import dispatch

logger = logging.getLogger(__name__)

MAX_DEAD_MEMBER_BYTES = 64 * 1024
"""Redis accepts members that are longer than any message may be; their beginning is enough."""
BATCHES_IN_FLIGHT = 16
CROWDED = Backoff(first=0.02, longest=1.0, random=lambda: 1.0)
"""How long to wait while the queue is full."""


class Scanner:
    """Claims due members, publishes them, and removes what the broker has confirmed."""

    def __init__(
        self,
        *,
        shard: Shard,
        exchange: Exchange,
        queue: str,
        batch_size: int,
        lease_seconds: float,
        scan_interval: float,
        shutdown_timeout: float,
        dispatch_ahead: float = 0.0,
    ) -> None:
        self._shard = shard
        self._exchange = exchange
        self._queue = queue
        self._batch_size = batch_size
        self._lease_seconds = lease_seconds
        self._scan_interval = scan_interval
        self._dispatch_ahead = dispatch_ahead
        self._shutdown_timeout = shutdown_timeout
        self._publishing: set[asyncio.Task[None]] = set()
        self._failure: Exception | None = None
        """The last failure of a batch, until one is confirmed or none is due."""
        self._aside: set[asyncio.Task[None]] = set()
        """Tasks that dead-letter members that cannot be read."""
        self._room = QueueRoom(exchange, queue)
        self._crowded = 0
        """How often in a row the queue was full."""

    async def run(self, stop: asyncio.Event, health: Health) -> None:
        """Scan until stopped; batches in flight then have ``shutdown_timeout`` to finish."""
        stopped = asyncio.ensure_future(stop.wait())
        health.doing = lambda: f"{len(self._publishing)} messages on their way"

        async def step() -> None:
            report = ScanReport()
            await self._claim(report)
            if report.crowded:
                self._crowded += 1
                await asyncio.wait({stopped}, timeout=CROWDED.seconds(self._crowded))
                return
            self._crowded = 0
            if report.more:
                waiting = {stopped, *self._publishing}
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            else:
                await self._pause(report, stopped)
            if (failure := self._failure) is not None:
                if not isinstance(failure, TemporaryError):
                    self._failure = None  # a bug is reported once
                # It may be raised in each pass until it is over: drop the last pass's traceback.
                raise failure.with_traceback(None)

        try:
            await repeat(step, stop=stop, health=health)
        finally:
            stopped.cancel()
            await self._drain()

    async def _drain(self) -> None:
        """Wait for the tasks in flight; after the time limit, their leases are left to expire."""
        talking = self._talking()
        if talking:
            await asyncio.wait(talking, timeout=self._shutdown_timeout)
        await ended(*talking)

    def _talking(self) -> set[asyncio.Task[Any]]:
        """The tasks that wait for the broker. A question to the broker must not be cancelled early:
        that closes the channel of the others.
        """
        asking = self._room.asking
        return {*self._publishing, *self._aside, *filter(None, [asking])}

    async def _pause(self, report: ScanReport, stopped: asyncio.Future[Any]) -> None:
        seconds = self._scan_interval
        if report.seconds_to_next is not None:
            gone = asyncio.get_running_loop().time() - report.claimed_at
            ahead = self._dispatch_ahead
            # Runs that fall due within a quarter of that time are dispatched together.
            left = max(ahead / 4, report.seconds_to_next - ahead)
            seconds = min(seconds, max(0.0, left - gone))
        waiting = asyncio.ensure_future(self._shard.wait(seconds))
        await asyncio.wait((waiting, stopped), return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()

    async def once(self) -> ScanReport:
        """One pass: claim due members, at most `BATCHES_IN_FLIGHT` batches, and publish them.

        Raises `PoolUnavailableError`, and `ExchangeUnavailableError` before anything is claimed if
        there is no broker to publish to. A later failure is in the report: unconfirmed members are
        released, or come back when their lease expires.
        """
        report = ScanReport()
        await self._claim(report)
        await asyncio.gather(*self._talking(), return_exceptions=True)
        report.error = self._failure
        return report

    async def _claim(self, report: ScanReport) -> None:
        """Claim until nothing is due or `BATCHES_IN_FLIGHT` batches are on their way."""
        await self._exchange.ensure()
        room = await self._room.left()
        report.crowded = room <= 0
        if report.crowded:
            return
        # After a failure one batch goes first, as a probe.
        at_once = 1 if self._failure else BATCHES_IN_FLIGHT
        report.more = True
        for _ in range(min(room, at_once - len(self._publishing))):
            claim = await self._shard.claim(
                self._batch_size, self._lease_seconds, self._dispatch_ahead
            )
            report.claimed_at = asyncio.get_running_loop().time()
            report.more = len(claim.members) == self._batch_size
            if claim.next_due_at is not None:
                report.seconds_to_next = claim.next_due_at - claim.now
            report.claimed += len(claim.members)
            metrics.CLAIMED.inc(len(claim.members))
            self._begin(claim, report)
            if not report.more:
                break
        if not self._publishing and not report.claimed:
            self._failure = None  # nothing in flight can fail

    def _begin(self, claim: Claim, report: ScanReport) -> None:
        """Start to publish the claim; dead-letter unreadable members in parallel."""
        members, due, unreadable = read(claim.members)
        if due:
            self._room.take()
            task = asyncio.create_task(self._dispatch(members, due, claim.lease, report))
            self._publishing.add(task)
            task.add_done_callback(self._publishing.discard)
        if unreadable:
            aside = asyncio.create_task(self._put_aside(unreadable, claim.lease, report))
            self._aside.add(aside)
            aside.add_done_callback(self._aside.discard)

    async def _dispatch(
        self,
        members: Sequence[ClaimedMember],
        due: Sequence[DueRun | ForeignRun],
        lease: float,
        report: ScanReport,
    ) -> None:
        # Connecting may take as long again; even then the lease still holds to finish them.
        time_limit = self._lease_seconds / 3
        try:
            with tracing.span(tracing.DISPATCH, {"runs": len(due)}, kind="PRODUCER", begins=True):
                body = dispatch.encode(due, lease, tracing.current())
                await self._exchange.publish(self._queue, body, time_limit)
            report.published += len(due)
            metrics.PUBLISHED.inc(len(due))
            self._failure = None
            finished = await self._shard.finish([each.member for each in members], lease)
            report.finished += finished
        except PoolUnavailableError as error:
            self._failure = error
        except ExchangeUnavailableError as error:
            self._failure = error
            report.unconfirmed += len(due)
            metrics.UNCONFIRMED.inc(len(due))
            # An unconfirmed message may still arrive: until its lease expires, none is sent again.
            if not isinstance(error, NotConfirmedError):
                await self._release(members, lease)
        except Exception as error:  # noqa: BLE001 - a bug costs its own batch, and is seen
            self._failure = error

    async def _release(self, members: Sequence[ClaimedMember], lease: float) -> None:
        """Make the members due again, so that they need not wait for the lease to expire.

        The broker may still have accepted the message; the ledger drops the second one.
        """
        try:
            await self._shard.release(members, lease)
        except PoolUnavailableError:
            logger.debug("%d leases are left to expire", len(members))

    async def _put_aside(
        self, unreadable: Mapping[str, str], lease: float, report: ScanReport
    ) -> None:
        """Dead-letter members. If the broker refuses one, it comes back when its lease expires."""
        for number, (member, reason) in enumerate(unreadable.items()):
            body = member.encode("utf-8", "surrogateescape")[:MAX_DEAD_MEMBER_BYTES]
            try:
                await self._exchange.dead_letter(body, reason)
                finished = await self._shard.finish([member], lease)
            except TemporaryError as error:
                metrics.DEAD_LETTER_FAILURES.labels("pool").inc()
                logger.warning(
                    "%d pool members that cannot be read stay in the pool: %s",
                    len(unreadable) - number,
                    error,
                )
                return
            report.finished += finished  # not across an await: other tasks count meanwhile
            report.unreadable += 1
            metrics.UNREADABLE.labels("pool").inc()
            logger.error("%s; it is in the dead-letter queue", reason)
