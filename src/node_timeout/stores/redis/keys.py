"""The keys and channels of a pool, all derived from its name: see `pool`."""

from __future__ import annotations

from zlib import crc32


def zset_keys(pool: str, shards: int) -> list[str]:
    """Of each shard; the last is the pool's own, which engines fill themselves."""
    return [pool] if shards == 1 else [f"{pool}:{{{i}}}" for i in range(shards)] + [pool]


def shard_number(member: str, shards: int) -> int:
    """Which shard holds a run."""
    return crc32(member.encode()) % shards


def wakeup_channel(key: str) -> str:
    """Where it is told that an earlier deadline was armed in this ZSET."""
    return f"{key}:wakeup"


def tagged(key: str) -> str:
    """What a key begins with that lies in the same slot: a key without a tag is its own tag."""
    return key if "{" in key else f"{{{key}}}"


def ledger_key(pool: str) -> str:
    """Where the id of the ledger stands that the scanners of the pool serve."""
    return f"{tagged(pool)}:ledger_id"
