"""Timeout configs through Django's own connection."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from django.db import transaction

from node_timeout.contrib.bamboo.django_connection import DjangoConnection
from node_timeout.domain.run import Node
from node_timeout.domain.timeout_config import TimeoutConfig
from node_timeout.stores.ledger_rows import CONFIG_COLUMNS, CONFIGS

CONFIGS_PER_STATEMENT = 150
"""SQLite allows 999 values in one statement."""


class DjangoConfigs(DjangoConnection):
    """The part of `DjangoLedger` that is about configs."""

    def configs_of(self, root_pipeline_id: str) -> dict[str, TimeoutConfig]:
        """The configs of a root by node id; one indexed read."""
        with self._cursor() as cursor:
            cursor.execute(
                f"SELECT {', '.join(CONFIG_COLUMNS)} FROM {CONFIGS} WHERE root_pipeline_id = %s",
                [root_pipeline_id],
            )
            found = (TimeoutConfig(**dict(zip(CONFIG_COLUMNS, row))) for row in cursor.fetchall())
            return {config.node_id: config for config in found}

    def roots_of(self, node_id: str) -> list[str]:
        """Root pipelines that have not ended and have a config for the node; two at most."""
        with self._cursor() as cursor:
            cursor.execute(
                f"SELECT root_pipeline_id FROM {CONFIGS} WHERE node_id = %s"
                " AND expires_at IS NULL ORDER BY root_pipeline_id LIMIT 2",
                [node_id],
            )
            return [root for (root,) in cursor.fetchall()]

    def save_configs(self, configs: Sequence[TimeoutConfig], disabled: Sequence[Node]) -> None:
        """Store all of them or none; delete the configs of ``disabled`` nodes."""
        names = ", ".join(CONFIG_COLUMNS)
        rows = [
            [getattr(config, name) for name in CONFIG_COLUMNS]
            for config in sorted(configs, key=lambda config: config.node)
        ]
        with self._cursor() as cursor, transaction.atomic(self.alias):
            for part in _parts(rows):
                places = ", ".join([f"({', '.join(['%s'] * len(CONFIG_COLUMNS))})"] * len(part))
                cursor.execute(
                    f"INSERT INTO {CONFIGS} ({names}) VALUES {places} {self._or_replace()}",
                    [value for row in part for value in row],
                )
            for root, nodes in _by_root(disabled).items():
                self._forget(cursor, root, nodes)

    def forget(self, root_pipeline_id: str, node_ids: Sequence[str] | None = None) -> int:
        """Delete the configs of a root, or of some of its nodes; return how many there were."""
        with self._cursor() as cursor, transaction.atomic(self.alias):
            if node_ids is not None:
                return self._forget(cursor, root_pipeline_id, sorted(set(node_ids)))
            cursor.execute(f"DELETE FROM {CONFIGS} WHERE root_pipeline_id = %s", [root_pipeline_id])
            return int(cursor.rowcount)

    def _forget(self, cursor: Any, root: str, node_ids: Sequence[str]) -> int:
        forgotten = 0
        for some in _parts(node_ids):
            cursor.execute(
                f"DELETE FROM {CONFIGS} WHERE root_pipeline_id = %s"
                f" AND node_id IN ({', '.join(['%s'] * len(some))})",
                [root, *some],
            )
            forgotten += int(cursor.rowcount)
        return forgotten

    def end_root(self, root_pipeline_id: str, expires_at: float) -> int:
        """Let the configs of a root expire at ``expires_at``; return how many had no expiry yet."""
        with self._cursor() as cursor:
            cursor.execute(
                f"UPDATE {CONFIGS} SET expires_at = %s"
                " WHERE root_pipeline_id = %s AND expires_at IS NULL",
                [expires_at, root_pipeline_id],
            )
            return int(cursor.rowcount)

    def _or_replace(self) -> str:
        """The SQL by which a config replaces an older one and then does not expire."""
        names = [name for name in CONFIG_COLUMNS if name not in ("root_pipeline_id", "node_id")]
        if self._is_mysql:
            updates = ", ".join(f"{name} = VALUES({name})" for name in names)
            return f"ON DUPLICATE KEY UPDATE {updates}, expires_at = NULL"
        updates = ", ".join(f"{name} = excluded.{name}" for name in names)
        return f"ON CONFLICT (root_pipeline_id, node_id) DO UPDATE SET {updates}, expires_at = NULL"


def _by_root(nodes: Sequence[Node]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for root, node_id in sorted(nodes):
        found.setdefault(root, []).append(node_id)
    return found


def _parts(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for i in range(0, len(items), CONFIGS_PER_STATEMENT):
        yield items[i : i + CONFIGS_PER_STATEMENT]
