"""Events from a caller who waits for the result, which lists refused events by their index.

The listener does the same with messages, for which no caller waits: see `arming.listener`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from node_timeout import metrics
from node_timeout.arming.roots import find_roots
from node_timeout.arming.tracker import Tracker
from node_timeout.domain.config_check import ConfigRules
from node_timeout.domain.errors import InvalidInputError
from node_timeout.domain.events import Event, NodeLeft, NodeStarted
from node_timeout.ports.ledger import Ledger
from node_timeout.ports.pool import Pool
from node_timeout.runtime.halving import in_halves
from node_timeout.wire import events

MAX_EVENTS = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedEvent:
    """An event that changed nothing."""

    index: int
    """Its index among the events of the call, from 0."""
    reason: str


@dataclass(slots=True, kw_only=True)
class Received:
    """The result of one call's events."""

    received: int = 0
    armed: int = 0
    disarmed: int = 0
    refused: list[RefusedEvent] = field(default_factory=list)


async def receive(
    body: bytes, *, ledger: Ledger, pool: Pool, tracker: Tracker, rules: ConfigRules
) -> Received:
    """Arm and disarm as the events say, each node's in order of time; bad events harm no others.

    May be repeated. Raises `UnreadableMessageError`, `InvalidInputError` (too many),
    `LedgerUnavailableError` (repeat it then).
    """
    read = events.read(body, rules, now := await pool.now())
    if len(read) > MAX_EVENTS:
        raise InvalidInputError(f"{len(read)} events, at most {MAX_EVENTS} are taken in one call")
    report = Received(received=len(read))
    places: dict[int, int] = {}
    good: list[Event] = []
    for index, event in enumerate(read):
        if isinstance(event, InvalidInputError):
            report.refused.append(RefusedEvent(index=index, reason=str(event)))
        else:
            good.append(event)
            places[id(event)] = index

    async def refuse(event: Event, error: Exception) -> None:
        report.refused.append(RefusedEvent(index=places[id(event)], reason=str(error)))

    async def track(some: Sequence[Event]) -> None:
        started = [event for event in some if isinstance(event, NodeStarted)]
        left = [event for event in some if isinstance(event, NodeLeft)]
        report.armed += await tracker.started(started, now)
        report.disarmed += await tracker.left(left, now)

    rooted = await find_roots(good, ledger)
    for event, error in rooted.ambiguous:
        await refuse(event, error)
    for number, event in rooted.origins.items():
        places[number] = places[id(event)]
    tracker.not_armed([event for event in rooted.unknown if isinstance(event, NodeStarted)])
    for some in events.in_rounds(rooted.events):
        await in_halves(some, track, refuse)
    report.refused.sort(key=lambda each: each.index)
    metrics.EVENTS.inc(len(good))
    return report
