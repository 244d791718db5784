"""EarlyHold: holds nodes that were dispatched ahead until their deadline, and checks the row then.

    taken ──deadline has come──▶ check the row ──still this worker's──▶ attempt
                                        └─────────left meanwhile──────▶ dropped

If a node left RUNNING after it was taken, its run is cancelled in the ledger; the check finds that.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from node_timeout.ports.ledger import Ledger


@dataclass(frozen=True, slots=True, kw_only=True)
class _Held:
    run_id: str
    owner: str
    is_ours: asyncio.Future[bool]


class EarlyHold:
    """Checks in one read all nodes whose deadline has come since the last check."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._due: list[_Held] = []
        self._looking: asyncio.Task[None] | None = None

    async def hold(self, run_id: str, owner: str, seconds: float) -> bool:
        """Wait until the deadline; return whether the run is still this owner's.

        Raises what the read of the ledger raised.
        """
        loop = asyncio.get_running_loop()
        held = _Held(run_id=run_id, owner=owner, is_ours=loop.create_future())
        timer = loop.call_later(seconds, self._has_come, held)
        try:
            return await held.is_ours
        finally:
            timer.cancel()

    def _has_come(self, held: _Held) -> None:
        self._due.append(held)
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())

    async def _look(self) -> None:
        while self._due:
            group, self._due = self._due, []
            await self._answer(group)

    async def _answer(self, group: Sequence[_Held]) -> None:
        owners: dict[str, str] = {}
        failure: Exception | None = None
        try:
            owners = await self._ledger.owners([held.run_id for held in group])
        except Exception as error:  # noqa: BLE001 - whoever waits has to know
            failure = error
        for held in group:
            if held.is_ours.done():
                continue  # cancelled
            if failure:
                held.is_ours.set_exception(failure)
            else:
                held.is_ours.set_result(owners.get(held.run_id) == held.owner)
