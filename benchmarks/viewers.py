"""What it costs scanner and workers that people look at the console.

Run: python -m benchmarks.viewers [--rounds 5] [--viewers 20] [--only lateness]

A burst and evenly spread deadlines, each in turn without a server and beside one (`node-timeout
serve`) whose overview so many browsers refresh, as the console does by itself. All is on one
machine, so the server's own work is taken from scanner, workers and stores. Browsers would be on
machines of their own: what stands for one here reads the bytes and does nothing with them. Prints
medians.
"""

import argparse
import asyncio
import contextlib
import re
import statistics
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from benchmarks.figures import Result, figures
from benchmarks.house import House
from benchmarks.sides import ours
from benchmarks.stores import Servers
from benchmarks.web import serving
from node_timeout.web.rendering import REFRESH_SECONDS

FIGURES = {
    "burst": ("nodes_per_second",),
    "lateness": ("lateness p50 ms", "lateness p99 ms"),
}
OPTIONS = argparse.Namespace(
    count=10_000, strategy="rpush", scanners=1, workers=2, seconds=30, rounds=1
)
SPREAD = argparse.Namespace(**{**vars(OPTIONS), "count": 1_000})
WORKLOADS: dict[str, Callable[[House], Awaitable[Result]]] = {
    "burst": lambda house: ours.burst(house, OPTIONS),
    "lateness": lambda house: ours.lateness(house, SPREAD),
}


@contextlib.asynccontextmanager
async def looked_at(house: House, viewers: int) -> AsyncIterator[None]:
    """Beside a server whose overview is looked at; none without viewers."""
    if not viewers:
        yield
        return
    async with serving(house.stores) as (client, _), asyncio.TaskGroup() as group:
        port = client.base_url.port or 0
        looking = [
            group.create_task(look(port, i * REFRESH_SECONDS / viewers)) for i in range(viewers)
        ]
        yield
        for each in looking:
            each.cancel()


async def look(port: int, after: float) -> None:
    await asyncio.sleep(after)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        while True:
            writer.write(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 "), head
            (length,) = re.findall(rb"\r\ncontent-length: (\d+)\r\n", head)
            await reader.readexactly(int(length))
            await asyncio.sleep(REFRESH_SECONDS)
    finally:
        writer.close()


async def one(servers: Servers, directory: Path, workload: str, viewers: int) -> Result:
    house = House(servers.fresh(), directory)
    await house.prepare()
    async with looked_at(house, viewers):
        return figures(await WORKLOADS[workload](house))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--viewers", type=int, default=20)
    parser.add_argument("--only", choices=FIGURES)
    options = parser.parse_args()
    print(f"| figure | nobody looks | {options.viewers} look | ratio |\n|---|---:|---:|---:|")
    with (
        tempfile.TemporaryDirectory() as name,
        Servers(Path(name), "postgresql").running() as servers,
    ):
        for workload in [options.only] if options.only else FIGURES:
            found: dict[int, list[Result]] = {0: [], options.viewers: []}
            for _ in range(options.rounds):
                for viewers, results in found.items():
                    results.append(asyncio.run(one(servers, Path(name), workload, viewers)))
            for figure in FIGURES[workload]:
                without, beside = (
                    statistics.median(each[figure] for each in results)
                    for results in found.values()
                )
                told = f"{without:,.4g} | {beside:,.4g} | {beside / without:.2f}"
                print(f"| {workload}: {figure} | {told} |", flush=True)


if __name__ == "__main__":
    main()
