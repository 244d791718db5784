"""The least rights that the documents name are enough for everything, and `check` names a lack."""

import re
import shlex
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aio_pika
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from node_timeout.check import CheckResult, run_checks
from node_timeout.domain.errors import (
    ExchangeUnavailableError,
    LedgerError,
    LedgerUnavailableError,
    PoolUnavailableError,
)
from node_timeout.domain.run import DueRun
from node_timeout.settings import Settings
from node_timeout.stores.rabbitmq.exchange import RabbitExchange
from node_timeout.stores.redis.pool import RedisPool
from node_timeout.stores.sql.ledger import SqlLedger
from node_timeout.stores.sql.schema import Schema
from node_timeout.stores.sql.tables import metadata
from tests.clusters import PostgresPair, RedisCluster, SentinelTrio, redis_call
from tests.integration.test_outages import all_failed, arm, changed, serving
from tests.servers import MariadbServer, RabbitServer, RedisServer
from tests.support import absent, id_of, wait_until

HOW_TO = "docs/how-to/grant-least-rights.md"
ROOT = Path(__file__).parents[2]
PASSWORD = "s3cret-least"
USER = "node_timeout"
# What redis-py does without: the tests take the others away one by one.
BESIDES = {"+ping", "+eval", "+evalsha"}


def page() -> str:
    return (ROOT / HOW_TO).read_text(encoding="utf-8").replace("'password'", f"'{PASSWORD}'")


def sql(title: str) -> list[str]:
    """The statements of a block."""
    (block,) = re.findall(rf"```sql\n-- {title}\n(.*?)```", page(), re.DOTALL)
    return [statement for each in block.split(";") if (statement := each.strip())]


def acl() -> list[str]:
    """The command that makes the Redis user."""
    (command,) = re.findall(r"```text\n(ACL SETUSER .*?)```", page(), re.DOTALL)
    return str(command).replace(">password", f">{PASSWORD}").split()


def acl_additions(purpose: str) -> list[str]:
    (added,) = re.findall(rf"\| `(.+?)` \| {purpose}", page())
    return str(added).replace("\\", "").split()


def rabbitmqctl(user: str) -> list[str]:
    (command,) = re.findall(rf"^rabbitmqctl (set_permissions {user} .*)$", page(), re.MULTILINE)
    return shlex.split(command)


def test_both_languages_name_the_same_rights() -> None:
    blocks = [
        re.findall(r"```.*?```", (ROOT / path).read_text(encoding="utf-8"), re.DOTALL)
        for path in (HOW_TO, HOW_TO.replace("docs/", "docs/zh-CN/"))
    ]
    assert blocks[0] == blocks[1]
    assert blocks[0]


@pytest.mark.parametrize("database", ["PostgreSQL", "MariaDB"])
def test_every_table_is_named(database: str) -> None:
    granted = " ".join(sql(f"{database}, after migrate"))
    named = set(re.findall(r"\bnode_timeout_\w+", granted))
    assert named == {*metadata.tables, "node_timeout_alembic_version"}


async def execute(engine: AsyncEngine, statements: list[str]) -> None:
    async with engine.begin() as connection:
        for statement in statements:
            await connection.execute(text(statement))


def as_user(url: str, user: str) -> str:
    """The URL of another user."""
    return re.sub(r"//.*@", f"//{user}:{quote(PASSWORD, safe='')}@", url)


