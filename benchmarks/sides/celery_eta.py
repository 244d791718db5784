"""The Celery side: a task for each node, sent when it is armed, with its deadline as ``eta``.

RabbitMQ delivers each task at once; the worker (``-c 4``, prefork) keeps it in memory,
unacknowledged, until its eta. For that its prefetch multiplier is 0, which is no limit. By default
the limit grows by one with each task so kept, but only step by step: of 500 tasks sent at once a
worker held 54 after four seconds, and would have been late for the others.

Tasks are acknowledged before they run and their results ignored: the fastest that Celery offers,
and a task that runs as its process is killed is lost. The sender does not wait for RabbitMQ's
confirmation, as is Celery's default.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import celery
from celery.signals import worker_ready

from benchmarks.sides import common

MODULE = "benchmarks.sides.celery_eta"
QUEUE = "bench_eta"
DELIVERY_SECONDS = 60.0


def application(amqp: str) -> Any:
    app = celery.Celery("bench", broker=amqp)
    app.conf.update(
        task_default_queue=QUEUE,
        task_ignore_result=True,
        worker_enable_remote_control=False,
        worker_prefetch_multiplier=0,
        broker_connection_retry_on_startup=True,
    )
    return app


class CelerySide(common.Side):
    arms_per_second = 400

    def arm(self, deadlines: Sequence[float]) -> None:
        with application(self.stores.amqp) as app:
            for deadline in deadlines:
                app.send_task("strike", [deadline], eta=datetime.fromtimestamp(deadline, UTC))
        common.wait_until_delivered(self.stores.amqp, QUEUE, DELIVERY_SECONDS)

    def clear(self) -> None:
        common.delete_queues(self.stores.amqp, QUEUE)


def worker() -> None:
    app = application(common.stores().amqp)
    strategy = common.Strategy()
    app.task(strategy.call, name="strike")
    worker_ready.connect(lambda **_: common.tell_ready(), weak=False)
    quiet = ["--without-mingle", "--without-gossip", "--loglevel", "ERROR"]
    app.worker_main(["worker", "--concurrency", "4", "--queues", QUEUE, *quiet])


if __name__ == "__main__":
    common.main(MODULE, __doc__, CelerySide(common.stores()), {"worker": worker})
