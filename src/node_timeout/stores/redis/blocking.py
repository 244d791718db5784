"""The pool for synchronous callers: the few calls that an engine's own process makes.

One call arms or disarms a run. It needs no event loop and no thread, so it also works under gevent
and eventlet.
"""

from __future__ import annotations

# mypy: disable-error-code="no-untyped-call"
# The constructors of redis-py's synchronous clients have no types.
import copy
from collections.abc import Callable
from typing import Any, TypeVar

from redis import (
    BlockingConnectionPool,
    Connection,
    Redis,
    UnixDomainSocketConnection,
)
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry
from redis.sentinel import MasterNotFoundError, Sentinel

from node_timeout.domain.errors import PoolUnavailableError
from node_timeout.domain.run import DueRun, foreign_member
from node_timeout.stores.redis.blocking_tls import BlockingTlsConnection, secure_sentinel
from node_timeout.stores.redis.clock import BlockingClock
from node_timeout.stores.redis.keys import ledger_key, shard_number, wakeup_channel, zset_keys
from node_timeout.stores.redis.scripts import Script
from node_timeout.stores.redis.servers import (
    CLUSTER,
    NO_PRIMARY,
    REDIS_PORT,
    SENTINEL,
    SENTINEL_PORT,
    ports_of,
)
from node_timeout.stores.tls import Tls, reason_of
from node_timeout.urls.redaction import presentable
from node_timeout.urls.redis import RedisUrl, read_redis_url

T = TypeVar("T")

SOCKET_SECONDS = 1.0
CONNECTIONS = 16
"""Connections of one process to one server; a caller waits while all are busy."""


def is_served(url: str) -> bool:
    """Whether `BlockingPool` can use this Redis: any but a cluster. redis-py's synchronous cluster
    client connects when it is created, and may search for the servers for a long time.
    """
    return read_redis_url(url).kind != CLUSTER


class BlockingPool:
    """``now``, ``arm`` and ``disarm`` of `node_timeout.ports.Pool`, without ``await``.

    Connects at the first call. Each call may raise `PoolUnavailableError`.
    """

    def __init__(self, url: str, name: str, shards: int = 1, *, tls: Tls | None = None) -> None:
        """``url``: a Redis that `is_served`. Raises ValueError for an unreadable URL,
        `SettingsError` for unreadable TLS files.
        """
        self._client = _connected_to(read_redis_url(url), tls or Tls())
        self._name = name
        self._shards = shards
        self._keys = zset_keys(name, shards)
        self._arm, self._claim = Script("arm"), Script("claim")
        self._clock = BlockingClock(self._time)

    def close(self) -> None:
        self._client.close()

    def now(self) -> float:
        """An estimate of Redis's time (Unix seconds), never behind it."""
        self._clock.keep()
        return self._clock.now()

    def estimate(self) -> float:
        """The same without a call; this host's own clock if Redis was never reached."""
        return self._clock.now()

    def arm(self, due: DueRun) -> None:
        """Put a run into the pool; a run that is already there keeps its instant."""
        key = self._key_of(due.run_id)
        words = ("NX", wakeup_channel(key), repr(due.due_at), due.run_id)
        _, now = _translated(lambda: self._arm.run_blocking(self._client, key, *words))
        self._clock.observe(float(now))

    def disarm(self, run_id: str) -> None:
        """Remove a run from its shard."""
        _translated(lambda: self._client.zrem(self._key_of(run_id), run_id))

    def disarm_foreign(self, node_id: str, version: str) -> None:
        """Remove a foreign member, which an engine has put into the pool itself."""
        _translated(lambda: self._client.zrem(self._name, foreign_member(node_id, version)))

    def ledger_id(self) -> str | None:
        """The id of the ledger that the scanners of this pool serve."""
        found: Any = _translated(lambda: self._client.get(ledger_key(self._name)))
        return found.decode(errors="replace") if isinstance(found, bytes) else found

    def _key_of(self, run_id: str) -> str:
        return self._keys[shard_number(run_id, self._shards)]

    def _time(self) -> float:
        found = _translated(lambda: self._claim.run_blocking(self._client, self._name, 0, "1", "0"))
        return float(found[0])


def _connected_to(url: RedisUrl, tls: Tls) -> Any:
    """A redis-py client, which connects at its first call."""
    options: dict[str, Any] = {
        "username": url.user,
        "password": url.password,
        "socket_timeout": SOCKET_SECONDS,
        "socket_connect_timeout": SOCKET_SECONDS,
        # No retry: a connection that the server has closed is noticed when it is picked.
        "retry": Retry(NoBackoff(), 0),
        **url.parameters,
    }
    if url.kind == SENTINEL:
        limits = {
            "socket_timeout": SOCKET_SECONDS,
            "socket_connect_timeout": SOCKET_SECONDS,
            "ssl": url.tls,
            "retry": Retry(NoBackoff(), 0),
        }
        sentinel = _Sentinels(
            ports_of(url, SENTINEL_PORT), sentinel_kwargs=limits, ssl=url.tls, **options
        )
        client = sentinel.master_for(url.service, db=url.database)
        for each in (*sentinel.sentinels, client):
            secure_sentinel(each, tls)
        return client
    ((host, port),) = ports_of(url, REDIS_PORT)
    options |= {"max_connections": CONNECTIONS, "timeout": SOCKET_SECONDS, "db": url.database}
    if url.path:
        options |= {"connection_class": UnixDomainSocketConnection, "path": url.path}
        del options["socket_connect_timeout"]
    else:
        options |= {"connection_class": Connection, "host": host or "localhost", "port": port}
    if url.tls:
        options |= {"connection_class": BlockingTlsConnection, "context": tls.context}
    return Redis(connection_pool=BlockingConnectionPool(**options))


class _Sentinels(Sentinel):
    """Sentinels that several threads may ask at the same time: see `client`."""

    def discover_master(self, service_name: str) -> Any:
        asked = copy.copy(self)
        asked.sentinels = list(self.sentinels)
        found = Sentinel.discover_master(asked, service_name)
        self.sentinels = asked.sentinels
        return found


def _translated(call: Callable[[], T]) -> T:
    try:
        return call()
    except MasterNotFoundError as error:
        raise PoolUnavailableError(NO_PRIMARY) from presentable(error)
    except (RedisError, OSError) as error:
        raise PoolUnavailableError(f"Redis: {reason_of(error)}") from presentable(error)
