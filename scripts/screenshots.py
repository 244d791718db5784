"""Makes the pictures of the console that are in the documents: every screen, in both languages.

Run from the root of the checkout, with Chromium and its driver on the path:
python scripts/screenshots.py [--to docs/images]
"""

import argparse
import asyncio
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from node_timeout import NodeTimeout
from node_timeout.domain.run import RunState
from node_timeout.embedded.dev import embedded, with_port
from node_timeout.runtime import presence
from node_timeout.testing.engine import FakeEngine
from node_timeout.web.server import WebServer

ROOT = Path(__file__).parents[1]
WIDE, NARROW = (1280, 860), (360, 780)
ORDERS = "order-2026-11-27-0412"
SCREENS: dict[str, Callable[[dict[str, str]], str]] = {
    "overview": lambda _: "/",
    "runs": lambda _: "/runs",
    "run": lambda ids: f"/run?run_id={ids['paused']}",
    "pipeline": lambda _: f"/pipeline?root_pipeline_id={quote(ORDERS)}",
    "search": lambda _: "/search?q=order",
    "dead": lambda _: "/dead",
    "letters": lambda _: "/letters",
    "lateness": lambda _: "/lateness",
    "configs": lambda _: "/configs",
    "processes": lambda _: "/processes",
}
NODES = {
    "fetch_orders": 120.0,
    "check_stock": 0.4,
    "reserve_stock": 900.0,
    "charge_card": 1800.0,
    "page_warehouse": 0.5,
    "print_label": 3600.0,
    "call_carrier": 0.6,
    "send_mail": 300.0,
}
LETTERS = {
    b'{"schema": 9, "events": []}': "schema 9 is unknown",
    b"pack_parcel_v1": "node 'pack_parcel' has no config",
}


async def play(app: NodeTimeout) -> dict[str, str]:
    """Sample runs in every state; return ids of some."""
    engine = FakeEngine()
    app.use_engine(engine)
    configs = {
        node: {"enable": True, "action": "forced_fail", "seconds": seconds}
        for node, seconds in NODES.items()
    }
    configs["page_warehouse"]["action"] = "webhook"  # which has no address: it dies
    configs["call_carrier"]["action"] = "forced_fail_and_skip"
    for number in range(6):
        root = ORDERS if number == 0 else f"order-2026-11-27-04{20 + number}"
        tree = {
            "activities": {
                node: {"id": node, "type": "ServiceActivity", "timeout_config": config}
                for node, config in configs.items()
            }
        }
        await app.batch_create_node_timeout_config(root, tree)
        await app.nodes_started([(node, "v1", root) for node in NODES])
        for run in [(node, "v1", root) for node in NODES]:
            engine.versions[root, run[0]] = "v1"
    await app.extend("charge_card", "v1", ORDERS, by=600, actor="ann", reason="the bank is slow")
    await app.pause("reserve_stock", "v1", ORDERS, actor="ann", reason="stock-taking until noon")
    await app.node_left("send_mail", "v1", ORDERS)
    for body, reason in LETTERS.items():
        await app.exchange.dead_letter(body, reason)
    (paused,) = await app.rows("reserve_stock", ORDERS)
    return {"paused": paused.run_id}


async def settled(app: NodeTimeout) -> None:
    """Until what is due has been dealt with, or has died."""
    while True:
        dead = await app.ledger.count([RunState.DEAD, RunState.HANDLED])
        if dead[RunState.DEAD] and dead[RunState.HANDLED] >= len(NODES):
            return
        await asyncio.sleep(0.1)


def browser(language: str, size: tuple[int, int], *, dark: bool) -> webdriver.Chrome:
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or "chromium"
    for argument in (
        *("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
        *("--force-device-scale-factor=1", "--disable-dev-shm-usage"),
        f"--accept-lang={language}",
        *(["--force-dark-mode", "--blink-settings=preferredColorScheme=0"] if dark else []),
    ):
        options.add_argument(argument)
    options.add_experimental_option("prefs", {"intl.accept_languages": language})
    found = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    found.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": False},
    )
    if dark:
        features = [{"name": "prefers-color-scheme", "value": "dark"}]
        found.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    return found


def picture(
    address: str, ids: dict[str, str], to: Path, language: str, how: str, size: tuple[int, int]
) -> None:
    driver = browser(language, size, dark=how == "dark")
    try:
        for name, path in SCREENS.items():
            if how and name not in ("overview", "runs", "run"):
                continue
            driver.get(address.rstrip("/") + path(ids))
            driver.implicitly_wait(2)
            if name == "letters":
                driver.find_element("css selector", "button[value=look]").click()
                driver.find_element("css selector", "button[value=resend]")
            if name == "lateness":
                driver.find_element("css selector", "#plot canvas")
            suffix = f"-{how}" if how else ""
            driver.save_screenshot(str(to / f"{name}{suffix}.{language.partition('-')[0]}.png"))
    finally:
        driver.quit()


async def main(to: Path) -> None:
    to.mkdir(parents=True, exist_ok=True)
    presence.HOST = "app-1"
    with tempfile.TemporaryDirectory() as directory:
        async with embedded(Path(directory)) as stores:
            settings = with_port(
                stores.settings(engine="dry_run", max_attempts=1, dispatch_ahead=0.02), None
            )
            async with NodeTimeout(settings) as app:
                stop = asyncio.Event()
                server = WebServer(app)
                ids = await play(app)
                tasks = [
                    asyncio.create_task(app.scan_and_work(stop)),
                    asyncio.create_task(server.run(stop, name="web")),
                ]
                await settled(app)
                await asyncio.sleep(2)
                for language in ("en", "zh-CN"):
                    for how, size in (("", WIDE), ("dark", WIDE), ("narrow", NARROW)):
                        await asyncio.to_thread(
                            picture, server.address, ids, to, language, how, size
                        )
                stop.set()
                await asyncio.gather(*tasks)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", type=Path, default=ROOT / "docs" / "images")
    asyncio.run(main(parser.parse_args().to))
