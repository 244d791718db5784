"""Django's own connection to the ledger's database: no second one, no thread, no event loop."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db import Error as DjangoDatabaseError
from django.db import connections, transaction

from node_timeout.contrib.bamboo.installed import how_to_make_tables
from node_timeout.domain.errors import LedgerUnavailableError
from node_timeout.urls.redaction import presentable, redact


class DjangoConnection:
    """Raises `LedgerUnavailableError` for every error of the database."""

    def __init__(self, alias: str) -> None:
        """``alias`` names the database in ``DATABASES``."""
        self.alias = alias

    @property
    def _connection(self) -> Any:
        """The connection of this thread or greenlet."""
        return connections[self.alias]

    @property
    def _is_mysql(self) -> bool:
        return bool(self._connection.vendor == "mysql")

    @contextmanager
    def _cursor(self) -> Iterator[Any]:
        """A cursor; in a transaction of the engine, a failure leaves that transaction intact."""
        connection = self._connection
        try:
            if connection.in_atomic_block or not connection.get_autocommit():
                with transaction.atomic(self.alias), connection.cursor() as cursor:
                    yield cursor
            else:
                with connection.cursor() as cursor:
                    yield cursor
        except DjangoDatabaseError as error:
            hint = f"; are its tables made? {how_to_make_tables()}" if _lacks_table(error) else ""
            raise LedgerUnavailableError(
                f"Django's database {self.alias!r}: {redact(str(error)).strip()}{hint}"
            ) from presentable(error)


def _lacks_table(error: Exception) -> bool:
    """By the database's words: PostgreSQL and MySQL "… exist", SQLite "no such table"."""
    said = str(error)
    return "exist" in said or "no such table" in said
