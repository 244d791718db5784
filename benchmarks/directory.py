"""What `node-timeout list` costs in a large ledger: milliseconds of a page, for each filter.

Run: python -m benchmarks.directory [--rows 10000000] [--on mariadb]

Most rows are closed, as in a ledger that has run for long. Each filter is asked for its first page
and for one far behind it, of 50 runs; medians and the slowest of 20 in turn.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path

from sqlalchemy import text

from benchmarks.stores import Servers
from node_timeout.domain.run import RunState
from node_timeout.ports.directory import Cursor, RunFilter
from node_timeout.stores.sql.ledger import SqlLedger
from node_timeout.stores.sql.schema import Schema

PAGE = 50
TIMES = 20
FIRST = 1_800_000_000.0
PER_ROOT = 100
STEP = 500_000
"""Rows of one statement."""

# Of 100 rows 90 are handled, 5 cancelled, 1 dead, 4 armed; a row each second.
POSTGRESQL = """
INSERT INTO node_timeout_run (run_id, root_pipeline_id, node_id, version, action, state, started_at,
  deadline, next_at, attempts, revision, finished_at, message)
SELECT md5(i::text)::uuid, 'r' || i / {per_root}, 'n' || i, '1', 'forced_fail',
  CASE WHEN i % 100 < 90 THEN 'handled' WHEN i % 100 < 95 THEN 'cancelled'
    WHEN i % 100 < 96 THEN 'dead' ELSE 'armed' END,
  {first} + i, {first} + i + 60, CASE WHEN i % 100 < 96 THEN NULL ELSE {first} + i + 60 END, 1, 0,
  CASE WHEN i % 100 < 96 THEN {first} + i + 60 END, 'failed'
FROM generate_series({start}, {start} + {step} - 1) AS i
"""
MARIADB = """
INSERT INTO node_timeout_run (run_id, root_pipeline_id, node_id, version, action, state, started_at,
  deadline, next_at, attempts, revision, finished_at, message)
SELECT UNHEX(MD5(seq)), CONCAT('r', seq DIV {per_root}), CONCAT('n', seq), '1', 'forced_fail',
  CASE WHEN seq % 100 < 90 THEN 'handled' WHEN seq % 100 < 95 THEN 'cancelled'
    WHEN seq % 100 < 96 THEN 'dead' ELSE 'armed' END,
  {first} + seq, {first} + seq + 60, CASE WHEN seq % 100 < 96 THEN NULL ELSE {first} + seq + 60 END,
  1, 0, CASE WHEN seq % 100 < 96 THEN {first} + seq + 60 END, 'failed'
FROM seq_{start}_to_{last}
"""


async def fill(ledger: SqlLedger, database: str, rows: int) -> None:
    statement = POSTGRESQL if database == "postgresql" else MARIADB
    for start in range(0, rows, STEP):
        filled = statement.format(
            start=start, step=STEP, last=start + STEP - 1, first=FIRST, per_root=PER_ROOT
        )
        async with ledger.engine.begin() as connection:
            await connection.execute(text(filled))
    async with ledger.engine.connect() as connection:
        analyze = "ANALYZE" if database == "postgresql" else "ANALYZE TABLE"
        await connection.execute(text(f"{analyze} node_timeout_run"))
        await connection.commit()


async def measure(ledger: SqlLedger, rows: int) -> None:
    middle = FIRST + rows // 2
    filters = {
        "--state armed": RunFilter(state=RunState.ARMED),
        "--state handled": RunFilter(state=RunState.HANDLED),
        "--state dead": RunFilter(state=RunState.DEAD),
        "--due-within": RunFilter(due_by=middle + rows),
        "--root": RunFilter(root_pipeline_id=f"r{rows // 2 // PER_ROOT}"),
        "--root --state handled": RunFilter(
            root_pipeline_id=f"r{rows // 2 // PER_ROOT}", state=RunState.HANDLED
        ),
        "--node": RunFilter(node_id=f"n{rows // 2}"),
    }
    print("| filter | first page, ms | page in the middle, ms |")
    print("|---|---:|---:|")
    for name, wanted in filters.items():
        cells = []
        for after in (None, Cursor(middle, "0" * 26)):
            took = []
            for _ in range(TIMES):
                began = time.perf_counter()
                await ledger.find(wanted, PAGE, after)
                took.append(1000 * (time.perf_counter() - began))
            cells.append(f"{statistics.median(took):.1f} ({max(took):.1f})")
        print(f"| `{name}` | {' | '.join(cells)} |", flush=True)


async def run(url: str, database: str, rows: int) -> None:
    schema = Schema(url)
    await schema.migrate()
    await schema.close()
    ledger = SqlLedger(url)
    began = time.perf_counter()
    await fill(ledger, database, rows)
    print(f"{rows:,} rows on {database}, filled in {time.perf_counter() - began:.0f} s\n")
    await measure(ledger, rows)
    await ledger.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000_000, help=f"a multiple of {STEP:,}")
    parser.add_argument("--on", choices=["postgresql", "mariadb"], default="postgresql")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as directory,
        Servers(Path(directory), options.on).running() as servers,
    ):
        asyncio.run(run(servers.fresh().database, options.on, options.rows))


if __name__ == "__main__":
    main()
