"""TLS to every store: what is right works, what is wrong is refused and says why.

The servers' certificates are for ``localhost``; ``127.0.0.1`` is therefore the wrong host.
"""

import asyncio
import contextlib
import gc
import socket
import ssl
import time
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from sqlalchemy import text

from node_timeout.app import NodeTimeout
from node_timeout.check import run_checks
from node_timeout.domain.errors import (
    ExchangeUnavailableError,
    LedgerUnavailableError,
    PoolUnavailableError,
    SettingsError,
    TemporaryError,
)
from node_timeout.settings import Settings
from node_timeout.stores.rabbitmq.exchange import RabbitExchange
from node_timeout.stores.redis.blocking import BlockingPool
from node_timeout.stores.redis.pool import RedisPool
from node_timeout.stores.sql.bamboo_configs import BambooConfigs
from node_timeout.stores.sql.database import create_engine
from node_timeout.stores.sql.ledger import SqlLedger
from node_timeout.stores.sql.schema import Schema
from node_timeout.stores.tls import Tls
from tests.certificates import Authority
from tests.servers import (
    SECRET,
    MariadbServer,
    PostgresServer,
    RabbitServer,
    RedisServer,
    Server,
    free_port,
)
from tests.support import FakeEngine, tree_of, wait_until

STORES = {
    "redis": (RedisServer, PoolUnavailableError),
    "redis-blocking": (RedisServer, PoolUnavailableError),
    "rabbitmq": (RabbitServer, ExchangeUnavailableError),
    "postgresql": (PostgresServer, LedgerUnavailableError),
    "mariadb": (MariadbServer, LedgerUnavailableError),
}


@pytest.fixture(autouse=True)
def _abandoned_handshakes() -> Iterator[None]:
    """Asyncio leaves the transport of a handshake that is cancelled to the collector, which warns.

    It is collected here, and not in some later test.
    """
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@dataclass
class Store:
    """A server over TLS, with a certificate for ``localhost``."""

    name: str
    server: Server
    error: type[TemporaryError]
    authority: Authority

    def present(self, *, expired: bool = False) -> None:
        """Restart with another certificate."""
        issued = self.authority.issue("localhost", expired=expired)
        self.server.stop()
        self.server.use_tls(issued.certificate, issued.key, self.authority.pem)
        self.server.start()

    def tls(self, **others: Any) -> Tls:
        return Tls(**{"ca_file": self.authority.ca_file, "database": True, **others})

    async def use(self, tls: Tls, url: str = "") -> None:
        """Connect as the adapter of this store does, and do a little."""
        if self.name == "redis-blocking":
            with contextlib.closing(
                BlockingPool(url or self.server.url, "tls_pool", tls=tls)
            ) as it:
                it.disarm("nobody")
        else:
            await use(url or self.server.url, tls)


async def use(url: str, tls: Tls) -> None:
    if url.startswith("redis"):
        pool = RedisPool(url, "tls_pool", tls=tls)
        try:
            await pool.ping()
            await pool.shards[0].wait(0)
        finally:
            await pool.close()
    elif url.startswith("amqp"):
        exchange = RabbitExchange(
            url, exchange="tls", queues=["tls"], queue_type="classic", tls=tls
        )
        try:
            await exchange.publish("tls", b"{}", 5)
            async with exchange.consume({"tls": 1}) as consumer:
                (delivery,) = await consumer.get(1)
                await delivery.ack()
        finally:
            await exchange.close()
    else:
        schema = Schema(url, tls=tls)
        try:
            assert await schema.revision() is None
        finally:
            await schema.close()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def start(
    authority: Authority, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Store]]:
    """Each store once, when it is first asked for."""
    stores: dict[str, Store] = {}

    def started(name: str) -> Store:
        if name not in stores:
            kind, error = STORES[name]
            stores[name] = Store(
                name=name,
                server=kind(tmp_path_factory.mktemp(name), password=f"{SECRET}-{name}"),
                error=error,
                authority=authority,
            )
            stores[name].present()
        return stores[name]

    yield started
    for store in stores.values():
        store.server.stop()


@pytest.fixture(params=list(STORES))
def store(request: pytest.FixtureRequest, start: Callable[[str], Store]) -> Store:
    return start(request.param)


def refusal(error: BaseException) -> str:
    """The one line that is told, without anything secret."""
    said = str(error)
    assert SECRET not in said
    assert "\n" not in said
    return said


async def test_a_trusted_certificate_is_accepted(store: Store) -> None:
    await store.use(store.tls())


