"""The servers of a benchmark: private, on loopback, and as durable as in production."""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.servers import MariadbServer, PostgresServer, RabbitServer, RedisServer

POSTGRES = {
    "fsync": "on",
    "full_page_writes": "on",
    "shared_buffers": "512MB",
    "max_wal_size": "4GB",
    "max_connections": "200",
}
MARIADB = [
    "--innodb-flush-log-at-trx-commit=1",
    "--innodb-buffer-pool-size=512M",
    "--innodb-log-file-size=512M",
    "--max-connections=700",
]
REDIS = ["--slowlog-log-slower-than", "1000", "--slowlog-max-len", "10000"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stores:
    """URLs of servers that are running; ``database`` is empty and without tables."""

    redis: str
    amqp: str
    database: str
    redis_pid: int

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Stores":
        return cls(**json.loads(text))


class Servers:
    """Redis, RabbitMQ and one kind of database; a new database for each user.

    Of ``embedded`` a Redis alone, for what the strategies do: it brings its stores with it.
    """

    def __init__(self, directory: Path, database: str) -> None:
        self.redis = RedisServer(directory, extra=REDIS)
        self.rabbit = RabbitServer(directory)
        self._databases: PostgresServer | MariadbServer | None = None
        if database == "postgresql":
            self._databases = PostgresServer(directory, extra=POSTGRES)
        elif database == "mariadb":
            self._databases = MariadbServer(directory, extra=MARIADB)
        self._count = 0

    @property
    def database(self) -> PostgresServer | MariadbServer:
        """Raises ValueError where there is none."""
        if self._databases is None:
            raise ValueError("an embedded database has no server")
        return self._databases

    def fresh(self) -> Stores:
        if self._databases is None:
            return Stores(redis=self.redis.url, amqp="", database="", redis_pid=self.redis.pid)
        self._count += 1
        return Stores(
            redis=self.redis.url,
            amqp=self.rabbit.url,
            database=self._databases.create_database(f"bench{self._count}"),
            redis_pid=self.redis.pid,
        )

    @contextlib.contextmanager
    def running(self) -> Iterator["Servers"]:
        servers = [self.redis, *([self.rabbit, self._databases] if self._databases else [])]
        with contextlib.ExitStack() as stack:
            for server in servers:
                stack.enter_context(server)
            yield self
