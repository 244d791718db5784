"""Rows, events and outcomes at random, for what holds of all of them."""

from hypothesis import strategies as st

from node_timeout.domain.changes import (
    Cancel,
    Change,
    Discard,
    Extend,
    Fire,
    Pause,
    Reconfigure,
    Replay,
    Resume,
)
from node_timeout.domain.events import NodeLeft, NodeStarted
from node_timeout.domain.orders import Order
from node_timeout.domain.run import LedgerRow, Node, Outcome, RunState, StoppedBy, TimedOutNode
from node_timeout.domain.timeout_config import TimeoutConfig

# Few instants, so that they often meet, cross and are equal.
INSTANTS = st.integers(min_value=0, max_value=12).map(float)
OPTIONAL_INSTANTS = st.none() | INSTANTS
OWNERS = ("me", "another")


def config_of(node_id: str, timeout: float) -> TimeoutConfig:
    return TimeoutConfig(
        node_id=node_id, root_pipeline_id="root", action="forced_fail", timeout=timeout
    )


TIMEOUTS = (1.0, 3.0, 9.0)
PAYLOADS = (None, "{}")
TRACES = [f"00-{'1' * 32}-{each * 16}-01" for each in "ab"]


@st.composite
def rows(draw: st.DrawFn, node_id: str = "a", version: str = "v1") -> LedgerRow:
    """A row as the ledger may hold it."""
    state = draw(st.sampled_from(list(RunState)))
    known = state is not RunState.CANCELLED or draw(st.booleans())
    deadline = draw(INSTANTS) if known else None
    is_open = state in (RunState.ARMED, RunState.PAUSED, RunState.EXECUTING)
    was_stopped = state in (RunState.CANCELLED, RunState.PAUSED)
    leased = state is RunState.EXECUTING or (was_stopped and draw(st.booleans()))
    paused = state is RunState.PAUSED
    stopped = st.sampled_from(list(StoppedBy))
    first_try = draw(st.booleans())
    next_at = None
    if state is RunState.ARMED:
        next_at = deadline if first_try else draw(INSTANTS)
    return LedgerRow(
        node_id=node_id,
        version=version,
        root_pipeline_id="root",
        action="forced_fail" if known else None,
        timeout=draw(st.sampled_from(TIMEOUTS)) if known else None,
        payload_json=draw(st.sampled_from(PAYLOADS)) if known else None,
        trace=draw(st.sampled_from([None, TRACES[0]])) if known else None,
        state=state,
        started_at=draw(OPTIONAL_INSTANTS) if known else None,
        deadline=deadline,
        extended=draw(OPTIONAL_INSTANTS) if known else None,
        next_at=next_at,
        paused_at=draw(INSTANTS) if paused else None,
        stopped_by=draw(stopped) if was_stopped else None,
        lease_until=draw(INSTANTS) if leased else None,
        lease_owner=draw(st.sampled_from(OWNERS)) if leased else None,
        attempts=draw(st.integers(min_value=1 if leased else 0, max_value=4)),
        revision=draw(st.integers(min_value=0, max_value=2)),
        finished_at=None if is_open else draw(INSTANTS),
        message=draw(st.sampled_from([None, "so it went"])),
    )


@st.composite
def starts(draw: st.DrawFn, node_id: str = "a", version: str = "v1") -> NodeStarted:
    return NodeStarted(
        root_pipeline_id="root",
        node_id=node_id,
        version=version,
        happened_at=draw(OPTIONAL_INSTANTS),
        seen_at=draw(OPTIONAL_INSTANTS),
        trace=draw(st.sampled_from([None, *TRACES])),
    )


@st.composite
def leavings(
    draw: st.DrawFn, node_id: str = "a", versions: tuple[str, ...] = ("v1", "v2", "v3")
) -> NodeLeft:
    version = draw(st.none() | st.sampled_from(versions))
    return NodeLeft(
        root_pipeline_id="root",
        node_id=node_id,
        version=version,
        happened_at=draw(OPTIONAL_INSTANTS),
        is_pause=version is not None and draw(st.booleans()),
        remember=draw(st.booleans()),
    )


@st.composite
def outcomes(draw: st.DrawFn, row: LedgerRow) -> Outcome:
    """Of an attempt at this run."""
    state = draw(st.sampled_from([RunState.HANDLED, RunState.STALE, RunState.ARMED, RunState.DEAD]))
    return Outcome(
        node=TimedOutNode(
            node_id=row.node_id,
            version=row.version,
            root_pipeline_id="root",
            action="forced_fail",
            deadline=row.deadline or 0.0,
            attempt=row.attempts,
            revision=draw(st.integers(min_value=0, max_value=2)),
        ),
        state=state,
        message=draw(st.sampled_from(["", "done", "failed"])),
        due_at=draw(INSTANTS) if state is RunState.ARMED else None,
        called=draw(st.booleans()),
        extend_by=draw(st.none() | st.just(3.0)) if state is RunState.ARMED else None,
    )


NO_CONFIGS: dict[Node, TimeoutConfig] = {}
CONFIGS = st.just(NO_CONFIGS) | st.builds(
    TimeoutConfig,
    node_id=st.just("a"),
    root_pipeline_id=st.just("root"),
    action=st.sampled_from(["forced_fail", "notify"]),
    timeout=st.sampled_from(TIMEOUTS),
    payload_json=st.sampled_from(PAYLOADS),
).map(lambda config: {config.node: config})
"""Of the node of the rows, or none."""


@st.composite
def orders(draw: st.DrawFn) -> Order:
    """What somebody may ask of any run."""
    change: Change = draw(
        st.one_of(
            st.builds(Extend, by=st.integers(min_value=-9, max_value=9).map(float)),
            st.builds(Extend, until=INSTANTS),
            st.builds(Reconfigure, configs=CONFIGS),
            st.sampled_from([Pause(), Resume(), Fire(), Cancel(), Replay(), Discard()]),
        )
    )
    return Order(
        change=change,
        actor="ann",
        reason=draw(st.sampled_from([None, "a test"])),
        if_revision=draw(st.none() | st.integers(min_value=0, max_value=2)),
        idempotency_key=draw(st.sampled_from([None, "k"])),
        max_seconds=draw(st.sampled_from([8.0, 100.0])),
    )
