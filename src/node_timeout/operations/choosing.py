"""Which runs a caller means, and under which conditions they are to be changed."""

import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

from node_timeout.domain.changes import Change, Extend
from node_timeout.domain.errors import InvalidInputError
from node_timeout.domain.hints import shown
from node_timeout.domain.ids import MAX_VERSION_LENGTH, id_problem
from node_timeout.domain.orders import MAX_KEY_LENGTH, Order
from node_timeout.domain.roots import only_root
from node_timeout.domain.run import RunState
from node_timeout.ports.directory import RunFilter
from node_timeout.ports.ledger import Ledger
from node_timeout.ports.pool import Pool

MAX_REASON_LENGTH = 1000


class Asked(TypedDict, total=False):
    """What a caller may give besides the node, its version and its root pipeline."""

    run_ids: Sequence[str]
    """These runs, at most 500; no other filter may be given then."""
    state: RunState | str
    action: str
    due_within: float
    """Seconds."""
    finished_by: float
    """Only runs that had ended by then (Unix seconds), so that one that dies again is left out."""
    everything: bool
    """All runs to which the change can apply."""
    actor: str
    """Who asks, for the history."""
    reason: str | None
    """Why, for the history."""
    if_revision: int | None
    """Change the run only if it still has this revision."""
    idempotency_key: str | None
    """A run that already had the same change under this key is not changed again; its verdict is
    ``done``."""
    after: str | None
    """Where an order for more than 1,000 runs continues: `ChangeReport.after` of the previous call.
    Give the same idempotency key as in that call."""
    dry_run: bool
    """Change nothing; report what would happen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which runs are meant. Raises `InvalidInputError` for a bad choice, or an empty one."""

    node_id: str | None = None
    version: str | None = None
    root_pipeline_id: str | None = None
    run_ids: Sequence[str] = ()
    state: RunState | str | None = None
    action: str | None = None
    due_within: float | None = None
    finished_by: float | None = None
    everything: bool = False

    def __post_init__(self) -> None:
        by_ids = (self.node_id, self.root_pipeline_id)
        others = (*by_ids, self.state, self.action, self.due_within)
        is_narrowed = any(each is not None for each in others)
        if self.run_ids and (is_narrowed or self.everything):
            raise InvalidInputError("run_ids leave nothing to be chosen beside them")
        if self.everything and is_narrowed:
            raise InvalidInputError("everything leaves nothing to be chosen beside it")
        if not (self.run_ids or self.everything or is_narrowed):
            raise InvalidInputError("choose a node, a root pipeline or both")
        require_node_of(self.version, self.node_id)
        ids = {"node id": self.node_id, "root pipeline id": self.root_pipeline_id}
        problems = [id_problem(what, value) for what, value in ids.items() if value is not None]
        if self.version is not None:
            problems.append(id_problem("version", self.version, MAX_VERSION_LENGTH))
        problems += [state_problem(self.state), due_problem(self.due_within, self.state)]
        if any(problems):
            raise InvalidInputError(*filter(None, problems))

    async def find(
        self, ledger: Ledger, pool: Pool, *, one_root: bool
    ) -> Sequence[str] | RunFilter:
        """The run ids, or the filter that finds the runs.

        ``one_root``: if no root pipeline is named, it is the only one that has the node. Raises
        `AmbiguousNodeError` if several have it.
        """
        if self.run_ids:
            return self.run_ids
        root = self.root_pipeline_id
        if one_root and root is None and self.node_id is not None:
            roots = await ledger.roots([self.node_id], of_open_runs=True)
            root = only_root(self.node_id, roots.get(self.node_id, ()))
        return RunFilter(
            state=None if self.state is None else RunState(self.state),
            root_pipeline_id=root,
            node_id=self.node_id,
            version=self.version,
            action=self.action,
            due_by=None if self.due_within is None else await pool.now() + self.due_within,
            finished_by=self.finished_by,
        )


def order_of(
    change: Change,
    max_seconds: float,
    *,
    actor: str,
    reason: str | None = None,
    if_revision: int | None = None,
    idempotency_key: str | None = None,
) -> Order:
    """Check and build an order. Raises `InvalidInputError`.

    An order without an idempotency key gets one: the ledger recognises the order by it when it has
    to repeat a transaction whose result it does not know.
    """
    problems = [id_problem("actor", actor)]
    if reason is not None and (problem := id_problem("reason", reason, MAX_REASON_LENGTH)):
        problems.append(problem)
    if idempotency_key is not None:
        problems.append(id_problem("idempotency key", idempotency_key, MAX_KEY_LENGTH))
    if isinstance(change, Extend):
        problems.append(_extend_problem(change))
    if any(problems):
        raise InvalidInputError(*filter(None, problems))
    return Order(
        change=change,
        actor=actor,
        reason=reason,
        if_revision=if_revision,
        idempotency_key=idempotency_key or secrets.token_hex(8),
        max_seconds=max_seconds,
    )


def _extend_problem(change: Extend) -> str | None:
    given = {"by": change.by, "until": change.until}
    said = {name: value for name, value in given.items() if value is not None}
    if len(said) != 1:
        return "say either by how much to extend, or until when"
    ((name, value),) = said.items()
    return None if math.isfinite(value) else f"{name} is {shown(value)}, not a number of seconds"


def state_problem(state: RunState | str | None) -> str | None:
    if state is None or state in set(RunState):
        return None
    return f"state {shown(state)} is none of {', '.join(RunState)}"


def due_problem(due_within: float | None, state: RunState | str | None) -> str | None:
    """What is wrong with ``due_within`` (seconds), which chooses armed runs; None if nothing is."""
    if due_within is None:
        return None
    if not 0 <= due_within < math.inf:
        return f"due_within {due_within!r} is not a number of seconds"
    if state not in (None, RunState.ARMED):
        return f"what is due is armed, not {state}"
    return None


def require_node_of(version: str | None, node_id: str | None) -> None:
    """Raises `InvalidInputError` for a version without a node."""
    if version is not None and node_id is None:
        raise InvalidInputError("a version is one of a node: name the node as well")
