"""One bad item costs no other its turn, and few steps."""

from collections.abc import Sequence

import pytest

from node_timeout.domain.errors import LedgerError, LedgerUnavailableError
from node_timeout.runtime.halving import in_halves


async def test_only_what_is_bad_is_refused() -> None:
    bad, steps, refused = {7, 500}, 0, list[int]()

    async def step(some: Sequence[int]) -> Sequence[int]:
        nonlocal steps
        steps += 1
        if bad & set(some):
            raise LedgerError("refused")
        return some

    async def note(item: int, error: LedgerError) -> None:
        assert str(error) == "refused"
        refused.append(item)

    done = await in_halves(range(1000), step, note)
    assert sorted(item for some in done for item in some) == sorted(set(range(1000)) - bad)
    assert refused == [7, 500]
    assert steps <= 2 * 2 * 11


async def test_an_outage_is_not_halved() -> None:
    async def step(some: Sequence[int]) -> None:
        assert len(some) == 2
        raise LedgerUnavailableError("no answer")

    async def note(item: int, error: LedgerError) -> None:
        raise AssertionError((item, error))

    with pytest.raises(LedgerUnavailableError):
        await in_halves([1, 2], step, note)
