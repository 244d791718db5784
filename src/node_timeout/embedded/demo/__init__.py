"""``node-timeout demo``: plays an included pipeline, with deadlines, on the embedded stores."""

import asyncio
import contextlib
import json
import math
import tempfile
import time
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from node_timeout.app import NodeTimeout
from node_timeout.domain.errors import SettingsError
from node_timeout.domain.run import LedgerRow, NodeRun, TimedOutNode
from node_timeout.embedded.demo.engine import DemoEngine
from node_timeout.embedded.dev import embedded
from node_timeout.strategies.base import ForcedFailAndSkipStrategy, StrategyResult
from node_timeout.tasks import ended

HANGS = math.inf
TIME_LIMIT_SECONDS = 60.0
FLAKY_ACTION = "skip_when_paged"
WIDE = 120
"""The width in characters from which a terminal shows all columns."""
STYLES = {"RUNNING": "yellow", "FINISHED": "green", "FAILED": "red"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What one node of the sample does, and how it should end."""

    node_id: str
    durations: tuple[float, ...]
    """Duration of each version, in seconds."""
    seconds: float
    action: str
    ends: str
    """Its state in the engine at the end."""
    ledger: tuple[str, ...]
    """The state of each version in the ledger at the end."""
    attempts: int
    """The number of strategy calls for its first version."""
    story: str


PARTS = (
    Part(
        node_id="fetch_orders",
        durations=(0.3,),
        seconds=2,
        action="forced_fail",
        ends="FINISHED",
        ledger=("cancelled",),
        attempts=0,
        story="finishes in time",
    ),
    Part(
        node_id="poll_supplier",
        durations=(HANGS,),
        seconds=1,
        action="forced_fail_and_skip",
        ends="FINISHED",
        ledger=("handled",),
        attempts=1,
        story="hangs: failed and skipped",
    ),
    Part(
        node_id="render_pages",
        durations=(0.5,),
        seconds=2,
        action="forced_fail",
        ends="FINISHED",
        ledger=("cancelled",),
        attempts=0,
        story="in a sub-process, finishes in time",
    ),
    Part(
        node_id="upload_pages",
        durations=(HANGS,),
        seconds=1.5,
        action="forced_fail_and_skip",
        ends="FINISHED",
        ledger=("handled",),
        attempts=1,
        story="in a sub-process, hangs: failed and skipped",
    ),
    Part(
        node_id="page_operator",
        durations=(HANGS,),
        seconds=1,
        action=FLAKY_ACTION,
        ends="FINISHED",
        ledger=("handled",),
        attempts=3,
        story="hangs: its strategy fails twice, then succeeds",
    ),
    Part(
        node_id="train_model",
        durations=(HANGS, 0.5),
        seconds=1.2,
        action="forced_fail",
        ends="FINISHED",
        ledger=("handled", "cancelled"),
        attempts=1,
        story="hangs: failed, then retried: version 2 is in time",
    ),
    Part(
        node_id="close_books",
        durations=(HANGS,),
        seconds=1,
        action="forced_fail",
        ends="FAILED",
        ledger=("handled",),
        attempts=1,
        story="hangs: failed, and the pipeline stops here",
    ),
)


class SkipWhenPaged(ForcedFailAndSkipStrategy):
    """A user's strategy whose first two calls fail."""

    async def deal_with_timeout_node(self, node: TimedOutNode) -> StrategyResult:
        if node.attempt <= 2:  # noqa: PLR2004 - "fails twice"
            return StrategyResult(False, f"nobody answers the page ({node.attempt})")
        return await super().deal_with_timeout_node(node)


class _ObservedEngine(DemoEngine):
    """Records when the worker first asked about each node run."""

    def __init__(self, app: NodeTimeout) -> None:
        super().__init__()
        self._app = app
        self.lateness: dict[NodeRun, float] = {}

    async def is_running(self, node: TimedOutNode) -> bool:
        now = await self._app.pool.now()
        self.lateness.setdefault(node.run, now - node.deadline)
        return await super().is_running(node)


async def play(console: Console) -> bool:
    """Play the sample; return whether every node ended as it should. Raises `SettingsError`."""
    try:
        temporary = tempfile.TemporaryDirectory(prefix="node-timeout-demo-")
    except OSError as error:
        raise SettingsError(f"no temporary directory: {error.strerror}; set TMPDIR") from error
    with temporary as directory:
        async with embedded(Path(directory)) as stores:
            settings = stores.settings(
                handlers={FLAKY_ACTION: "node_timeout.embedded.demo:SkipWhenPaged"},
                retry_backoff=0.3,
            )
            async with NodeTimeout(settings) as app:
                return await _play(app, console)


async def _play(app: NodeTimeout, console: Console) -> bool:
    tree = json.loads((files("node_timeout.embedded.demo") / "pipeline.json").read_text())
    configs = {
        part.node_id: {"enable": True, "action": part.action, "seconds": part.seconds}
        for part in PARTS
    }
    tree = app.apply_node_timeout_configs(tree, configs)
    created = await app.batch_create_node_timeout_config(tree["id"], tree)
    console.print(f"{len(created['data'])} timeout configs stored, the pipeline starts\n")
    engine = _ObservedEngine(app)
    app.use_engine(engine)
    stop = asyncio.Event()
    services = asyncio.create_task(app.scan_and_work(stop))
    durations = {part.node_id: list(part.durations) for part in PARTS}
    pipeline = asyncio.create_task(
        engine.run(tree, durations, on_started=_arm(app), on_left=_disarm(app))
    )
    retrying = asyncio.create_task(_retry_when_failed(engine, "train_model"))
    rows: dict[str, list[LedgerRow]] = {}
    until = time.monotonic() + TIME_LIMIT_SECONDS
    live: Any = contextlib.nullcontext()
    if console.is_terminal:
        live = Live(console=console, refresh_per_second=10)
    with live:
        while time.monotonic() < until and not _settled(engine, rows):
            rows = {part.node_id: await app.rows(part.node_id) for part in PARTS}
            if console.is_terminal:
                live.update(_table(engine, rows, console.width))
            await asyncio.sleep(0.1)
    await ended(pipeline, retrying)
    stop.set()
    await services
    if not console.is_terminal:
        console.print(_table(engine, rows, console.width))
    return _summarise(engine, rows, console)


def _arm(app: NodeTimeout) -> Any:
    async def started(run: NodeRun) -> None:
        await app.node_started(run.node_id, run.version, run.root_pipeline_id)

    return started


def _disarm(app: NodeTimeout) -> Any:
    async def left(run: NodeRun) -> None:
        await app.node_left(run.node_id, run.version, run.root_pipeline_id)

    return left


async def _retry_when_failed(engine: DemoEngine, node_id: str) -> None:
    """The operator, who sees the failed node, repairs it and retries."""
    while node_id not in engine.nodes or engine.nodes[node_id].state != "FAILED":  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.4)
    engine.retry(node_id)