@pytest.fixture(params=["PostgreSQL", "MariaDB"])
async def database(
    request: pytest.FixtureRequest, create_database: Callable[[str, str], str]
) -> AsyncIterator[tuple[str, str]]:
    """Its kind and URL, with the users of the documents and the tables."""
    kind = str(request.param)
    url = create_database(kind.lower(), "node_timeout")
    owner, migrating = Schema(url), Schema(as_user(url, "node_timeout_migrate"))
    await execute(owner.engine, sql(f"{kind}, before the first migrate"))
    await migrating.migrate()
    await migrating.migrate("base")
    await migrating.migrate()
    # Of what it has made itself it is the owner, but in MariaDB, where nobody is.
    granting = migrating if kind == "PostgreSQL" else owner
    await execute(granting.engine, sql(f"{kind}, after migrate"))
    yield kind, url
    await migrating.close()
    if kind == "PostgreSQL":
        drop = [f"DROP OWNED BY {USER}, {USER}_migrate", f"DROP ROLE {USER}, {USER}_migrate"]
    else:
        drop = [f"DROP USER {USER}@'%', {USER}_migrate@'%'", "DROP DATABASE node_timeout"]
    await execute(owner.engine, drop)
    await owner.close()
    if kind == "PostgreSQL":
        beside = Schema(url.replace("/node_timeout", "/postgres"))
        async with beside.engine.connect() as connection:
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            await connection.execute(text("DROP DATABASE node_timeout WITH (FORCE)"))
        await beside.close()


@pytest.fixture
async def redis_user(tmp_path: Path) -> AsyncIterator[RedisServer]:
    with RedisServer(tmp_path) as server:
        redis_call(server, *acl())
        redis_call(server, "ACL", "SETUSER", "default", "off")
        yield server


@pytest.fixture
def vhost(rabbit_server: RabbitServer) -> Iterator[str]:
    """A URL of the user with the rights of the documents, in a virtual host of its own."""
    name = f"least-{uuid.uuid4().hex[:8]}"
    rabbit_server.ctl("add_vhost", name)
    for user in (USER, f"{USER}_events"):
        rabbit_server.ctl("add_user", user, PASSWORD)
        command, *arguments = rabbitmqctl(user)
        rabbit_server.ctl(command, "-p", name, *arguments)
    yield as_user(rabbit_server.url, USER) + name
    for user in (USER, f"{USER}_events"):
        rabbit_server.ctl("delete_user", user)
    rabbit_server.ctl("delete_vhost", name)


@pytest.fixture
def least(redis_user: RedisServer, vhost: str, database: tuple[str, str]) -> Settings:
    return Settings(
        database_url=as_user(database[1], USER),
        redis_url=f"redis://{USER}:{PASSWORD}@127.0.0.1:{redis_user.port}/0",
        amqp_url=vhost,
        engine="dry_run",
        reconcile_pause=0.2,
    )


@pytest.mark.parametrize("shards", [1, 3])
async def test_everything_works_with_the_documented_rights(
    least: Settings, shards: int, caplog: pytest.LogCaptureFixture
) -> None:
    least = changed(least, pool_shards=shards)
    async with serving(least) as (app, engine):
        await wait_until(app.pool.ledger_id)
        await arm(app, engine, 0.3, *(f"n{i}" for i in range(20)))
        await arm(app, engine, 60, "leaves")
        assert await app.node_left("leaves", "v1") == 1
        await all_failed(engine, 20)
        assert await absent(app.pool, [id_of("leaves")]) == [id_of("leaves")]
        for result in await run_checks(least):
            assert result.passed, result
    warned = {record.getMessage() for record in caplog.records if record.levelname != "INFO"}
    assert {text for text in warned if not text.startswith("Redis is new")} == set()


async def test_the_runtime_user_cannot_migrate(database: tuple[str, str]) -> None:
    schema = Schema(as_user(database[1], USER))
    with pytest.raises((LedgerError, LedgerUnavailableError), match=r"denied|must be owner"):
        await schema.migrate("base")
    await schema.close()


@pytest.mark.parametrize("right", ["SELECT", "INSERT", "UPDATE", "DELETE"])
async def test_a_right_on_rows_that_is_missing_is_named(
    database: tuple[str, str], right: str
) -> None:
    kind, url = database
    schema = Schema(url)
    host = "" if kind == "PostgreSQL" else "@'%'"
    table = "node_timeout_run" if kind == "PostgreSQL" else "node_timeout.node_timeout_run"
    await execute(schema.engine, [f"REVOKE {right} ON {table} FROM {USER}{host}"])
    ledger = SqlLedger(as_user(url, USER))
    named = "UPDATE|SELECT|DELETE" if right == "SELECT" else right
    with pytest.raises(LedgerError, match=rf"({named}) on node_timeout_run is refused: .*denied"):
        await ledger.probe()
    await ledger.close()
    await schema.close()


