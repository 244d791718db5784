"""The arq side: a deferred job for each node, in a sorted set of Redis, by its deadline.

One worker process (two are no faster), ``poll_delay`` 0.5 s and ``max_jobs`` 10 as by default. Not
as by default: a poll takes any number of jobs, not 100, which would hold the worker to 200 short
jobs a second; and results, which nobody reads, are not kept.
"""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import arq  # type: ignore[import-not-found]  # in the environment of the benchmark only
import redis
from arq.connections import RedisSettings  # type: ignore[import-not-found]  # as above

from benchmarks.sides import common

MODULE = "benchmarks.sides.arq_jobs"
QUEUE = "bench:arq"
READ_LIMIT = 1_000_000
ENQUEUED_AT_ONCE = 50


class ArqSide(common.Side):
    arms_per_second = 400

    def arm(self, deadlines: Sequence[float]) -> None:
        asyncio.run(self._enqueue(deadlines))

    def clear(self) -> None:
        client = redis.Redis.from_url(self.stores.redis)
        client.delete(QUEUE)
        for keys in common.parts(list(client.scan_iter("arq:*", count=1000)), 1000):
            client.delete(*keys)

    async def _enqueue(self, deadlines: Sequence[float]) -> None:
        pool = await arq.create_pool(RedisSettings.from_dsn(self.stores.redis))
        for part in common.parts(deadlines, ENQUEUED_AT_ONCE):
            await asyncio.gather(
                *(
                    pool.enqueue_job(
                        "strike",
                        deadline,
                        _queue_name=QUEUE,
                        _defer_until=datetime.fromtimestamp(deadline, UTC),
                    )
                    for deadline in part
                )
            )
        await pool.aclose()


async def _serve(context: dict[str, Any]) -> None:
    context["strategy"] = common.AsyncStrategy()
    common.tell_ready()


async def _leave(context: dict[str, Any]) -> None:
    await context["strategy"].close()


async def strike(context: dict[str, Any], deadline: float) -> None:
    await context["strategy"].call(deadline)


def worker() -> None:
    arq.Worker(
        [strike],
        queue_name=QUEUE,
        redis_settings=RedisSettings.from_dsn(common.stores().redis),
        on_startup=_serve,
        on_shutdown=_leave,
        queue_read_limit=READ_LIMIT,
        keep_result=0,
    ).run()


if __name__ == "__main__":
    common.main(MODULE, __doc__, ArqSide(common.stores()), {"worker": worker})
