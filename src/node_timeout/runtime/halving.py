"""Work in groups, where one bad item does not stop the others."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from node_timeout.domain.errors import LedgerError

Item = TypeVar("Item")
T = TypeVar("T")


async def in_halves(
    items: Sequence[Item],
    step: Callable[[Sequence[Item]], Awaitable[T]],
    refused: Callable[[Item, LedgerError], Awaitable[None]],
) -> list[T]:
    """Run a step with all items; if the ledger refuses them, with each half, down to single items.

    ``refused`` is called with an item that is refused alone. Returns what the steps returned.
    Raises what ``step`` raises, except `LedgerError`, and what ``refused`` raises.
    """
    try:
        return [await step(items)]
    except LedgerError as error:
        if len(items) == 1:
            await refused(items[0], error)
            return []
    half = len(items) // 2
    return [
        *await in_halves(items[:half], step, refused),
        *await in_halves(items[half:], step, refused),
    ]
