"""Taking of due runs in the ledger: workers adopt, take and keep rows.

`node_timeout.domain.lifecycle` decides what becomes of a row. The owner of a lease is its token:
while the lease lasts, the row belongs to this worker only.
"""

import uuid
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy import update as sql_update
from sqlalchemy.ext.asyncio import AsyncConnection

from node_timeout.domain import history
from node_timeout.domain.batches import judge
from node_timeout.domain.errors import AmbiguousNodeError
from node_timeout.domain.lifecycle import adopt
from node_timeout.domain.roots import no_config, only_root
from node_timeout.domain.run import (
    DueRun,
    ForeignRun,
    Node,
    RunState,
    TimedOutNode,
)
from node_timeout.domain.taking import Lease, Taken
from node_timeout.ports.ledger import Adoption, Taking
from node_timeout.stores.ledger_rows import values_of
from node_timeout.stores.sql.database import autocommitting, transaction
from node_timeout.stores.sql.ledger_recording import LedgerRecording
from node_timeout.stores.sql.postgres_fast_paths import TAKE_DUE, take_due_values
from node_timeout.stores.sql.run_rows import chunks, in_order
from node_timeout.stores.sql.tables import runs


class LedgerHandling(LedgerRecording):
    """The part of `node_timeout.ports.ledger.Ledger` that is about taking due runs."""

    async def take(
        self,
        due: Sequence[DueRun],
        *,
        now: float,
        lease_seconds: float,
        max_attempts: int,
        ahead_seconds: float = 0.0,
        owner: str | None = None,
    ) -> Taking:
        lease = Lease(owner=owner or uuid.uuid4().hex, until=now + lease_seconds)
        return await self._take(
            due, lease, now, max_attempts=max_attempts, ahead_seconds=ahead_seconds
        )

    @transaction
    async def _take(
        self,
        connection: AsyncConnection,
        due: Sequence[DueRun],
        lease: Lease,
        now: float,
        *,
        max_attempts: int,
        ahead_seconds: float,
    ) -> Taking:
        taken: list[TimedOutNode] = []
        if self._is_postgresql:
            # Usually this takes all. If the planner changes their order, there may be a deadlock,
            # and the transaction is repeated.
            chosen = in_order(each.run_id for each in due)
            values = take_due_values(chosen, lease, now=now, ahead_seconds=ahead_seconds)
            # Its columns are named as the fields of a row.
            found: Iterable[Any] = await connection.execute(TAKE_DUE, values)
            taken = [TimedOutNode.of(row) for row in found]
            gone = {node.run_id for node in taken}
            due = [each for each in due if each.run_id not in gone]
        rows = await self._locked(connection, (each.run_id for each in due))
        known = {run.run_id for run in rows}
        judged = judge(
            rows.values(), lease, now, max_attempts=max_attempts, ahead_seconds=ahead_seconds
        )
        await self._mark_taken(connection, judged.taken, lease)
        await self._store(connection, judged.given_up)
        await self._note(connection, history.of_taking(judged.abandoned, judged.given_up, now))
        return Taking(
            taken=(*taken, *(TimedOutNode.of(each.row) for each in judged.taken)),
            owner=lease.owner,
            lease_until=lease.until,
            later=tuple(judged.later),
            dropped=judged.dropped,
            given_up=judged.deaths(),
            stolen=len(judged.abandoned),
            unknown=tuple(each for each in due if each.run_id not in known),
        )

    @transaction
    async def adopt(self, connection: AsyncConnection, foreign: Sequence[ForeignRun]) -> Adoption:
        roots = await self._roots(connection, (each.node_id for each in foreign))
        nodes: dict[ForeignRun, Node] = {}
        refused: dict[ForeignRun, str] = {}
        for each in foreign:
            try:
                root = only_root(each.node_id, roots.get(each.node_id, ()))
            except AmbiguousNodeError as error:
                refused[each] = str(error)
            else:
                if root is None:
                    refused[each] = no_config(each.node_id)
                else:
                    nodes[each] = (root, each.node_id)
        configs = await self._configs(connection, nodes.values())
        # A config that was deleted between the two reads counts as no config.
        refused |= {
            each: no_config(each.node_id) for each, node in nodes.items() if node not in configs
        }
        rows = {each: adopt(each, configs[node]) for each, node in nodes.items() if node in configs}
        ordered = sorted(rows.values(), key=lambda row: row.run_id)
        for chunk in chunks([values_of(row) for row in ordered]):
            await connection.execute(self._insert(runs), list(chunk))
        return Adoption(
            due={each: DueRun(run_id=row.run_id, due_at=each.due_at) for each, row in rows.items()},
            refused=refused,
        )

    async def _mark_taken(
        self, connection: AsyncConnection, mine: Sequence[Taken], lease: Lease
    ) -> None:
        new = [each.row.run_id for each in mine if not each.is_repeated]
        for chunk in chunks(in_order(new)):
            await connection.execute(
                sql_update(runs)
                .where(self._keys.of(chunk))
                .values(
                    state=RunState.EXECUTING,
                    next_at=None,
                    lease_until=lease.until,
                    lease_owner=lease.owner,
                    attempts=runs.c.attempts + 1,
                )
            )

    @autocommitting
    async def owners(self, connection: AsyncConnection, chosen: Sequence[str]) -> dict[str, str]:
        owners: dict[str, str] = {}
        for chunk in chunks(chosen):
            found = await connection.execute(
                select(runs.c.run_id, runs.c.lease_owner).where(
                    self._keys.of(chunk), (runs.c.state == RunState.EXECUTING).is_(True)
                )
            )
            owners |= {row.run_id: row.lease_owner for row in found}
        return owners

    @transaction
    async def renew(
        self,
        connection: AsyncConnection,
        chosen: Sequence[str],
        owners: Sequence[str],
        until: float,
    ) -> set[str]:
        renewed: set[str] = set()
        for chunk in chunks(in_order(chosen)):
            ours = (
                self._keys.of(chunk),
                (runs.c.state == RunState.EXECUTING).is_(True),
                runs.c.lease_owner.in_(owners),
            )
            result = await connection.execute(
                sql_update(runs).where(*ours).values(lease_until=until)
            )
            if result.rowcount == len(chunk):
                renewed.update(chunk)
            else:
                found = await connection.execute(select(runs.c.run_id).where(ours[0], ours[-1]))
                renewed.update(found.scalars())
        return renewed
