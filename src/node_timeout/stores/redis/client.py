"""Connections to Redis (or Valkey) by URL: one server, a cluster, or servers behind Sentinels.

    redis://[user:password@]host[:port][/db]                             also unix://path
    redis+cluster://[user:password@]host:port,host:port
    redis+sentinel://[user:password@]host:port,host:port/service[/db]

With ``rediss`` instead of ``redis`` they use TLS.
"""

import asyncio
import contextlib
import copy
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from redis.asyncio import Redis, RedisCluster, Sentinel
from redis.asyncio.client import PubSub
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import MasterNotFoundError
from redis.backoff import ExponentialBackoff, NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError, RedisClusterException, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from node_timeout.domain.errors import PoolUnavailableError
from node_timeout.stores.redis.scripts import Script
from node_timeout.stores.redis.servers import (
    CLUSTER,
    NO_PRIMARY,
    REDIS_PORT,
    SENTINEL,
    SENTINEL_PORT,
    ports_of,
)
from node_timeout.stores.redis.tls import secure
from node_timeout.stores.tls import Tls, reason_of
from node_timeout.urls.redaction import presentable, redact
from node_timeout.urls.redis import read_redis_url

SOCKET_SECONDS = 3.0
CALL_SECONDS = 5.0
SCRIPTS = (
    *("arm", "put_back", "claim", "finish", "release"),
    *("lead", "identity", "presence", "call"),
)


class RedisClient:
    """A client whose every call names a key, by which a cluster finds the server.

    A call that fails raises `PoolUnavailableError` after `CALL_SECONDS` at the latest.
    """

    def __init__(self, url: str, tls: Tls | None = None) -> None:
        """Does not connect yet. Raises ValueError for a URL that cannot be read."""
        read = read_redis_url(url)
        self._tls = tls or Tls()
        self._sentinel: Sentinel | None = None
        self._options: dict[str, Any] = {
            "username": read.user,
            "password": read.password,
            "ssl": read.tls,
            "socket_timeout": SOCKET_SECONDS,
            "socket_connect_timeout": SOCKET_SECONDS,
            "health_check_interval": 30,
            # Every call of the pool may be repeated: see the port.
            "retry": Retry(ExponentialBackoff(cap=0.2, base=0.01), 2),
            "retry_on_error": [RedisConnectionError, RedisTimeoutError, ReadOnlyError],
            **read.parameters,
        }
        self.commands: Redis | RedisCluster
        if read.kind == CLUSTER:
            nodes = [ClusterNode(host, port) for host, port in ports_of(read, REDIS_PORT)]
            self.commands = RedisCluster(startup_nodes=nodes, **self._options)
        elif read.kind == SENTINEL:
            limits: dict[str, Any] = {
                "socket_timeout": SOCKET_SECONDS,
                "socket_connect_timeout": SOCKET_SECONDS,
                "ssl": read.tls,
                # No retry: the next Sentinel is asked instead, and the pool's call is repeated.
                "retry": Retry(NoBackoff(), 0),
            }
            self._sentinel = _Sentinels(  # type: ignore[no-untyped-call]  # redis-py's
                ports_of(read, SENTINEL_PORT),
                sentinel_kwargs=limits,
                db=read.database,
                **self._options,
            )
            for each in self._sentinel.sentinels:
                secure(each, self._tls)
            self.commands = self._sentinel.master_for(read.service)
        else:
            ((host, port),) = ports_of(read, REDIS_PORT)
            where: dict[str, Any] = {"host": host or "localhost", "port": port}
            if read.path:
                where = {"unix_socket_path": read.path}
            self.commands = Redis(**where, db=read.database, **self._options)
        secure(self.commands, self._tls)
        self._scripts = {name: Script(name) for name in SCRIPTS}

    async def close(self) -> None:
        await self.commands.aclose()
        if isinstance(self.commands, RedisCluster):
            # The cluster client itself closes nothing if its search for servers was cancelled.
            for nodes in ("nodes_cache", "startup_nodes"):
                await self.commands.nodes_manager.aclose(nodes)
        await asyncio.gather(*(each.aclose() for each in self.sentinels))

    @property
    def sentinels(self) -> Sequence[Redis]:
        """The clients of the Sentinels, in the order in which they are asked."""
        return tuple(self._sentinel.sentinels) if self._sentinel else ()

    async def call(self, script: str, key: str, *args: Any) -> Any:
        """Run a script of `SCRIPTS` on the server that has the key."""
        async with translated():
            with contextlib.suppress(_ClosedInUseError), noticed():
                return await self._scripts[script].run(self.commands, key, *args)
            return await self._scripts[script].run(self.commands, key, *args)  # it may be repeated

    @contextlib.asynccontextmanager
    async def pubsub(self) -> AsyncIterator[PubSub]:
        """Open a connection that can subscribe; any server of a cluster receives all channels.

        Raises what redis-py raises.
        """
        async with contextlib.AsyncExitStack() as stack:
            client = self.commands
            if isinstance(client, RedisCluster):
                await client.initialize()
                node = client.get_random_node()
                options = self._options | {"host": node.host, "port": node.port}
                client = await stack.enter_async_context(Redis(**options))
                secure(client, self._tls)
            yield await stack.enter_async_context(client.pubsub(ignore_subscribe_messages=True))

    async def config(self, name: str) -> list[str]:
        """A setting of each server; raises redis-py's error if reading it is not allowed."""
        if isinstance(self.commands, RedisCluster):
            found: Any = await self.commands.config_get(name, target_nodes=RedisCluster.PRIMARIES)
        else:
            found = await self.commands.config_get(name)
        answers = [found] if name in found else list(found.values())
        return [str(answer[name]) for answer in answers] or ["unknown"]


class _Sentinels(Sentinel):
    """Sentinels that several connections may ask at the same time.

    redis-py moves the one that answered to the front by swapping two list entries. If two calls do
    that at once, one Sentinel overwrites another, which is then never asked again, nor closed.
    """

    async def discover_master(self, service_name: str) -> Any:
        asked = copy.copy(self)
        asked.sentinels = list(self.sentinels)
        found = await Sentinel.discover_master(asked, service_name)
        self.sentinels = asked.sentinels
        return found


class _ClosedInUseError(RedisConnectionError):
    """A connection was closed after it was picked and before the write."""


@contextlib.contextmanager
def noticed() -> Iterator[None]:
    """Raise redis-py's ConnectionError when a write to a closed connection fails like a bug.

    redis-py's cluster client may use a connection that it has closed itself (AttributeError); a
    closed transport of asyncio has no write function (TypeError, Python 3.12 to 3.13.5).
    """
    try:
        yield
    except AttributeError as error:
        if "'NoneType' object" not in str(error):
            raise
        raise _ClosedInUseError("a connection was closed in use") from error
    except TypeError as error:
        if str(error) != "'NoneType' object is not callable":
            raise
        raise _ClosedInUseError("a connection was closed in use") from error


@contextlib.asynccontextmanager
async def translated(time_limit: float = CALL_SECONDS) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(time_limit):
            with noticed():
                yield
    except TimeoutError as error:
        text = redact(str(error)) or f"no answer within {time_limit:g} s"
        raise PoolUnavailableError(f"Redis: {text}") from presentable(error)
    except MasterNotFoundError as error:
        raise PoolUnavailableError(NO_PRIMARY) from presentable(error)
    except (RedisError, RedisClusterException, OSError) as error:
        raise PoolUnavailableError(f"Redis: {reason_of(error)}") from presentable(error)