async def test_a_probe_keeps_nothing(any_ledger: SqlLedger) -> None:
    await any_ledger.probe()
    assert await any_ledger.settings() == {}
    async with any_ledger.engine.connect() as connection:
        for table in metadata.tables:
            found = await connection.execute(text(f"SELECT count(*) FROM {table}"))
            assert found.scalar_one() == 0


async def one(results: list[CheckResult], name: str) -> CheckResult:
    (found,) = [result for result in results if result.name == name]
    assert "\n" not in found.text
    return found


async def test_check_fails_at_a_standby(settings: Settings, tmp_path: Path) -> None:
    with PostgresPair(tmp_path) as pair:
        url = pair.create_database("node_timeout")
        schema = Schema(url)
        await schema.migrate()
        await schema.close()
        standby = url.replace(
            url.partition("@")[2].partition("/")[0], f"127.0.0.1:{pair.standby.port}"
        )
        ledger = SqlLedger(standby)
        # What the primary has, the standby soon has as well.
        await wait_until(lambda: _has_schema(ledger), 20)
        await ledger.close()
        found = await one(await run_checks(changed(settings, database_url=standby)), "database")
    assert not found.passed
    assert "INSERT on node_timeout_config is refused" in found.text
    assert "read-only transaction" in found.text


async def _has_schema(ledger: SqlLedger) -> bool:
    try:
        return bool(await ledger.check_schema())
    except Exception:  # noqa: BLE001 - not yet
        return False


async def test_check_fails_at_a_mariadb_that_takes_no_writes(
    settings: Settings, tmp_path: Path
) -> None:
    with MariadbServer(tmp_path) as server:
        schema = Schema(server.url)
        await schema.migrate()
        await execute(
            schema.engine,
            [
                f"CREATE USER plain@'%' IDENTIFIED BY '{PASSWORD}'",
                "GRANT ALL ON test.* TO plain@'%'",
                "SET GLOBAL read_only = 1",
            ],
        )
        url = as_user(server.url, "plain")
        found = await one(await run_checks(changed(settings, database_url=url)), "database")
        await schema.close()
    assert not found.passed
    assert "INSERT on node_timeout_config is refused" in found.text
    assert "read-only" in found.text


async def test_check_fails_at_a_file_that_may_only_be_read(
    settings: Settings, tmp_path: Path
) -> None:
    schema = Schema(f"sqlite:///{tmp_path / 'x.db'}")
    await schema.migrate()
    await schema.close()
    ledger = SqlLedger(f"sqlite:///{tmp_path / 'x.db'}")
    async with ledger.engine.connect() as connection:
        await connection.exec_driver_sql("PRAGMA query_only = ON")
    with pytest.raises(LedgerError, match="INSERT on node_timeout_config is refused"):
        await ledger.probe()
    await ledger.close()


async def least_pool(server: RedisServer, shards: int = 1) -> RedisPool:
    return RedisPool(
        f"redis://{USER}:{PASSWORD}@127.0.0.1:{server.port}/0", "executing_node_pool", shards
    )


@pytest.mark.parametrize("right", sorted({part for part in acl() if part[0] in "+~&"} - BESIDES))
async def test_each_right_in_redis_is_needed_and_its_lack_is_named(
    tmp_path: Path, right: str
) -> None:
    shards = 2 if "*" in right else 1
    with RedisServer(tmp_path) as server:
        redis_call(server, *(part for part in acl() if part != right))
        pool = await least_pool(server, shards)
        with pytest.raises(PoolUnavailableError, match="Redis refuses ") as error:
            await pool.probe()
        assert right.startswith("+") is (right[1:].upper() in str(error.value)), error.value
        await pool.close()
        assert redis_call(server, "DBSIZE") == 0


@pytest.mark.parametrize("right", ["+eval", "+evalsha"])
async def test_scripts_that_are_not_allowed_are_named(tmp_path: Path, right: str) -> None:
    with RedisServer(tmp_path) as server:
        redis_call(server, *(part for part in acl() if part != right))
        pool = await least_pool(server)
        with pytest.raises(PoolUnavailableError, match=f"'{right[1:]}'"):
            await pool.probe()
        await pool.close()


