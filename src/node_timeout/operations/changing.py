"""Changes of running deadlines: one way for the library, the command line and HTTP.

    choose runs ──▶ ledger: judge and write under the row's lock ──▶ pool ──▶ look once more

The ledger is written first and is enough: the reconciler repairs what the pool misses. Two
concurrent changes may reach the pool in the wrong order, so each reads the rows again afterwards.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from node_timeout import metrics
from node_timeout.domain import orders
from node_timeout.domain.changes import Cancel, Change, Verdict
from node_timeout.domain.errors import InvalidInputError, PoolUnavailableError
from node_timeout.domain.hints import shown
from node_timeout.domain.orders import Judged, Order
from node_timeout.domain.run import DueRun, LedgerRow, NodeRun, RunState, foreign_member
from node_timeout.domain.run_id import is_run_id
from node_timeout.operations.choosing import Choice, order_of
from node_timeout.operations.pages import BATCH_SIZE
from node_timeout.ports.directory import Cursor, RunFilter
from node_timeout.ports.ledger import Ledger
from node_timeout.ports.pool import Pool

logger = logging.getLogger(__name__)

MAX_RUNS = 500
"""The most runs that an order may name."""
MAX_FOUND = 1000
"""The most runs found by a filter that one call changes; the next call continues behind them."""
CHOICE = tuple(each.name for each in fields(Choice))
CONDITIONS = ("actor", "reason", "if_revision", "idempotency_key")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangedRun:
    """What became of one run."""

    run_id: str
    verdict: Verdict
    row: LedgerRow | None
    """The row as it is now; None if there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeReport:
    """What became of an order."""

    runs: tuple[ChangedRun, ...]
    after: str | None = None
    """If more runs match: where the order continues when it is given again, with the same
    idempotency key. None if these were all."""

    @property
    def done(self) -> int:
        return sum(each.verdict is Verdict.DONE for each in self.runs)

    @property
    def refused(self) -> tuple[ChangedRun, ...]:
        return tuple(each for each in self.runs if each.verdict is not Verdict.DONE)

    def joined(self, other: "ChangeReport") -> "ChangeReport":
        """The reports of this call and of the next call of the same order as one."""
        runs = {each.run_id: each for each in (*self.runs, *other.runs)}
        return ChangeReport(runs=tuple(runs.values()), after=other.after)

    @property
    def verdicts(self) -> dict[Verdict, int]:
        """How many runs got each verdict."""
        found = [each.verdict for each in self.runs]
        return {verdict: found.count(verdict) for verdict in Verdict if verdict in found}


async def carry_out(
    ledger: Ledger, pool: Pool, change_: Change, asked: Mapping[str, Any], *, max_seconds: float
) -> ChangeReport:
    """What `NodeTimeout.extend` and its siblings do: choose runs, check the order, change them.

    ``asked`` has the fields of `Choice`, `order_of` and ``dry_run``. Raises `InvalidInputError`,
    `AmbiguousNodeError`, `LedgerUnavailableError`.
    """
    choice = Choice(**{name: asked[name] for name in CHOICE if name in asked})
    conditions = {name: asked[name] for name in CONDITIONS if name in asked}
    order = order_of(change_, max_seconds, **{"actor": "library"} | conditions)
    one_root = RunState.DEAD not in change_.applies_to
    which = await choice.find(ledger, pool, one_root=one_root)
    dry_run = bool(asked.get("dry_run"))
    report = await change(ledger, pool, order, which, dry_run=dry_run, after=asked.get("after"))
    if isinstance(change_, Cancel) and not (report.runs or dry_run):
        return await _cancel_unknown(ledger, pool, order, choice)
    return report


async def _cancel_unknown(ledger: Ledger, pool: Pool, order: Order, choice: Choice) -> ChangeReport:
    """Remove a named version that only the pool knows. If the ledger has a row of it by then,
    cancel that as well.
    """
    node_id, version = choice.node_id, choice.version
    if node_id is None or version is None:
        return ChangeReport(runs=())
    roots = {*(await ledger.roots([node_id], of_open_runs=True)).get(node_id, ())}
    root = choice.root_pipeline_id or next(iter(roots), "")
    run_id = NodeRun(root_pipeline_id=root, node_id=node_id, version=version).run_id
    # A foreign member names no root pipeline: it is meant if no other root has the node.
    foreign = [foreign_member(node_id, version)] if roots <= {root} else []
    if not await pool.disarm([run_id, *foreign]):
        return ChangeReport(runs=())
    report = await change(ledger, pool, order, [run_id])
    if report.runs[0].verdict is not Verdict.MISSING:
        return report
    return ChangeReport(runs=(ChangedRun(run_id=run_id, verdict=Verdict.DONE, row=None),))


