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
    "--max-connections=200",
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
    """Redis, RabbitMQ and one kind of database; a new database for each user."""

    def __init__(self, directory: Path, database: str) -> None:
        self.redis = RedisServer(directory, extra=REDIS)
        self.rabbit = RabbitServer(directory)
        self._databases: PostgresServer | MariadbServer
        if database == "postgresql":
            self._databases = PostgresServer(directory, extra=POSTGRES)
        else:
            self._databases = MariadbServer(directory, extra=MARIADB)
        self._count = 0

    def fresh(self) -> Stores:
        self._count += 1
        return Stores(
            redis=self.redis.url,
            amqp=self.rabbit.url,
            database=self._databases.create_database(f"bench{self._count}"),
            redis_pid=self.redis.pid,
        )

    @contextlib.contextmanager
    def running(self) -> Iterator["Servers"]:
        with self.redis, self.rabbit, self._databases:
            yield self
