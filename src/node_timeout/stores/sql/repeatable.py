"""Repeatable steps of migrations: each first checks whether it has been done.

MySQL and MariaDB commit each statement that changes tables, so a killed migration is partly done
while the revision is still the old one. It is then run again from its beginning.
"""

from typing import Any

from alembic import op
from sqlalchemy import Column, inspect


def create_table(name: str, *columns: Column[Any]) -> None:
    if not inspect(op.get_bind()).has_table(name):
        op.create_table(name, *columns)


def drop_table(name: str) -> None:
    if inspect(op.get_bind()).has_table(name):
        op.drop_table(name)


def create_index(name: str, table: str, columns: list[str]) -> None:
    if not _has_index(name, table):
        op.create_index(name, table, columns)


def drop_index(name: str, table: str) -> None:
    if _has_index(name, table):
        op.drop_index(name, table_name=table)


def _has_index(name: str, table: str) -> bool:
    return any(index["name"] == name for index in inspect(op.get_bind()).get_indexes(table))


def add_column(table: str, column: Column[Any]) -> None:
    if not _has_column(table, column.name):
        op.add_column(table, column)


def drop_column(table: str, name: str) -> None:
    if _has_column(table, name):
        op.drop_column(table, name)


def _has_column(table: str, name: str) -> bool:
    return any(column["name"] == name for column in inspect(op.get_bind()).get_columns(table))