async def change(
    ledger: Ledger,
    pool: Pool,
    order: Order,
    which: Sequence[str] | RunFilter,
    *,
    dry_run: bool = False,
    after: str | None = None,
) -> ChangeReport:
    """Carry out an order for the runs with these ids, at most `MAX_RUNS`, or for those that a
    filter finds, the oldest `MAX_FOUND` behind ``after``.

    ``dry_run`` only reports what would happen to them. Raises `InvalidInputError`,
    `LedgerUnavailableError`.
    """
    end: str | None = None
    if isinstance(which, RunFilter):
        found, end = await _found(ledger, order, which, after)
        run_ids = [row.run_id for row in found]
    else:
        run_ids = _checked(which)
    if dry_run:
        judged = await _tried(ledger, order, run_ids, await pool.now())
    else:
        judged = {}
        for start in range(0, len(run_ids), BATCH_SIZE):
            some = run_ids[start : start + BATCH_SIZE]
            judged |= await _change(ledger, pool, order, some)
    runs = (
        ChangedRun(run_id=run_id, verdict=judged[run_id].verdict, row=judged[run_id].row)
        for run_id in dict.fromkeys(run_ids)
    )
    return ChangeReport(runs=tuple(runs), after=end)


def _checked(run_ids: Sequence[str]) -> list[str]:
    if wrong := [each for each in run_ids if not is_run_id(each)]:
        raise InvalidInputError(*(f"{shown(each)} is no run id" for each in wrong))
    if not 1 <= len(run_ids) <= MAX_RUNS:
        raise InvalidInputError(f"{len(run_ids)} runs are named, from 1 to {MAX_RUNS} are allowed")
    return list(run_ids)


async def _found(
    ledger: Ledger, order: Order, wanted: RunFilter, after: str | None
) -> tuple[list[LedgerRow], str | None]:
    """The oldest matching runs, state by state; and where they end, if there are more."""
    filters = _filters(order, wanted)
    first, cursor = (0, None) if after is None else _place(after, len(filters))
    found: list[LedgerRow] = []
    for number, each in enumerate(filters[first:], first):
        behind = cursor if number == first else None
        while True:
            page = await ledger.find(each, min(BATCH_SIZE, MAX_FOUND - len(found)), behind)
            found += page.rows
            behind = page.after
            if behind is None:
                break
            if len(found) == MAX_FOUND:
                return found, f"{number}/{behind}"
        if len(found) == MAX_FOUND and number + 1 < len(filters):
            return found, f"{number + 1}/"
    return found, None


def _place(text: str, filters: int) -> tuple[int, Cursor | None]:
    """The filter at which an order continues, and behind which run. Raises `InvalidInputError`."""
    number, _, cursor = text.partition("/")
    if number not in map(str, range(filters)):
        raise InvalidInputError(f"{shown(text)} is not where an order of this kind has ended")
    return int(number), Cursor.parse(cursor) if cursor else None


def _filters(order: Order, wanted: RunFilter) -> list[RunFilter]:
    """A named version in any state (its verdict says why not); else only runs that can change."""
    if wanted.state is not None or wanted.version is not None or wanted.due_by is not None:
        return [wanted]
    states = order.change.sought
    if RunState.DEAD not in states:
        states = (*states, RunState.EXECUTING)  # refused, with the verdict executing
    return [wanted.in_state(state) for state in states]


async def _tried(
    ledger: Ledger, order: Order, run_ids: Sequence[str], now: float
) -> dict[str, Judged]:
    rows = {row.run_id: row for row in await ledger.rows_of(run_ids)}
    if order.asks_configs:
        order = order.told(await ledger.configs([row.node for row in rows.values()]))
    judged = {run_id: orders.judge(order, rows.get(run_id), now) for run_id in run_ids}
    # A dry run shows the row as it is, not as it would become.
    return {
        run_id: Judged(verdict=each.verdict, row=rows.get(run_id))
        for run_id, each in judged.items()
    }


async def _change(
    ledger: Ledger, pool: Pool, order: Order, run_ids: Sequence[str]
) -> dict[str, Judged]:
    judged = await ledger.change(order, run_ids, await pool.now())
    name = type(order.change).__name__.lower()
    for each in judged.values():
        metrics.CHANGES.labels(name, each.verdict).inc()
    done = {
        run_id: each for run_id, each in judged.items() if each.verdict is Verdict.DONE and each.row
    }
    try:
        await _tell(pool, {run_id: each.row for run_id, each in done.items() if each.row})
        if done:
            now = {row.run_id: row for row in await ledger.rows_of(list(done))}
            crossed = {run_id: row for run_id, row in now.items() if row != done[run_id].row}
            await _tell(pool, crossed)
    except PoolUnavailableError as error:
        logger.warning("%d changed runs wait for the reconciler: %s", len(done), error)
    return judged


async def _tell(pool: Pool, rows: Mapping[str, LedgerRow]) -> None:
    """Put armed runs at ``next_at`` or earlier; remove runs neither armed nor executing."""
    armed = [
        DueRun(run_id=run_id, due_at=row.next_at)
        for run_id, row in rows.items()
        if row.state is RunState.ARMED and row.next_at is not None
    ]
    gone = [
        run_id
        for run_id, row in rows.items()
        if row.state not in (RunState.ARMED, RunState.EXECUTING)
    ]
    if armed:
        await pool.lower(armed)
    if gone:
        await pool.disarm(gone)
