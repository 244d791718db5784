"""Which servers a URL of Redis names, and at which ports they are."""

from __future__ import annotations

from node_timeout.urls.redis import RedisUrl

REDIS_PORT = 6379
SENTINEL_PORT = 26379
CLUSTER, SENTINEL = "cluster", "sentinel"
# redis-py's own text shows the clients with all their options, and not why they failed.
NO_PRIMARY = (
    "Redis: no Sentinel can be asked (is its address right, and its certificate trusted?), "
    "or none knows a primary of this service"
)


def ports_of(url: RedisUrl, default_port: int) -> list[tuple[str, int]]:
    return [(host.name, host.port or default_port) for host in url.hosts]
