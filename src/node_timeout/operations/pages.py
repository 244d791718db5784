"""Walking through the directory, page by page."""

from collections.abc import AsyncIterator

from node_timeout.domain.run import LedgerRow
from node_timeout.ports.directory import Cursor, Directory, RunFilter

BATCH_SIZE = 500


async def pages(directory: Directory, wanted: RunFilter) -> AsyncIterator[tuple[LedgerRow, ...]]:
    """All runs that are wanted, oldest first, `BATCH_SIZE` at a time.

    What is changed between two pages never makes it go on for ever.
    """
    after: Cursor | None = None
    while True:
        page = await directory.find(wanted, BATCH_SIZE, after)
        if page.rows:
            yield page.rows
        after = page.after
        if after is None:
            return