async def test_a_probe_leaves_a_pool_as_it_is(pool: RedisPool, redis: Any) -> None:
    await pool.arm([DueRun(run_id=id_of("a"), due_at=1.0)])
    await pool.may_have_lost_data()
    await pool.mark_reconciled()
    assert await pool.lead("reconciler", "someone", 30)

    async def everything() -> dict[bytes, bytes]:
        return {key: await redis.dump(key) for key in await redis.keys()}

    before = await everything()
    await pool.probe()
    assert await everything() == before
    assert not await pool.lead("reconciler", "another", 30)


async def test_a_lead_that_cannot_be_given_up_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with RedisServer(tmp_path) as server:
        redis_call(server, *acl(), "-del")
        pool = await least_pool(server)
        assert await pool.lead("reconciler", "me", 30)
        await pool.resign("reconciler", "me")
        await pool.close()
    assert "the lead of the reconciler ends by its time only" in caplog.text


async def test_wake_ups_that_are_not_allowed_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with RedisServer(tmp_path) as server:
        redis_call(server, *acl(), "-subscribe")
        pool = await least_pool(server)
        await pool.shards[0].wait(0)
        await wait_until(lambda: "no wake-ups" in caplog.text)
        await pool.close()


async def test_check_fails_at_a_replica(settings: Settings, tmp_path: Path) -> None:
    with RedisServer(tmp_path) as primary, RedisServer(tmp_path) as replica:
        redis_call(replica, "REPLICAOF", "127.0.0.1", primary.port)
        await wait_until(
            lambda: "master_link_status:up" in _text(redis_call(replica, "INFO", "replication")), 30
        )
        found = await one(await run_checks(changed(settings, redis_url=replica.url)), "redis")
    assert not found.passed
    assert found.text.startswith("Redis takes no writes: it is a replica")


def _text(info: Any) -> str:
    if isinstance(info, dict):
        return " ".join(f"{name}:{value}" for name, value in info.items())
    return str(info)


@pytest.mark.parametrize("shards", [1, 4])
async def test_the_documented_rights_are_enough_in_a_cluster(tmp_path: Path, shards: int) -> None:
    with RedisCluster(tmp_path) as cluster:
        for server in cluster.servers:
            redis_call(server, *acl(), *acl_additions("a cluster"))
        url = re.sub(r"//(.*@)?", f"//{USER}:{PASSWORD}@", cluster.url)
        pool = RedisPool(url, "executing_node_pool", shards)
        await pool.probe()
        assert await pool.arm([DueRun(run_id=id_of("a"), due_at=1.0)]) == 1
        await pool.close()
        for server in cluster.servers:
            redis_call(server, "ACL", "SETUSER", USER, "-publish")
        pool = RedisPool(url, "executing_node_pool", shards)
        with pytest.raises(PoolUnavailableError, match="Redis refuses PUBLISH"):
            await pool.probe()
        await pool.close()


async def test_the_documented_rights_are_enough_behind_sentinels(tmp_path: Path) -> None:
    with SentinelTrio(tmp_path) as trio:
        for server in trio.stores:
            redis_call(server, *acl())
        pool = RedisPool(
            re.sub(r"//(.*@)?", f"//{USER}:{PASSWORD}@", trio.url), "executing_node_pool"
        )
        await pool.probe()
        await pool.close()


def exchange(url: str, *more: str) -> RabbitExchange:
    name = "node_timeout.dispatch"
    return RabbitExchange(url, exchange=name, queues=[name, *more], queue_type="quorum")


def jobs(url: str) -> RabbitExchange:
    return RabbitExchange(
        url, exchange="node_timeout.dispatch", queues=["jobs"], queue_type="quorum"
    )


async def declared(exchange: RabbitExchange) -> None:
    await exchange.ensure()
    await exchange.close()


