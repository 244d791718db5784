"""The servers that a Redis URL names, with their ports."""

from __future__ import annotations

from node_timeout.urls.redis import RedisUrl

REDIS_PORT = 6379
SENTINEL_PORT = 26379
CLUSTER, SENTINEL = "cluster", "sentinel"
# redis-py's own text prints the clients with all their options, but not why they failed.
NO_PRIMARY = (
    "Redis: no Sentinel can be asked (is its address right, and its certificate trusted?), "
    "or none knows a primary of this service"
)


def ports_of(url: RedisUrl, default_port: int) -> list[tuple[str, int]]:
    return [(host.name, host.port or default_port) for host in url.hosts]
