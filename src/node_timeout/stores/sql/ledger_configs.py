"""Timeout configs in a SQL database, and what all parts of the ledger need."""

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Select, Table, and_, delete, func, literal, or_, select, union_all, update
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from node_timeout.domain.changes import OPEN
from node_timeout.domain.errors import SchemaError
from node_timeout.domain.roots import first_and_last
from node_timeout.domain.run import Node, RunState
from node_timeout.domain.timeout_config import TimeoutConfig
from node_timeout.stores.sql.database import create_engine, dispose, in_autocommit, transaction
from node_timeout.stores.sql.run_rows import Keys, chunks, config_of, config_values
from node_timeout.stores.sql.tables import HEAD_REVISION, runs, versions
from node_timeout.stores.sql.tables import configs as config_table
from node_timeout.stores.sql.unicode import require_unicode
from node_timeout.stores.tls import Tls


class LedgerConfigs:
    """The part of `node_timeout.ports.Ledger` that is about configs."""

    def __init__(self, url: str, *, tls: Tls | None = None) -> None:
        self.engine = create_engine(url, tls)
        self.autocommit_engine = in_autocommit(self.engine)
        self._is_mysql = self.engine.dialect.name in ("mysql", "mariadb")
        self._is_postgresql = self.engine.dialect.name == "postgresql"
        self._keys = Keys(arrays=self._is_postgresql)

    async def close(self) -> None:
        await dispose(self.engine)

    @transaction
    async def check_schema(self, connection: AsyncConnection) -> str:
        """Return the revision of the tables. Raises `SchemaError` unless this version can use it.

        It can use its own revision, and a later one whose name allows it: ``0007_since_0005``
        serves versions that were made for 0005 or later.
        """
        await require_unicode(connection)
        found = (await connection.execute(select(versions.c.version_num))).scalar_one_or_none()
        oldest = (found or "").partition("_since_")[2]
        serves = oldest.isdigit() and int(oldest) <= int(HEAD_REVISION.partition("_")[0])
        if found != HEAD_REVISION and not serves:
            raise SchemaError(
                f"the database is at revision {found or 'none'}, this version needs "
                f"{HEAD_REVISION}; run: node-timeout migrate"
            )
        return str(found)

    @transaction
    async def save_configs(
        self,
        connection: AsyncConnection,
        configs: Sequence[TimeoutConfig],
        disabled: Sequence[Node],
    ) -> None:
        rows = [*map(config_values, sorted(configs, key=lambda each: each.node))]
        columns = ("action", "timeout", "payload_json", "expires_at")
        for chunk in chunks(rows):
            await connection.execute(self._insert(config_table, replace=columns), list(chunk))
        for nodes in chunks(sorted(disabled)):
            await connection.execute(
                delete(config_table).where(*self._keys.of_nodes(nodes, config_table))
            )

    @transaction
    async def end_root(
        self, connection: AsyncConnection, root_pipeline_id: str, expires_at: float
    ) -> int:
        result = await connection.execute(
            update(config_table)
            .where(
                config_table.c.root_pipeline_id == root_pipeline_id,
                config_table.c.expires_at.is_(None),
            )
            .values(expires_at=expires_at)
        )
        return result.rowcount

    @transaction
    async def forget_root(
        self,
        connection: AsyncConnection,
        root_pipeline_id: str,
        node_ids: Sequence[str] | None = None,
    ) -> int:
        its_own = delete(config_table).where(config_table.c.root_pipeline_id == root_pipeline_id)
        if node_ids is None:
            return (await connection.execute(its_own)).rowcount
        forgotten = 0
        for some in chunks(sorted(set(node_ids))):
            these = its_own.where(self._keys.among(config_table.c.node_id, some))
            forgotten += (await connection.execute(these)).rowcount
        return forgotten

    @transaction
    async def purge_configs(self, connection: AsyncConnection, now: float, limit: int) -> int:
        root, node_id = config_table.c.root_pipeline_id, config_table.c.node_id
        expired = config_table.c.expires_at < now
        found = await connection.execute(
            select(root, node_id).where(expired).order_by(config_table.c.expires_at).limit(limit)
        )
        nodes = sorted((row.root_pipeline_id, row.node_id) for row in found)
        purged = 0
        for chunk in chunks(nodes):
            result = await connection.execute(
                delete(config_table).where(*self._keys.of_nodes(chunk, config_table), expired)
            )
            purged += result.rowcount
        return purged

    @transaction
    async def add_configs(
        self, connection: AsyncConnection, configs: Sequence[TimeoutConfig]
    ) -> int:
        there = await self._configs(connection, (config.node for config in configs))
        new = {config.node: config_values(config) for config in configs}
        rows = [new[node] for node in sorted(new) if node not in there]
        for chunk in chunks(rows):
            await connection.execute(self._insert(config_table), list(chunk))
        return len(rows)

    @transaction
    async def configs(
        self, connection: AsyncConnection, nodes: Sequence[Node]
    ) -> dict[Node, TimeoutConfig]:
        return await self._configs(connection, nodes)

    async def _configs(
        self, connection: AsyncConnection, nodes: Iterable[Node]
    ) -> dict[Node, TimeoutConfig]:
        found: dict[Node, TimeoutConfig] = {}
        for chunk in chunks(sorted(set(nodes))):
            rows = await connection.execute(
                select(config_table).where(*self._keys.of_nodes(chunk, config_table))
            )
            configs = map(config_of, rows)
            wanted = set(chunk)
            found |= {config.node: config for config in configs if config.node in wanted}
        return found

    @transaction
    async def roots(
        self, connection: AsyncConnection, node_ids: Sequence[str], *, of_open_runs: bool = False
    ) -> dict[str, tuple[str, ...]]:
        return await self._roots(connection, node_ids, of_open_runs=of_open_runs)

    async def _roots(
        self, connection: AsyncConnection, node_ids: Iterable[str], *, of_open_runs: bool = False
    ) -> dict[str, tuple[str, ...]]:
        roots: dict[str, tuple[str, ...]] = {}
        for chunk in chunks(sorted(set(node_ids))):
            is_live = config_table.c.expires_at.is_(None)
            queries = [
                self._roots_in(config_table, chunk, 1).where(is_live),
                self._roots_in(config_table, chunk, 0).where(~is_live),
            ]
            if of_open_runs:
                is_open = runs.c.state.in_((*OPEN, RunState.EXECUTING))
                queries.append(self._roots_in(runs, chunk, 1).where(is_open))
            found: dict[str, dict[int, set[str]]] = {}
            for row in await connection.execute(union_all(*queries)):
                of_node = found.setdefault(row.node_id, {0: set(), 1: set()})
                of_node[row.is_live] |= {row.first, row.last}
            for node_id, of_node in found.items():
                roots[node_id] = first_and_last(of_node[1], of_node[0])
        return roots

    def _roots_in(self, table: Table, node_ids: Sequence[str], is_live: int) -> Select[Any]:
        root = table.c.root_pipeline_id
        return (
            select(
                table.c.node_id,
                func.min(root).label("first"),
                func.max(root).label("last"),
                literal(is_live).label("is_live"),
            )
            .where(self._keys.among(table.c.node_id, node_ids))
            .group_by(table.c.node_id)
        )

    @transaction
    async def configured(
        self, connection: AsyncConnection, after: Node | None, limit: int
    ) -> list[Node]:
        root, node_id = config_table.c.root_pipeline_id, config_table.c.node_id
        is_live = config_table.c.expires_at.is_(None)
        query = select(root, node_id).where(is_live).order_by(root, node_id).limit(limit)
        if after is not None:
            later = or_(root > after[0], and_(root == after[0], node_id > after[1]))
            query = query.where(root >= after[0], later)
        found = await connection.execute(query)
        return [(row.root_pipeline_id, row.node_id) for row in found]

    def _insert(self, table: Any, replace: Sequence[str] = ()) -> Any:
        """INSERT that keeps an existing row with the same key, except the ``replace`` columns."""
        if self._is_mysql:
            insert = mysql.insert(table)
            first = next(iter(table.primary_key))
            updates = [(name, insert.inserted[name]) for name in replace]
            return insert.on_duplicate_key_update(updates or [(first.name, first)])
        if self._is_postgresql:
            other: Any = postgresql.insert(table)
        else:
            other = sqlite.insert(table)
        keys = list(table.primary_key)
        if not replace:
            return other.on_conflict_do_nothing(index_elements=keys)
        return other.on_conflict_do_update(
            index_elements=keys, set_={name: other.excluded[name] for name in replace}
        )
