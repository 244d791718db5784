"""Migrations run on every database, forwards and back, and match the tables."""

import asyncio
import os
import subprocess
import sys
import uuid
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import inspect

from node_timeout.domain.errors import LedgerUnavailableError, SchemaError, SettingsError
from node_timeout.stores.sql.database import create_engine
from node_timeout.stores.sql.ledger import SqlLedger
from node_timeout.stores.sql.schema import Schema, alembic_config
from node_timeout.stores.sql.tables import HEAD_REVISION, versions
from tests.acceptance.conftest import NODE_TIMEOUT
from tests.conftest import DATABASES
from tests.servers import free_port

ROOT = Path(__file__).parents[2]
STEPS = 6
"""Statements of all migrations, at least."""


@pytest.fixture(params=DATABASES)
def empty_url(
    request: pytest.FixtureRequest, tmp_path: Path, create_database: Callable[[str, str], str]
) -> str:
    """A database without tables."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'empty.db'}"
    return create_database(request.param, f"empty_{uuid.uuid4().hex}")


async def tables(schema: Schema) -> set[str]:
    async with schema.engine.connect() as connection:
        return set(await connection.run_sync(lambda sync: inspect(sync).get_table_names()))


async def test_forwards_back_and_forwards_again(empty_url: str) -> None:
    schema, ledger = Schema(empty_url), SqlLedger(empty_url)
    for call in (ledger.check_schema, lambda: ledger.rows("a")):
        with pytest.raises(SchemaError, match="run: node-timeout migrate"):
            await call()
    for _ in range(2):
        assert await schema.migrate() == HEAD_REVISION
        assert await ledger.check_schema() == HEAD_REVISION
        assert {"node_timeout_config", "node_timeout_run"} <= await tables(schema)
        assert await schema.migrate("base") is None
        assert await tables(schema) == {versions.name}
        with pytest.raises(SchemaError, match="at revision none, this version needs"):
            await ledger.check_schema()
    await schema.close()
    await ledger.close()


def test_the_code_knows_its_newest_migration() -> None:
    assert ScriptDirectory.from_config(alembic_config()).get_current_head() == HEAD_REVISION


async def test_the_migrations_make_the_tables_of_the_code(
    empty_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema = Schema(empty_url)
    await schema.migrate()
    await schema.close()
    monkeypatch.setenv("NODE_TIMEOUT_DATABASE_URL", empty_url)
    # `alembic check`, as a developer runs it; it raises if it finds a difference.
    await asyncio.to_thread(command.check, Config(str(ROOT / "alembic.ini")))


def test_a_migration_that_was_killed_can_be_repeated(empty_url: str) -> None:
    """At each statement, up and down; nowhere is more than one statement lost or done twice."""
    program = [sys.executable, "-m", "tests.integration.migrate_and_die", empty_url]
    done = subprocess.run(program, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 2 * STEPS


def test_several_migrations_at_once_all_end_well(empty_url: str) -> None:
    """As when each process of an installation migrates before it starts."""
    environment = {**os.environ, "NODE_TIMEOUT_DATABASE_URL": empty_url}
    for revision in ("head", "base", "head"):
        processes = [
            subprocess.Popen(
                [*NODE_TIMEOUT, "migrate", "--revision", revision],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for _ in range(4)
        ]
        outputs = {process.communicate(timeout=60)[0] for process in processes}
        reached = HEAD_REVISION if revision == "head" else "none"
        assert outputs == {f"the database is at revision {reached}\n"}
        assert [process.returncode for process in processes] == [0] * 4


async def test_an_unknown_revision_is_refused(tmp_path: Path) -> None:
    schema = Schema(f"sqlite:///{tmp_path / 'x.db'}")
    ledger = SqlLedger(f"sqlite:///{tmp_path / 'x.db'}")
    await schema.migrate()
    async with schema.engine.begin() as connection:
        await connection.execute(versions.update().values(version_num="9999"))
    with pytest.raises(SchemaError, match="at revision 9999, this version needs"):
        await ledger.check_schema()
    await ledger.close()
    with pytest.raises(SchemaError, match="which this version does not know"):
        await schema.migrate()
    await schema.close()


async def test_a_database_that_is_down_is_temporary() -> None:
    for kind in ("postgresql", "mysql"):
        schema = Schema(f"{kind}://me:s3cret@127.0.0.1:{free_port()}/x")
        with pytest.raises(LedgerUnavailableError) as error:
            await schema.revision()
        assert "s3cret" not in str(error.value)
        with pytest.raises(LedgerUnavailableError):
            await schema.migrate()
        await schema.close()


@pytest.mark.parametrize(
    ("url", "driver"),
    [
        ("postgresql://h/x", "postgresql+asyncpg"),
        ("postgres://h/x", "postgresql+asyncpg"),
        ("mysql://h/x", "mysql+aiomysql"),
        ("mariadb://h/x", "mariadb+aiomysql"),
        ("sqlite:///x.db", "sqlite+aiosqlite"),
    ],
)
def test_a_plain_url_picks_the_async_driver(url: str, driver: str) -> None:
    assert create_engine(url).url.drivername == driver


@pytest.mark.parametrize(
    ("driver", "url", "extra"),
    [
        ("asyncpg", "postgresql://h/x", "postgres"),
        ("aiomysql", "mariadb://h/x", "mysql"),
        ("aiosqlite", "sqlite:///x.db", "sqlite"),
    ],
)
def test_a_driver_that_is_not_installed_is_named(
    monkeypatch: pytest.MonkeyPatch, driver: str, url: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, driver, None)
    with pytest.raises(SettingsError, match=f"node-timeout.{extra}"):
        SqlLedger(url)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("oracle://h/x", "has the scheme 'oracle', use one of postgresql"),
        ("://", "NODE_TIMEOUT_DATABASE_URL: is not a URL"),
        ("postgresql+psycopg://h/x", "has the scheme"),
    ],
)
def test_a_url_without_a_driver_is_refused(url: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        SqlLedger(url)


def test_the_migrations_and_scripts_are_inside_the_wheel(tmp_path: Path) -> None:
    pytest.importorskip("hatchling", reason="only where the build backend is installed")
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet"]
    subprocess.run(
        [*build, "--wheel-dir", str(tmp_path), str(ROOT)], check=True, capture_output=True
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert "node_timeout/migrations/env.py" in names
    assert "node_timeout/migrations/versions/first.py" in names
    assert "node_timeout/stores/redis/lua/claim.lua" in names
    assert "node_timeout/embedded/demo/pipeline.json" in names
    assert "node_timeout/py.typed" in names