async def test_an_unknown_authority_is_refused(store: Store, tmp_path: Path) -> None:
    for tls in (store.tls(ca_file=None), store.tls(ca_file=Authority(tmp_path).ca_file)):
        with pytest.raises(store.error) as caught:
            await store.use(tls)
        said = refusal(caught.value)
        assert "its certificate is refused: " in said
        assert "is NODE_TIMEOUT_TLS_CA_FILE right?" in said


async def test_a_wrong_host_is_refused(store: Store) -> None:
    with pytest.raises(store.error) as caught:
        await store.use(store.tls(), store.server.url.replace("localhost", "127.0.0.1"))
    assert "its certificate is refused: IP address mismatch" in refusal(caught.value)


async def test_an_expired_certificate_is_refused_until_it_is_renewed(store: Store) -> None:
    store.present(expired=True)
    try:
        with pytest.raises(store.error) as caught:
            await store.use(store.tls())
        assert "its certificate is refused: certificate has expired" in refusal(caught.value)
    finally:
        store.present()
    await store.use(store.tls())


async def test_a_certificate_is_shown_to_the_server(store: Store) -> None:
    client = store.authority.issue("client")
    await store.use(store.tls(cert_file=client.cert_file, key_file=client.key_file))


async def test_a_redis_that_asks_for_a_certificate_turns_others_away(
    start: Callable[[str], Store],
) -> None:
    store = start("redis")
    client = store.authority.issue("client")
    shown = store.tls(cert_file=client.cert_file, key_file=client.key_file)
    redis = Redis.from_url(store.server.url, ssl_ca_certs=str(store.authority.ca_file))
    await redis.config_set("tls-auth-clients", "yes")
    try:
        await store.use(shown)
        with pytest.raises(PoolUnavailableError) as caught:
            await store.use(store.tls())
        refusal(caught.value)
    finally:
        await redis.config_set("tls-auth-clients", "optional")
        await redis.aclose()


class TlsSentinel(RedisServer):
    """Watches one server, and talks TLS with it and with clients."""

    def watch(self, server: RedisServer) -> None:
        lines = [f"sentinel monitor mymaster 127.0.0.1 {server.port} 1"]
        lines += [f"sentinel auth-pass mymaster {server.password}", "tls-replication yes"]
        lines += ["port 0", f"tls-port {self.port}", "tls-auth-clients optional"]
        lines += [f"tls-{name}-file {self._pem(name)}" for name in ("cert", "key")]
        lines += [f"tls-ca-cert-file {self._pem('ca')}", f"dir {self.directory}"]
        (self.directory / "sentinel.conf").write_text("\n".join(lines) + "\n")

    def _command(self) -> list[str]:
        return [self.program, str(self.directory / "sentinel.conf"), "--sentinel"]


@pytest.mark.parametrize("kind", ["cluster", "sentinel"])
async def test_clusters_and_sentinels_are_verified_too(
    tmp_path: Path, authority: Authority, kind: str
) -> None:
    options = {
        "cluster": ["--cluster-enabled", "yes", "--tls-cluster", "yes"],
        "sentinel": ["--tls-replication", "yes"],
    }
    issued = authority.issue("127.0.0.1")  # what the servers tell of each other
    server = RedisServer(tmp_path, password=SECRET, extra=options[kind])
    sentinel = TlsSentinel(tmp_path)
    for each in (server, sentinel):
        each.use_tls(issued.certificate, issued.key, authority.pem)
    sentinel.watch(server)
    with server, sentinel if kind == "sentinel" else contextlib.nullcontext():
        login = f":{SECRET}@127.0.0.1"
        url = f"rediss+sentinel://{login}:{sentinel.port}/mymaster/0"
        if kind == "cluster":
            url = f"rediss+cluster://{login}:{server.port}"
            bare: Any = Redis.from_url(
                server.url.replace("localhost", "127.0.0.1"), ssl_ca_certs=str(authority.ca_file)
            )
            async with bare:
                await bare.config_set("cluster-announce-ip", "127.0.0.1")
                await bare.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)

                async def is_up() -> bool:
                    return b"cluster_state:ok" in await bare.execute_command("CLUSTER", "INFO")

                await wait_until(is_up)
        await use(url, Tls(ca_file=authority.ca_file))
        with pytest.raises(PoolUnavailableError) as caught:
            await use(url, Tls(ca_file=Authority(tmp_path).ca_file))
        assert "certificate" in refusal(caught.value)


