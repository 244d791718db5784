"""Forwards node runs to the handle queue of their action, if it has one of its own."""

import asyncio

from node_timeout import metrics
from node_timeout.domain.run import DueRun
from node_timeout.handling.batch import Batch
from node_timeout.handling.insistence import Insistence
from node_timeout.handling.routes import Routes
from node_timeout.ports.exchange import Exchange
from node_timeout.ports.ledger import Ledger
from node_timeout.tasks import together
from node_timeout.wire import dispatch


class Forwarder:
    """Forwards from the dispatch queue to handle queues. Runs from a handle queue stay here."""

    def __init__(
        self,
        ledger: Ledger,
        exchange: Exchange,
        routes: Routes,
        insist: Insistence,
        *,
        publish_seconds: float,
    ) -> None:
        self._ledger = ledger
        self._exchange = exchange
        self._routes = routes
        self._insist = insist
        self._publish_seconds = publish_seconds

    async def forward(self, batch: Batch, stop: asyncio.Event) -> tuple[list[DueRun], int]:
        """Forward runs that belong elsewhere; return the runs to handle here, and how many went.

        Raises `StoppedError`.
        """
        dispatch_queue = self._routes.dispatch_queue
        dispatched = [run_id for run_id, (_, at) in batch.due.items() if at.queue == dispatch_queue]
        actions: dict[str, str] = {}
        if dispatched and self._routes.handle_queues:
            actions = await self._insist(lambda: self._ledger.actions(dispatched), stop)
        here: list[DueRun] = []
        onward: dict[str, tuple[DueRun, str]] = {}
        for due, delivery in batch.due.values():
            target = None
            if delivery.queue == dispatch_queue:
                target = self._routes.target(actions.get(due.run_id))
            if target in (None, delivery.queue):
                here.append(due)
            else:
                onward[due.run_id] = (due, target)
        count = len(onward)
        await self._insist(lambda: self._send_on(onward), stop)
        return here, count

    async def _send_on(self, onward: dict[str, tuple[DueRun, str]]) -> bool:
        """Forward the runs. Each leaves the dict once it is safe: a retry sends only the rest."""

        async def send(due: DueRun, queue: str) -> None:
            await self._send(due, queue)
            del onward[due.run_id]

        await together(send(due, queue) for due, queue in list(onward.values()))
        return True

    async def _send(self, due: DueRun, queue: str) -> None:
        body = dispatch.encode([due], due.lease, due.trace)
        await self._exchange.publish(queue, body, self._publish_seconds)
        metrics.FORWARDED.labels(queue).inc()
