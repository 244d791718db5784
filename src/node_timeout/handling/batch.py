"""The contents of a batch of messages: the due runs, and the entries that cannot be read."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from node_timeout.domain.errors import LedgerError
from node_timeout.domain.run import DueRun, ForeignRun
from node_timeout.ports.exchange import Delivery
from node_timeout.wire import dispatch
from node_timeout.wire.dispatch import Unreadable


@dataclass(slots=True)
class Batch:
    """The contents of a batch of messages."""

    due: dict[str, tuple[DueRun, Delivery]] = field(default_factory=dict)
    """Every run once, by its id, with the message that it came in."""
    foreign: dict[ForeignRun, Delivery] = field(default_factory=dict)
    """Runs that an engine has put into the pool itself; their run ids are not known yet."""
    unreadable: dict[Delivery, list[Unreadable]] = field(default_factory=dict)

    async def refuse(self, due: DueRun, error: LedgerError) -> None:
        """Count a run as unreadable: the ledger cannot store it."""
        self.put_aside(due, self.due[due.run_id][1], str(error))

    def put_aside(self, due: DueRun | ForeignRun, delivery: Delivery, reason: str) -> None:
        letter = Unreadable(body=dispatch.encode([due]), reason=reason)
        self.unreadable.setdefault(delivery, []).append(letter)


def read(deliveries: Sequence[Delivery]) -> Batch:
    """Read messages; entries that cannot be read are collected with the reason."""
    batch = Batch()
    for delivery in deliveries:
        try:
            due, unreadable = dispatch.decode(delivery.body)
        except Exception as error:  # noqa: BLE001 - it is this message's own fault
            due, unreadable = [], [Unreadable(body=delivery.body, reason=str(error))]
        if unreadable:
            batch.unreadable[delivery] = unreadable
        for each in due:
            if isinstance(each, ForeignRun):
                batch.foreign[each] = delivery
            else:
                batch.due[each.run_id] = (each, delivery)
    return batch
