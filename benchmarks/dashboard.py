"""Makes the picture of the dashboard that is in the documents: its own queries, asked of a real
Prometheus that has watched a run with faults.

Run from the root of the checkout, with Prometheus, Chromium and its driver on the path:
python -m benchmarks.dashboard [--to docs/images/dashboard.png] [--seconds 300]

Scanner, workers and server run on private stores under a steady load. Meanwhile a worker is killed,
Redis and RabbitMQ are restarted, and the database is silent for some seconds. Grafana draws what it
is answered its own way; here that does the plotting library of the console.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from benchmarks.stores import Servers
from node_timeout import NodeTimeout, Settings
from node_timeout.domain.errors import TemporaryError
from node_timeout.domain.run_id import run_id
from node_timeout.stores.sql.schema import Schema
from scripts.screenshots import browser
from tests.http_server import Reply, serving
from tests.servers import free_port

ROOT = Path(__file__).parents[1]
DASHBOARD = ROOT / "deploy" / "grafana" / "node-timeout.json"
TEMPLATE = ROOT / "benchmarks" / "dashboard.html"
VENDOR = ROOT / "src" / "node_timeout" / "web" / "static" / "vendor"
COMMAND = [sys.executable, "-c", "from node_timeout.cli.main import main; main()"]
WEB = "serve 0"
PER_SECOND = 15
SCRAPE_SECONDS = 2
RATE_SECONDS = 20
ACTIONS = ("forced_fail", "forced_fail_and_skip", "webhook")
ODD = 45
"""In this second of each minute comes a message that nobody can read."""
SERVER_ERROR = 500
REFUSED_SHARE = 0.2
"""Of the calls of the webhook, which are then tried again."""
WIDTH = 1280
STOP_SECONDS = 60.0


class Town:
    """The servers, and the processes on them."""

    def __init__(self, servers: Servers, settings: Settings, directory: Path) -> None:
        self.servers = servers
        self.settings = settings
        names = ("scan 0", "worker 0", "worker 1", WEB)
        self.ports = {name: free_port() for name in names}
        self._directory = directory
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> None:
        values = {each: getattr(self.settings, each) for each in self.settings.model_fields_set}
        plain = {
            each: value.get_secret_value() if hasattr(value, "get_secret_value") else value
            for each, value in values.items()
        }
        variables = {f"NODE_TIMEOUT_{each.upper()}": str(value) for each, value in plain.items()}
        kind = "WEB" if name == WEB else "METRICS"
        variables[f"NODE_TIMEOUT_{kind}_PORT"] = str(self.ports[name])
        with (self._directory / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [*COMMAND, name.split(maxsplit=1)[0]],
                env=os.environ | variables,
                stdout=log,
                stderr=log,
            )

    def kill(self, name: str) -> None:
        self._processes[name].kill()
        self._processes[name].wait()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        for name in self.ports:
            self.start(name)
        try:
            yield
        finally:
            for process in self._processes.values():
                process.terminate()
            for process in self._processes.values():
                process.wait(STOP_SECONDS)


async def killed(town: Town) -> None:
    town.kill("worker 0")
    await asyncio.sleep(8)
    town.start("worker 0")


async def restarted(server: Any) -> None:
    await asyncio.to_thread(server.stop)
    await asyncio.sleep(4)
    await asyncio.to_thread(server.start)


async def silent(server: Any) -> None:
    server.pause()
    await asyncio.sleep(6)
    server.resume()


async def load(app: NodeTimeout, web: str, seconds: float) -> None:
    """Nodes that start; some leave in time, some get more time, the others are dealt with."""
    chance = random.Random(7)
    ends = time.monotonic() + seconds
    async with httpx.AsyncClient(base_url=f"{web}/api/v1", timeout=30) as client:
        for number in itertools.count():
            if time.monotonic() > ends:
                return
            began = time.monotonic()
            root, ids = f"pipeline-{number}", [f"n{i}" for i in range(PER_SECOND)]
            named = [{"node_id": each, "version": "v1", "root_pipeline_id": root} for each in ids]
            starts = [
                {
                    "event": "node_running",
                    "happened_at": time.time(),
                    "timeout_config": {
                        "enable": True,
                        "action": chance.choice(ACTIONS),
                        "seconds": chance.uniform(1, 30),
                    },
                    **each,
                }
                for each in named
            ]
            leavings = [
                {"event": "node_left", "happened_at": time.time(), **each} for each in named[:3]
            ]
            more = [run_id(root, each, "v1") for each in ids[4:6]]
            for path, value in (
                ("/events", {"schema": 1, "events": starts}),
                ("/events", {"schema": 1, "events": leavings}),
                ("/runs/extend", {"run_ids": more[:1], "by": "PT5S", "reason": "a while more"}),
                ("/runs/pause", {"run_ids": more[1:], "reason": "a look"}),
            ):
                await insist(client, path, value)
            if number % 60 == ODD:
                with contextlib.suppress(TemporaryError):
                    await app.exchange.publish(app.settings.dispatch_queue, b"what is this", 5)
            await asyncio.sleep(max(0.0, began + 1 - time.monotonic()))


async def insist(client: httpx.AsyncClient, path: str, value: Any) -> None:
    while True:
        with contextlib.suppress(httpx.TransportError):
            if (await client.post(path, json=value)).status_code < SERVER_ERROR:
                return
        await asyncio.sleep(0.5)


async def faults(town: Town, seconds: float) -> None:
    """One after the other, in as many equal parts of the run."""
    servers = town.servers
    plan = (
        partial(killed, town),
        partial(restarted, servers.redis),
        partial(restarted, servers.rabbit),
        partial(silent, servers.database),
    )
    for strike in plan:
        await asyncio.sleep(seconds / (len(plan) + 1))
        await strike()


@contextlib.contextmanager
def prometheus(town: Town, directory: Path) -> Iterator[str]:
    """Watches the processes; its address."""
    jobs: dict[str, list[str]] = {}
    for name, port in town.ports.items():
        jobs.setdefault(f"node-timeout-{name.split()[0]}", []).append(f"127.0.0.1:{port}")
    configuration = {
        "global": {"scrape_interval": f"{SCRAPE_SECONDS}s"},
        "scrape_configs": [
            {"job_name": job, "static_configs": [{"targets": targets}]}
            for job, targets in jobs.items()
        ],
    }
    file = directory / "prometheus.json"
    file.write_text(json.dumps(configuration))
    port = free_port()
    with (directory / "prometheus.log").open("ab") as log:
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={file}",
                f"--storage.tsdb.path={directory / 'prometheus'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=log,
        )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(STOP_SECONDS)


def asked(address: str, began: float, ended: float) -> list[dict[str, Any]]:
    """Each panel of the dashboard, with what Prometheus answers to its queries."""
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    panels = []
    with httpx.Client(base_url=address, timeout=60) as client:
        for panel in dashboard["panels"]:
            series = []
            for target in panel.get("targets", []):
                query = target["expr"].replace("$__rate_interval", f"{RATE_SECONDS}s")
                query = query.replace("$__range", f"{ended - began:.0f}s")
                answer = client.get(
                    "/api/v1/query_range",
                    params={"query": query, "start": began, "end": ended, "step": SCRAPE_SECONDS},
                )
                answer.raise_for_status()
                for found in answer.json()["data"]["result"]:
                    name = target.get("legendFormat", panel["title"])
                    for label, value in found["metric"].items():
                        name = name.replace("{{" + label + "}}", value)
                    numbers = [(at, float(value)) for at, value in found["values"]]
                    points = [each for each in numbers if math.isfinite(each[1])]
                    series.append({"name": name, "points": points})
            defaults = panel.get("fieldConfig", {}).get("defaults", {})
            panels.append(
                {
                    "title": panel["title"],
                    "type": panel["type"],
                    "place": panel["gridPos"],
                    "unit": defaults.get("unit", "short"),
                    "series": series,
                }
            )
    return panels


def drawn(panels: list[dict[str, Any]], directory: Path, to: Path) -> None:
    page = directory / "dashboard.html"
    page.write_text(
        TEMPLATE.read_text(encoding="utf-8")
        .replace("/*css*/", (VENDOR / "uPlot.min.css").read_text(encoding="utf-8"))
        .replace("/*library*/", (VENDOR / "uPlot.iife.min.js").read_text(encoding="utf-8"))
        .replace("/*panels*/", json.dumps(panels).replace("</", "<\\/")),
        encoding="utf-8",
    )
    driver = browser("en", (WIDTH, 900), dark=False)
    try:
        driver.get(page.as_uri())
        height = driver.execute_script("return document.documentElement.scrollHeight")
        size = {"width": WIDTH, "height": height, "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        driver.save_screenshot(str(to))
    finally:
        driver.quit()


async def watched(town: Town, address: str, seconds: float) -> list[dict[str, Any]]:
    began = time.time()
    async with NodeTimeout(town.settings) as app:
        web = f"http://127.0.0.1:{town.ports[WEB]}"
        await asyncio.gather(load(app, web, seconds), faults(town, seconds))
    await asyncio.sleep(2 * SCRAPE_SECONDS)
    return await asyncio.to_thread(asked, address, began, time.time())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--to", type=Path, default=ROOT / "docs" / "images" / "dashboard.png")
    parser.add_argument("--seconds", type=float, default=300.0)
    options = parser.parse_args()
    chance = random.Random(11)
    with (
        tempfile.TemporaryDirectory() as name,
        Servers(Path(name), "postgresql").running() as servers,
        serving(lambda _: Reply(503 if chance.random() < REFUSED_SHARE else 204)) as webhook,
    ):
        directory = Path(name)
        stores = servers.fresh()
        settings = Settings(
            database_url=stores.database,
            redis_url=stores.redis,
            amqp_url=stores.amqp,
            engine="dry_run",
            webhook_url=webhook.url,
            lease_seconds=4,
            worker_lease=6,
            max_attempts=4,
        )
        asyncio.run(Schema(stores.database).migrate())
        town = Town(servers, settings, directory)
        with town.running(), prometheus(town, directory) as address:
            panels = asyncio.run(watched(town, address, options.seconds))
        drawn(panels, directory, options.to)


if __name__ == "__main__":
    main()