@pytest.mark.parametrize("name", ["rabbitmq", "postgresql"])
async def test_of_several_servers_each_is_verified(
    start: Callable[[str], Store], name: str
) -> None:
    store = start(name)
    good = store.server.url
    bad = good.replace("localhost", "127.0.0.1")
    wrong, right = f"127.0.0.1:{store.server.port}", f"localhost:{store.server.port}"
    several = {
        "rabbitmq": (f"{bad},{good}", f"{bad},{bad}"),
        "postgresql": (
            good.replace(right, f"{wrong},{right}"),
            good.replace(right, f"{wrong},{wrong}"),
        ),
    }
    one_good, none_good = several[name]
    await store.use(store.tls(), one_good)
    with pytest.raises(store.error) as caught:
        await store.use(store.tls(), none_good)
    assert "its certificate is refused: IP address mismatch" in refusal(caught.value)


@pytest.mark.parametrize("name", ["postgresql", "mariadb"])
async def test_the_connection_to_the_database_is_encrypted(
    start: Callable[[str], Store], name: str
) -> None:
    store = start(name)
    questions = {
        "postgresql": "SELECT version FROM pg_stat_ssl WHERE pid = pg_backend_pid()",
        "mariadb": "SELECT variable_value FROM information_schema.session_status"
        " WHERE variable_name = 'ssl_version'",
    }
    engine = create_engine(store.server.url, store.tls())
    async with engine.connect() as connection:
        version = (await connection.execute(text(questions[name]))).scalar_one()
    await engine.dispose()
    assert version.startswith("TLSv1")


@pytest.mark.parametrize("kind", ["redis", "rabbitmq", "postgresql", "mariadb"])
async def test_a_server_without_tls_gets_no_password(
    kind: str, request: pytest.FixtureRequest, authority: Authority
) -> None:
    """Also not where server and client find that out in the clear, as databases do."""
    fixture = {"rabbitmq": "rabbit"}.get(kind, kind.removesuffix("ql")) + "_server"
    server: Server = request.getfixturevalue(fixture)
    url = server.url.replace("redis:", "rediss:").replace("amqp:", "amqps:")
    heard = bytearray()
    async with eavesdropped(server.port, heard) as port:
        url = url.replace(f"127.0.0.1:{server.port}", f"localhost:{port}")
        with pytest.raises(TemporaryError) as caught:
            await use(url, Tls(ca_file=authority.ca_file, database=True))
    said = refusal(caught.value)
    # Redis waits for the end of what it takes for a command.
    assert "TLS" in said or "SSL" in said or "no answer" in said or "Timeout" in said
    for word in (SECRET, "guest", "postgres\0", "test\0", "mysql_native_password"):
        assert word.encode() not in heard


