"""Walking through the directory, page by page."""

from collections.abc import AsyncIterator

from node_timeout.domain.run import LedgerRow
from node_timeout.ports.directory import Cursor, Directory, RunFilter

BATCH_SIZE = 500


async def pages(directory: Directory, wanted: RunFilter) -> AsyncIterator[tuple[LedgerRow, ...]]:
    """All matching runs, oldest first, `BATCH_SIZE` at a time.

    It always ends, even if runs change between two pages.
    """
    after: Cursor | None = None
    while True:
        page = await directory.find(wanted, BATCH_SIZE, after)
        if page.rows:
            yield page.rows
        after = page.after
        if after is None:
            return
