"""The keys and channels of a pool, all derived from its name: see `pool`."""

from __future__ import annotations

from zlib import crc32


def zset_keys(pool: str, shards: int) -> list[str]:
    """The key of each shard; the last is the pool's own, where engines put members themselves."""
    return [pool] if shards == 1 else [f"{pool}:{{{i}}}" for i in range(shards)] + [pool]


def shard_number(member: str, shards: int) -> int:
    """The number of the shard that holds a run."""
    return crc32(member.encode()) % shards


def wakeup_channel(key: str) -> str:
    """The channel that announces that an earlier deadline was armed in this ZSET."""
    return f"{key}:wakeup"


def tagged(key: str) -> str:
    """The prefix of keys in the same cluster slot: a key without a hash tag is its own tag."""
    return key if "{" in key else f"{{{key}}}"


def ledger_key(pool: str) -> str:
    """The key that holds the id of the ledger that the pool's scanners serve."""
    return f"{tagged(pool)}:ledger_id"