@contextlib.asynccontextmanager
async def eavesdropped(port: int, heard: bytearray) -> AsyncIterator[int]:
    """A port that leads to another one; what clients say is kept."""
    tasks: set[asyncio.Task[None]] = set()

    async def pass_on(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, kept: bytearray
    ) -> None:
        try:
            while data := await reader.read(65536):
                kept += data
                writer.write(data)
                await writer.drain()
        except OSError:
            return
        finally:
            writer.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", port)
        for work in (
            pass_on(reader, there_writer, heard),
            pass_on(there_reader, writer, bytearray()),
        ):
            task = asyncio.create_task(work)
            tasks.add(task)

    proxy = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield proxy.sockets[0].getsockname()[1]
    finally:
        proxy.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_server_that_is_silent_in_the_handshake_is_given_up(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing hangs: the time limits of each adapter hold over TLS too."""
    for limit in (
        "redis.client.SOCKET_SECONDS",
        "rabbitmq.exchange.CONNECT_SECONDS",
        "sql.database.CONNECT_SECONDS",
        "sql.database.STATEMENT_SECONDS",
    ):
        monkeypatch.setattr(f"node_timeout.stores.{limit}", 0.5)
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        url = store.server.url.replace(f":{store.server.port}/", f":{port}/")
        began = time.monotonic()
        with pytest.raises(store.error) as caught:
            await store.use(store.tls(), url)
    refusal(caught.value)
    assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"ca_file": "empty"}, "NODE_TIMEOUT_TLS_CA_FILE: no certificates can be read"),
        ({"cert_file": "empty", "key_file": "key"}, "no certificate with its unencrypted key"),
        ({"cert_file": "cert"}, "no certificate with its unencrypted key"),
        ({"cert_file": "cert", "key_file": "other"}, "KEY_VALUES_MISMATCH"),
        ({"cert_file": "cert", "key_file": "encrypted"}, "no certificate with its unencrypted key"),
    ],
)
def test_a_file_that_is_none_is_named_at_the_start(
    tmp_path: Path, authority: Authority, files: dict[str, str], says: str
) -> None:
    from cryptography.hazmat.primitives import serialization

    client, other = authority.issue("client"), authority.issue("other")
    key = serialization.load_pem_private_key(client.key, None)
    contents = {
        "empty": b"",
        "cert": client.certificate,
        "key": client.key,
        "other": other.key,
        "encrypted": key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"s3cret"),
        ),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    arguments: Any = {what: tmp_path / name for what, name in files.items()}
    with pytest.raises(SettingsError) as caught:
        _ = Tls(**arguments).context
    assert says in refusal(caught.value)


def test_the_context_verifies_everything(authority: Authority) -> None:
    context = Tls(ca_file=authority.ca_file).context
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert len(context.get_ca_certs()) == 1, "no other authority is trusted"
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2


@pytest.fixture
async def tls_settings(start: Callable[[str], Store], authority: Authority) -> Settings:
    """All stores over TLS, with a client certificate."""
    client = authority.issue("client")
    database = f"full_{time.time_ns()}"
    server = start("postgresql").server
    assert isinstance(server, PostgresServer)
    return Settings(
        redis_url=start("redis").server.url,
        amqp_url=start("rabbitmq").server.url,
        database_url=server.create_database(database),
        database_tls=True,
        tls_ca_file=authority.ca_file,
        tls_cert_file=client.cert_file,
        tls_key_file=client.key_file,
        dispatch_queue=database,
        dispatch_exchange=database,
        engine="dry_run",
    )


async def test_the_whole_way_over_tls(tls_settings: Settings) -> None:
    schema = Schema(tls_settings.database_url.get_secret_value(), tls=Tls.of(tls_settings))
    await schema.migrate()
    await schema.close()
    for each in await run_checks(tls_settings):
        assert each.passed, each
        assert "over TLS" in each.text or each.name.startswith(("engine", "overdue", "settings"))
    engine = FakeEngine()
    async with NodeTimeout(tls_settings) as app:
        app.use_engine(engine)
        stop = asyncio.Event()
        services = asyncio.create_task(app.scan_and_work(stop))
        try:
            stored = await app.batch_create_node_timeout_config("r", tree_of("a", seconds=0.5))
            assert stored["result"]
            engine.versions["r", "a"] = "v1"
            assert await app.node_started("a", "v1")
            await wait_until(lambda: engine.failed, 20)
        finally:
            stop.set()
            await asyncio.wait_for(services, 30)
    assert [(each.node_id, each.version) for each in engine.failed] == [("a", "v1")]


async def test_check_names_every_certificate_that_is_refused(
    tls_settings: Settings, tmp_path: Path
) -> None:
    known = {name: getattr(tls_settings, name) for name in tls_settings.model_fields_set}
    results = await run_checks(Settings(**{**known, "tls_ca_file": Authority(tmp_path).ca_file}))
    refused = {each.name for each in results if "its certificate is refused" in each.text}
    assert refused == {"database", "redis", "rabbitmq"}
    assert not any(SECRET in each.text for each in results)


async def test_a_process_waits_for_a_certificate_that_is_right(
    tls_settings: Settings, start: Callable[[str], Store]
) -> None:
    """It neither ends, so that a supervisor would restart it for ever, nor hangs."""
    store = start("redis")
    schema = Schema(tls_settings.database_url.get_secret_value(), tls=Tls.of(tls_settings))
    await schema.migrate()
    await schema.close()
    store.present(expired=True)
    try:
        async with NodeTimeout(tls_settings) as app:
            stop = asyncio.Event()
            services = asyncio.create_task(app.scan(stop))
            with pytest.raises(PoolUnavailableError, match="certificate has expired"):
                await app.pool.ping()
            assert await app.ledger.check_schema()
            assert not services.done()
            store.present()
            await app.pool.ping()
            stop.set()
            await asyncio.wait_for(services, 20)
    finally:
        store.present()


async def test_bamboos_database_is_talked_to_as_ours_is(
    start: Callable[[str], Store], tmp_path: Path
) -> None:
    store = start("mariadb")
    source = BambooConfigs(store.server.url, tls=store.tls(ca_file=Authority(tmp_path).ca_file))
    with pytest.raises(
        LedgerUnavailableError, match=r"bamboo's database: .*certificate is refused"
    ):
        await source.count()
    await source.close()


async def test_sqlite_knows_no_tls(tmp_path: Path) -> None:
    schema = Schema(f"sqlite:///{tmp_path / 'x.db'}", tls=Tls(database=True))
    ledger = SqlLedger(f"sqlite:///{tmp_path / 'x.db'}", tls=Tls(database=True))
    await schema.migrate()
    assert await ledger.check_schema()
    await ledger.close()
    await schema.close()
