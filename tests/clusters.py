"""Private, throw-away clusters of the servers in tests/servers.py, all on loopback.

Each is a context manager: it enters when the cluster is whole, and leaves no process behind.
Members may be killed, paused and started again one by one.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, Self

from redis import Redis, RedisError

from tests.servers import (
    PostgresServer,
    RabbitServer,
    RedisServer,
    Server,
    _find,
    free_port,
)

WAIT_SECONDS = 60.0
SLOTS = 16384


def wait_for(condition: Callable[[], object], what: str, time_limit: float = WAIT_SECONDS) -> None:
    """Return once the condition holds; a server that does not answer means: not yet."""
    until = time.monotonic() + time_limit
    while True:
        with contextlib.suppress(RedisError, OSError, RuntimeError):
            if condition():
                return
        if time.monotonic() > until:
            raise RuntimeError(f"not within {time_limit:g} s: {what}")
        time.sleep(0.02)


def alive(server: Server) -> bool:
    """True if the process runs, paused or not."""
    return server._process is not None and server._process.poll() is None


class Cluster:
    """Servers that are started and stopped together."""

    def __init__(self, servers: Sequence[Server]) -> None:
        self.servers = servers

    def start(self) -> None:
        """Start every member and wait until the cluster is whole."""
        _all(self.servers, lambda server: server.start())

    def stop(self) -> None:
        """End every member by force: there is nothing to save."""
        _all(self.servers, lambda server: server.kill())

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()


def _all(servers: Iterable[Server], act: Callable[[Server], object]) -> None:
    """Do it to all of them at once."""
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(act, servers))


@contextlib.contextmanager
def redis_client(server: Server) -> Iterator[Redis]:
    """A client of this one server; its answers are text."""
    options: dict[str, Any] = {"decode_responses": True, "socket_timeout": 5}
    options |= {"password": server.password or None}
    with Redis(port=server.port, **options) as client:
        yield client


def redis_call(server: Server, *command: str | int) -> Any:
    """Send one command to this very server."""
    with redis_client(server) as client:
        call: Callable[..., Any] = client.execute_command
        return call(*command)


def _replication(server: Server) -> Any:
    with redis_client(server) as client:
        return client.info("replication")


def _follows(replica: Server, primary: Server) -> bool:
    """True if the replica holds all that the primary had when it began to follow."""
    info = _replication(replica)
    return bool(
        info["role"] == "slave"
        and info["master_port"] == primary.port
        and info["master_link_status"] == "up"
    )


def stop_replication(primary: Server, replicas: Sequence[Server]) -> None:
    """From now on the replicas, which are paused, hear of nothing; not even behind the pause."""
    for replica in replicas:
        replica.pause()
    redis_call(primary, "CLIENT", "KILL", "TYPE", "replica")


class RedisCluster(Cluster):
    """A Redis Cluster of three primaries, each with one replica.

    A killed primary is replaced in about two seconds; started again, it is a replica.
    """

    NODE_TIMEOUT_MS: ClassVar[int] = 1000

    def __init__(self, directory: Path) -> None:
        self._bus_ports: dict[int, int] = {}
        self.nodes = [self._node(directory) for _ in range(6)]
        super().__init__(self.nodes)
        self.url = "redis+cluster://" + ",".join(f"127.0.0.1:{n.port}" for n in self.nodes[:3])
        self._formed = False

    def _node(self, directory: Path) -> RedisServer:
        bus_port = free_port()
        options = ["--cluster-enabled", "yes", "--cluster-port", str(bus_port)]
        options += ["--cluster-node-timeout", str(self.NODE_TIMEOUT_MS)]
        options += ["--cluster-replica-validity-factor", "0", "--repl-diskless-sync-delay", "0"]
        node = RedisServer(directory, extra=options)
        self._bus_ports[node.port] = bus_port
        return node

    def start(self) -> None:
        super().start()
        if not self._formed:
            self._form()
            self._formed = True
        self.wait_healthy()

    def _form(self) -> None:
        primaries, replicas = self.nodes[:3], self.nodes[3:]
        for epoch, node in enumerate(self.nodes, 1):
            redis_call(node, "CLUSTER", "SET-CONFIG-EPOCH", epoch)
            for other in self.nodes[: epoch - 1]:
                address = ("127.0.0.1", other.port, self._bus_ports[other.port])
                redis_call(node, "CLUSTER", "MEET", *address)
        for number, node in enumerate(primaries):
            first, end = (SLOTS * each // len(primaries) for each in (number, number + 1))
            redis_call(node, "CLUSTER", "ADDSLOTSRANGE", first, end - 1)
        wait_for(
            lambda: all(len(self._members(node)) == len(self.nodes) for node in self.nodes),
            "every node knows every other",
        )
        for primary, replica in zip(primaries, replicas, strict=True):
            redis_call(replica, "CLUSTER", "REPLICATE", node_id(primary))

    @staticmethod
    def _members(node: Server) -> list[list[str]]:
        """The fields of CLUSTER NODES of each member whose handshake is over."""
        rows = [line.split() for line in redis_call(node, "CLUSTER", "NODES").splitlines()]
        return [row for row in rows if "handshake" not in row[2] and "noaddr" not in row[2]]

    def wait_healthy(self) -> None:
        """Wait until all live nodes agree on live primaries, and each replica has caught up.

        The dead need not come back. Raises `RuntimeError` where a shard has lost both its nodes.
        """
        wait_for(self._healthy, "the cluster is healthy")

    def _healthy(self) -> bool:
        live = [node for node in self.nodes if alive(node)]
        ports = {node.port for node in live}
        seen = set()
        for node in live:
            if "cluster_state:ok" not in redis_call(node, "CLUSTER", "INFO"):
                return False
            owners: dict[str, str] = {}
            for _, address, flags, _, _, _, _, link, *slots in self._members(node):
                port = int(address.partition("@")[0].rpartition(":")[2])
                if port in ports and ("fail" in flags or link != "connected"):
                    return False
                if any(not each.startswith("[") for each in slots):
                    if port not in ports:
                        return False
                    owners |= dict.fromkeys((s for s in slots if s[0] != "["), str(port))
            seen.add(frozenset(owners.items()))
        if len(seen) != 1:
            return False
        primaries = {int(port) for _, port in next(iter(seen))}
        return all(
            node.port in primaries
            or any(_follows(node, each) for each in live if each.port in primaries)
            for node in live
        )

    def primary_of(self, key: str) -> RedisServer:
        """The node that serves the slot of this key now, by the word of a live one."""
        return self._owner(self.slot_of(key))

    def slot_of(self, key: str) -> int:
        return int(redis_call(self._any(), "CLUSTER", "KEYSLOT", key))

    def _any(self) -> RedisServer:
        return next(node for node in self.nodes if alive(node))

    def _owner(self, slot: int) -> RedisServer:
        for node in self.nodes:
            if alive(node):
                for member in self._members(node):
                    if "myself" in member[2] and "master" in member[2] and _holds(member[8:], slot):
                        return node
        raise RuntimeError(f"no live node has slot {slot}")

    def kill_primary_of(self, key: str) -> RedisServer:
        """Kill the node that serves this key and return it; its replica will follow."""
        node = self.primary_of(key)
        node.kill()
        return node

    def replica_of(self, key: str) -> RedisServer:
        """A live replica of the node that serves this key."""
        primary = self.primary_of(key)
        return next(
            node
            for node in self.nodes
            if node is not primary and alive(node) and _follows(node, primary)
        )

    def slot_move(self, key: str) -> SlotMove:
        """The steps that move the slot of this key to another primary; none is taken yet."""
        slot = self.slot_of(key)
        source = self._owner(slot)
        primaries = [
            node for node in self.nodes if alive(node) and _replication(node)["role"] == "master"
        ]
        target = next(node for node in primaries if node is not source)
        return SlotMove(slot, source, target, primaries)

    def move_slot(self, key: str) -> RedisServer:
        """Move the slot of this key to another primary, which is returned."""
        move = self.slot_move(key)
        move.begin()
        move.carry()
        move.finish()
        return move.target


def node_id(node: Server) -> str:
    return str(redis_call(node, "CLUSTER", "MYID"))


def _holds(ranges: Iterable[str], slot: int) -> bool:
    """Is the slot in one of these, ``7`` or ``0-5460``? Those in brackets are on their way."""
    for each in ranges:
        first, _, last = each.partition("-")
        if not each.startswith("[") and int(first) <= slot <= int(last or first):
            return True
    return False


class SlotMove:
    """A live migration of one slot: `begin`, then `carry` once or more, then `finish`.

    After `begin` the source answers ASK for keys it has not, after `finish` MOVED for all.
    """

    def __init__(
        self,
        slot: int,
        source: RedisServer,
        target: RedisServer,
        primaries: Sequence[RedisServer],
    ) -> None:
        self.slot, self.source, self.target = slot, source, target
        self._others = [node for node in primaries if node not in (source, target)]

    def begin(self) -> None:
        redis_call(self.target, "CLUSTER", "SETSLOT", self.slot, "IMPORTING", node_id(self.source))
        redis_call(self.source, "CLUSTER", "SETSLOT", self.slot, "MIGRATING", node_id(self.target))

    def carry(self, *keys: str) -> None:
        """Take these keys over, or all that are there."""
        found = list(keys) or redis_call(self.source, "CLUSTER", "GETKEYSINSLOT", self.slot, 1000)
        if found:
            to = ("127.0.0.1", self.target.port, "", 0, 5000)
            redis_call(self.source, "MIGRATE", *to, "KEYS", *found)

    def finish(self) -> None:
        owner = node_id(self.target)
        for node in (self.target, self.source, *self._others):
            redis_call(node, "CLUSTER", "SETSLOT", self.slot, "NODE", owner)


class SentinelServer(RedisServer):
    """One sentinel of the primary called mymaster, which knows its peers from the start."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.run_id = f"{self.port:040x}"
        self.config = self.directory / "sentinel.conf"  # the sentinel rewrites it

    def watch(self, primary: Server, replicas: Sequence[Server], peers: Sequence[Self]) -> None:
        """Write the configuration, before the first start."""
        lines = [f"sentinel myid {self.run_id}", *self._monitor(primary)]
        lines += [f"sentinel known-replica mymaster 127.0.0.1 {each.port}" for each in replicas]
        lines += [
            f"sentinel known-sentinel mymaster 127.0.0.1 {each.port} {each.run_id}"
            for each in peers
            if each is not self
        ]
        self.config.write_text("\n".join(lines) + "\n")

    @staticmethod
    def _monitor(primary: Server) -> list[str]:
        return [
            f"sentinel monitor mymaster 127.0.0.1 {primary.port} 2",
            "sentinel down-after-milliseconds mymaster 700",
            "sentinel failover-timeout mymaster 3000",
            "sentinel parallel-syncs mymaster 2",
        ]

    def _command(self) -> list[str]:
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.data)]
        return [self.program, str(self.config), "--sentinel", *options]

    def named_primary(self) -> int:
        """The port of the primary by the word of this sentinel."""
        answer = redis_call(self, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", "mymaster")
        return int(answer[1])


class SentinelTrio(Cluster):
    """A primary with two replicas, watched by three sentinels of which two must agree.

    A killed primary is replaced in about three seconds.
    """

    def __init__(self, directory: Path) -> None:
        options = ["--repl-diskless-sync-delay", "0"]
        first = RedisServer(directory, extra=options)
        follow = [*options, "--replicaof", f"127.0.0.1 {first.port}"]
        self.stores = [first, *(RedisServer(directory, extra=follow) for _ in range(2))]
        self.sentinels = [SentinelServer(directory) for _ in range(3)]
        super().__init__([*self.stores, *self.sentinels])
        hosts = ",".join(f"127.0.0.1:{each.port}" for each in self.sentinels)
        self.url = f"redis+sentinel://{hosts}/mymaster/0"
        self._started = False

    def start(self) -> None:
        _all(self.stores, lambda server: server.start())
        if not self._started:
            wait_for(self._followed, "the replicas follow the primary")
            for sentinel in self.sentinels:
                sentinel.watch(self.stores[0], self.stores[1:], self.sentinels)
            self._started = True
        _all(self.sentinels, lambda server: server.start())
        wait_for(self._watched, "the sentinels can fail over")

    def _followed(self) -> bool:
        return all(_follows(each, self.stores[0]) for each in self.stores[1:])

    def _watched(self) -> bool:
        for sentinel in self.sentinels:
            with redis_client(sentinel) as client:
                primary: Any = client.sentinel_master("mymaster")
                replicas: Any = client.sentinel_slaves("mymaster")
            if primary["num-other-sentinels"] < len(self.sentinels) - 1 or len(replicas) < 2:
                return False
            if any(each["flags"] != "slave" for each in replicas):
                return False
            redis_call(sentinel, "SENTINEL", "CKQUORUM", "mymaster")  # raises if not
        return True

    def primary(self) -> RedisServer:
        """The store that most live sentinels name the primary; it may be dead."""
        named = [each.named_primary() for each in self.sentinels if alive(each)]
        port = max(set(named), key=named.count)
        return next(each for each in self.stores if each.port == port)

    def replicas(self) -> list[RedisServer]:
        """The live ones that have all that the primary had when they began to follow it."""
        primary = self.primary()
        others = [each for each in self.stores if each is not primary and alive(each)]
        return [each for each in others if _follows(each, primary)]

    def kill_primary(self) -> RedisServer:
        """Kill the primary and return it.

        Started again, it takes itself for a primary until, ten seconds later, the sentinels make
        it a replica; `wait_failed_over` waits for that too.
        """
        primary = self.primary()
        primary.kill()
        return primary

    def wait_failed_over(self) -> RedisServer:
        """Wait until all sentinels name one live primary, which the live replicas follow."""
        wait_for(self._failed_over, "a new primary is there")
        return self.primary()

    def _failed_over(self) -> bool:
        primary = self.primary()
        others = [each for each in self.stores if each is not primary and alive(each)]
        return (
            alive(primary)
            and _replication(primary)["role"] == "master"
            and all(each.named_primary() == primary.port for each in self.sentinels if alive(each))
            and all(_follows(each, primary) for each in others)
        )


class EpmdServer(Server):
    """An Erlang port mapper, which the nodes of one RabbitMQ cluster share."""

    package = "rabbitmq-server"

    def _command(self) -> list[str]:
        return [_find("epmd"), "-port", str(self.port), "-address", "127.0.0.1"]

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
            return True
        return False


class RabbitNode(RabbitServer):
    """A member of a RabbitMQ cluster: at its first start it joins the seed, if there is one."""

    def __init__(self, directory: Path, epmd: EpmdServer, seed: RabbitNode | None) -> None:
        super().__init__(directory)
        self.epmd_port = epmd.port
        self.environment["ERL_EPMD_PORT"] = str(epmd.port)
        # A silent peer is noticed within eight seconds; usual are 60.
        self.environment["RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS"] = "-kernel net_ticktime 8"
        self.name = self.environment["RABBITMQ_NODENAME"]
        cookie = self.directory / ".erlang.cookie"
        cookie.unlink()
        cookie.write_text(f"COOKIE{epmd.port}")
        cookie.chmod(0o400)
        if seed:
            config = self.directory / "rabbit.config"
            peers = f"{{cluster_nodes, {{['{seed.name}'], disc}}}}"
            config.write_text(config.read_text().replace("[{rabbit, [", f"[{{rabbit, [{peers}, "))

    def _launch(self) -> None:
        Server._launch(self)  # without a port mapper of its own


class RabbitCluster(Cluster):
    """Three RabbitMQ nodes; a quorum queue has a member on each."""

    def __init__(self, directory: Path) -> None:
        self.epmd = EpmdServer(directory)
        seed = RabbitNode(directory, self.epmd, None)
        self.nodes = [seed, *(RabbitNode(directory, self.epmd, seed) for _ in range(2))]
        super().__init__([self.epmd, *self.nodes])
        self.urls = [node.url for node in self.nodes]
        self.url = ",".join(self.urls)

    def start(self) -> None:
        self.epmd.start()
        self.nodes[0].start()  # the others could not find it yet
        _all(self.nodes[1:], lambda node: node.start())
        self.wait_healthy()

    def ctl(self, *args: str) -> str:
        """Run rabbitmqctl against a live node."""
        return next(node for node in self.nodes if alive(node)).ctl(*args)

    def wait_healthy(self) -> None:
        """Wait until the live nodes are one cluster, and all their queues' members are online."""
        wait_for(self._healthy, "the nodes are one cluster")

    def _healthy(self) -> bool:
        live = {node.name for node in self.nodes if alive(node)}
        status = json.loads(self.ctl("-q", "cluster_status", "--formatter", "json"))
        rows = json.loads(
            self.ctl("-q", "list_queues", "type", "leader", "online", "--formatter", "json")
        )
        return live == set(status["running_nodes"]) and all(
            row["leader"] in live and live <= set(row["online"])
            for row in rows
            if row["type"] == "quorum"
        )

    def leader_of(self, queue: str) -> RabbitNode:
        """The node that leads this quorum queue."""
        rows = json.loads(self.ctl("-q", "list_queues", "name", "leader", "--formatter", "json"))
        leader = next(row["leader"] for row in rows if row["name"] == queue)
        return next(node for node in self.nodes if node.name == leader)


class PostgresNode(PostgresServer):
    """A server whose data is a copy of another's, which it follows until it is promoted."""

    follows: PostgresServer | None = None

    def _create(self) -> None:
        if self.follows is None:
            super()._create()
            return
        source = ["-d", f"host=127.0.0.1 port={self.follows.port} user=postgres"]
        options = ["-R", "-X", "stream", "-c", "fast", "--no-sync", "-D", str(self.data)]
        self._run(str(self.tools / "pg_basebackup"), *source, *options)

    def sql(self, statement: str) -> str:
        """Run a statement on this very server and return what it answers, unadorned."""
        psql = [str(self.tools / "psql"), "-X", "-q", "-A", "-t", self.url]
        return self._run(*psql, "-c", statement).strip()


class PostgresPair(Cluster):
    """A primary and a standby that has every commit before the client is told of it."""

    def __init__(self, directory: Path) -> None:
        self.primary, self.standby = PostgresNode(directory), PostgresNode(directory)
        self.standby.follows = self.primary
        self._hosts = ",".join(f"127.0.0.1:{s.port}" for s in (self.primary, self.standby))
        self.url = self._url("postgres")
        super().__init__([self.primary, self.standby])

    def _url(self, database: str) -> str:
        return f"postgresql://postgres@{self._hosts}/{database}"

    def start(self) -> None:
        self.primary.start()
        self.standby.start()
        # After the copy was made, which must not wait for a standby once it is promoted.
        self.primary.sql("ALTER SYSTEM SET synchronous_standby_names = '*'")
        self.primary.sql("SELECT pg_reload_conf()")
        wait_for(self._synchronous, "the standby is synchronous")

    def _streaming(self) -> bool:
        return self.primary.sql("SELECT state FROM pg_stat_replication") == "streaming"

    def _synchronous(self) -> bool:
        return self.primary.sql("SELECT sync_state FROM pg_stat_replication") == "sync"

    def create_database(self, name: str) -> str:
        """Create a database on both hosts and return the URL with both."""
        self.primary.create_database(name)
        found = f"SELECT 1 FROM pg_database WHERE datname = '{name}'"
        wait_for(lambda: self.standby.sql(found), "the standby has the database")
        return self._url(name)

    def kill_primary(self) -> PostgresNode:
        """Kill the primary and return it. It must not be started again, see `rejoin`."""
        self.primary.kill()
        return self.primary

    def promote(self) -> None:
        """Make the standby the primary; the former one becomes the standby with `rejoin`."""
        assert self.standby.sql("SELECT pg_promote()") == "t"
        self.primary, self.standby = self.standby, self.primary

    def rejoin(self) -> None:
        """Start the former primary as a fresh standby, asynchronous, on its old port."""
        self.standby.kill()
        shutil.rmtree(self.standby.data)
        self.standby.follows = self.primary
        self.standby.start()
        wait_for(self._streaming, "the former primary follows")