def _settled(engine: DemoEngine, rows: dict[str, list[LedgerRow]]) -> bool:
    return all(not _faults(part, engine, rows.get(part.node_id, [])) for part in PARTS)


def _faults(part: Part, engine: DemoEngine, rows: list[LedgerRow]) -> list[str]:
    """How the end of this node differs from the expected one."""
    node = engine.nodes.get(part.node_id)
    state = node.state if node else "not started"
    ledger = tuple(str(row.state) for row in rows)
    faults = []
    if state != part.ends:
        faults.append(f"is {state}, should be {part.ends}")
    if ledger != part.ledger:
        faults.append(f"is {', '.join(ledger) or 'absent'} in the ledger, not {part.ledger}")
    elif rows[0].attempts != part.attempts:
        faults.append(f"took {rows[0].attempts} strategy calls, not {part.attempts}")
    return faults


def _table(engine: _ObservedEngine, rows: dict[str, list[LedgerRow]], width: int) -> Table:
    """One line per node; a narrow terminal does not show the configs."""
    is_wide = width >= WIDE
    table = Table(box=None, pad_edge=False)
    for name in ("node", "timeout", "action", "engine", "ledger (by version)", "late by", "story"):
        if is_wide or name not in ("timeout", "action"):
            justify: Any = "right" if name in ("timeout", "late by") else "left"
            table.add_column(name, justify=justify, no_wrap=name != "story")
    for part in PARTS:
        node = engine.nodes.get(part.node_id)
        state = node.state if node else ""
        table.add_row(
            part.node_id,
            *((f"{part.seconds:g} s", part.action) if is_wide else ()),
            Text(state, style=STYLES.get(state, "")),
            ", ".join(f"{row.version}: {row.state}" for row in rows.get(part.node_id, [])),
            _lateness(part, engine),
            part.story,
        )
    return table


def _lateness(part: Part, engine: _ObservedEngine) -> str:
    late = [each for run, each in engine.lateness.items() if run.node_id == part.node_id]
    return f"{max(late) * 1000:.1f} ms" if late else ""


def _summarise(engine: _ObservedEngine, rows: dict[str, list[LedgerRow]], console: Console) -> bool:
    faults = [
        f"{part.node_id} {fault}"
        for part in PARTS
        for fault in _faults(part, engine, rows.get(part.node_id, []))
    ]
    early = [run.node_id for run, late in engine.lateness.items() if late < 0]
    faults += [f"{node_id} was struck before its deadline" for node_id in early]
    console.print()
    for fault in faults:
        console.print(f"WRONG: {fault}")
    if not faults:
        console.print(
            f"All {len(PARTS)} nodes ended as they should, none early, "
            f"the latest {max(engine.lateness.values()) * 1000:.1f} ms after its deadline."
        )
    return not faults