@pytest.mark.parametrize(
    ("configure", "write", "read", "lacks"),
    [
        ("^$", ".*", ".*", "declare and bind exchange 'node_timeout.dispatch.dead'"),
        (
            ".*",
            r"^node_timeout\.dispatch\.",
            ".*",
            "declare and bind queue 'node_timeout.dispatch'",
        ),
        (".*", "check|dead$|slow|quick", ".*", "declare and bind queue 'node_timeout.dispatch'"),
        (".*", ".*", "^$", "declare and bind queue 'node_timeout.dispatch.dead'"),
        (
            ".*",
            ".*",
            r"^node_timeout\.dispatch(\.dead|\.check.*)?$",
            r"consume from queue 'node_timeout.slow' \(read\)",
        ),
        (
            ".*",
            r"^node_timeout\.(slow|dispatch(\.dead)?)$",
            ".*",
            r"bind queue 'node_timeout.dispatch.check.*' to exchange 'node_timeout.dispatch'",
        ),
    ],
)
async def test_a_right_in_rabbitmq_that_is_missing_is_named(
    vhost: str, rabbit_server: RabbitServer, configure: str, write: str, read: str, lacks: str
) -> None:
    await declared(exchange(vhost, "node_timeout.slow"))
    name = vhost.rpartition("/")[2]
    rabbit_server.ctl("set_permissions", "-p", name, USER, configure, write, read)
    limited = exchange(vhost, "node_timeout.slow")
    with pytest.raises(ExchangeUnavailableError, match=f"its user has no right to {lacks}"):
        await limited.probe()
    await limited.close()


@pytest.mark.parametrize("target", ["node_timeout.dispatch", "node_timeout.dispatch.dead"])
async def test_the_right_to_write_to_an_exchange_is_seen(
    vhost: str, rabbit_server: RabbitServer, target: str
) -> None:
    """With queues of other names, as the right to a queue's name is the right to an exchange's."""
    name = vhost.rpartition("/")[2]
    rabbit_server.ctl("set_permissions", "-p", name, USER, ".*", ".*", ".*")
    await declared(jobs(vhost))
    others = "^(jobs.*" + "".join(
        f"|{each}"
        for each in ("node_timeout.dispatch", "node_timeout.dispatch.dead")
        if each != target
    )
    rabbit_server.ctl("set_permissions", "-p", name, USER, ".*", others + ")$", ".*")
    limited = jobs(vhost)
    what = rf"its user has no right to publish to exchange '{target}' \(write\)"
    with pytest.raises(ExchangeUnavailableError, match=what):
        await limited.probe()
    await limited.close()


async def test_a_probe_moves_no_message_of_others(vhost: str, rabbit_server: RabbitServer) -> None:
    probed = exchange(vhost, "node_timeout.slow")
    for queue in ("node_timeout.dispatch", "node_timeout.slow"):
        await probed.publish(queue, b"{}", 5)
    await probed.dead_letter(b"{}", "test")
    await probed.probe()
    async with probed.consume({"node_timeout.dispatch": 5, "node_timeout.slow": 5}) as consumer:
        for _ in range(2):
            (delivery,) = await consumer.get(1)
            message: Any = delivery
            assert not message._message.redelivered
            await delivery.ack()
    assert (await probed.depths())["node_timeout.dispatch.dead"] == 1
    await probed.close()
    listed = rabbit_server.ctl("list_queues", "-p", vhost.rpartition("/")[2], "--quiet", "name")
    assert sorted(listed.split()[1:]) == [
        "node_timeout.dispatch",
        "node_timeout.dispatch.dead",
        "node_timeout.slow",
    ]


async def test_an_engine_may_be_left_with_the_right_to_publish(vhost: str) -> None:
    ours = exchange(vhost, "node_timeout.events")
    await ours.ensure()
    connection = await aio_pika.connect(vhost.replace(f"{USER}:", f"{USER}_events:"))
    channel = await connection.channel()
    target = await channel.get_exchange("node_timeout.dispatch", ensure=False)
    await target.publish(aio_pika.Message(b"{}"), "node_timeout.events", mandatory=True)
    await connection.close()
    assert await ours.waiting("node_timeout.events") == 1
    await ours.close()
