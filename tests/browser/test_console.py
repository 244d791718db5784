"""The console in a real Chromium: every screen and action, in both languages, for everybody."""

import asyncio
import hashlib
import json
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException, TimeoutException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from node_timeout import NodeTimeout
from node_timeout.domain.run import RunState
from node_timeout.domain.tokens import Role
from node_timeout.settings import Settings
from node_timeout.web.languages import words
from node_timeout.web.rendering import REFRESH_SECONDS
from node_timeout.web.routes import PAGES
from tests.integration.test_console import HOSTILE
from tests.integration.test_web_api import Web, armed, dead, serving, waiting
from tests.support import config, configure, id_of, wait_until

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
VENDOR = Path(__file__).parent / "vendor"
WIDE, NARROW = (1280, 900), (360, 780)
SECONDS = 15

pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs Chromium and its driver")


class Browser:
    """Calls run in a thread: the server is in this one."""

    def __init__(self, driver: webdriver.Chrome, address: str) -> None:
        self.driver, self.address = driver, address.rstrip("/")

    async def go(self, path: str) -> None:
        await asyncio.to_thread(self.driver.get, self.address + path)

    async def run(self, script: str, *arguments: Any) -> Any:
        return await asyncio.to_thread(self.driver.execute_script, script, *arguments)

    async def click(self, selector: str) -> None:
        def clicked(driver: webdriver.Chrome) -> bool:
            driver.find_element(By.CSS_SELECTOR, selector).click()
            return True

        await self._until(clicked)

    async def type(self, selector: str, text: str) -> None:
        def typed(driver: webdriver.Chrome) -> bool:
            field = driver.find_element(By.CSS_SELECTOR, selector)
            field.clear()
            field.send_keys(text)
            return True

        await self._until(typed)

    async def shows(self, text: str) -> None:
        await self._until(lambda driver: text in driver.find_element(By.TAG_NAME, "body").text)

    async def _until(self, done: Callable[[webdriver.Chrome], bool]) -> None:
        """Once more if the page changed between the look at an element and its use."""
        wait = WebDriverWait(
            self.driver, SECONDS, ignored_exceptions=[StaleElementReferenceException]
        )
        try:
            await asyncio.to_thread(lambda: wait.until(done))
        except TimeoutException:
            text = await self.run("return document.body.innerText")
            pytest.fail(f"not within {SECONDS} s at {self.driver.current_url}:\n{text}")

    async def violations(self) -> list[str]:
        """What axe-core finds, and whatever the browser has complained of."""
        await self.run((VENDOR / "axe.min.js").read_text(encoding="utf-8"))
        found = await asyncio.to_thread(
            self.driver.execute_async_script,
            "axe.run().then(arguments[arguments.length - 1])",
        )
        logs = await asyncio.to_thread(self.driver.get_log, "browser")
        complaints = [each["message"] for each in logs if each["level"] == "SEVERE"]
        return complaints + [
            f"{each['id']}: {node['html'][:200]}"
            for each in found["violations"]
            for node in each["nodes"]
        ]


def chromium(language: str, size: tuple[int, int], *, dark: bool = False) -> webdriver.Chrome:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for argument in (
        *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
        *("--disable-background-networking", "--no-first-run"),
    ):
        options.add_argument(argument)
    options.add_experimental_option("prefs", {"intl.accept_languages": language})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    width, height = size
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
    )
    if dark:
        features = [{"name": "prefers-color-scheme", "value": "dark"}]
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    return driver


@pytest.fixture
async def web(settings: Settings) -> AsyncIterator[Web]:
    async with serving(settings, web_rate=1000) as found:
        yield found


@pytest.fixture
def driver() -> Iterator[webdriver.Chrome]:
    found = chromium("en", WIDE)
    yield found
    found.quit()


@pytest.fixture
def browser(web: Web, driver: webdriver.Chrome) -> Browser:
    return Browser(driver, str(web[1].base_url))


async def sample(app: NodeTimeout) -> None:
    """Runs in every state that has a look of its own."""
    await armed(app, "a", "paused", "long " * 20 + "name", HOSTILE)
    await dead(app, "gone")
    await app.pause("paused", actor="ann", reason="a test")
    await app.extend("a", by=60, actor="ann", reason=HOSTILE)


PATHS = {
    "/run": f"/run?run_id={id_of('paused')}",
    "/pipeline": "/pipeline?root_pipeline_id=root",
    "/search": "/search?q=nobody",
}


@pytest.mark.parametrize("language", ["en", "zh-CN"])
@pytest.mark.parametrize(("size", "is_dark"), [(WIDE, False), (WIDE, True), (NARROW, False)])
async def test_every_screen_is_for_everybody(
    web: Web, language: str, size: tuple[int, int], is_dark: bool
) -> None:
    """No violation of accessibility, nothing wider than the screen, no complaint of the browser."""
    app, client = web
    await sample(app)
    driver = await asyncio.to_thread(lambda: chromium(language, size, dark=is_dark))
    browser = Browser(driver, str(client.base_url))
    try:
        for path in [*PAGES, f"/run?run_id={id_of('never')}", "/login", "/runs?tab=paused"]:
            await browser.go(PATHS.get(path, path))
            is_missing = "never" in path or id_of("never") in path
            found = [
                each
                for each in await browser.violations()
                if not (is_missing and "status of 404" in each)
            ]
            assert found == [], path
            wide = await browser.run("return document.documentElement.scrollWidth")
            assert wide <= size[0], path
            shown = await browser.run("return document.documentElement.lang")
            assert shown == language
    finally:
        await asyncio.to_thread(driver.quit)


@pytest.mark.parametrize("language", ["en", "zh"])
async def test_a_run_is_extended_paused_reconfigured_resumed_and_fired(
    web: Web, browser: Browser, language: str
) -> None:
    app, _ = web
    await armed(app, "a")
    await configure(app.ledger, config("a", 500))
    say = words(language)
    await browser.go("/")
    if language == "zh":
        await browser.click("button[name=language][value=zh]")
        await browser.shows(say["theme.note"])
    await browser.go(f"/run?run_id={id_of('a')}")
    for change in ("extend", "pause", "reconfigure", "resume", "fire"):
        await browser.type(".steer input[name=reason]", f"because of {change}")
        await browser.click(f"button[name=change][value={change}]")
        await browser.shows(f"{say[f'change.{change}']}: {say['verdict.done']}")
        await browser.shows(f"because of {change}")
    (row,) = await app.rows("a")
    assert (row.state, row.revision, row.timeout) == (RunState.ARMED, 5, 500)
    assert [entry.actor for entry in await app.history([row.run_id])] == ["local user"] * 5


async def test_a_slip_in_a_duration_takes_no_reason_away(web: Web, browser: Browser) -> None:
    app, _ = web
    await armed(app, "a")
    await browser.go(f"/run?run_id={id_of('a')}")
    for wrong in ("ten minutes", "10m"):
        await browser.type(".steer input[name=reason]", "it is slow")
        await browser.type(".steer input[name=by]", wrong)
        await browser.click("button[value=extend]")
        kept = "return document.querySelector('.steer input[name=reason]').value"
        assert await browser.run(kept) == "it is slow"
        assert not await browser.run("return document.querySelector('.steer').checkValidity()")
    for right in ("-PT5M", "P1DT1H", "PT0.5S", "P2W", "90", "-90.5"):
        await browser.type(".steer input[name=by]", right)
        assert await browser.run("return document.querySelector('.steer').checkValidity()"), right
    assert (await app.rows("a"))[0].revision == 0


async def test_a_dead_run_is_replayed_and_another_deleted(web: Web, browser: Browser) -> None:
    app, _ = web
    await dead(app, "a", "b")
    await browser.go("/dead")
    await browser.click("form details summary")
    await browser.click(f"input[value='{id_of('a')}']")
    await browser.type(".bulk input[name=reason]", "fixed")
    await browser.click(".bulk button")
    await browser.shows("Replay: 1 done")
    await browser.go(f"/run?run_id={id_of('b')}")
    await browser.type(".steer input[name=reason]", "old")
    await browser.click("button[value=discard]")
    await asyncio.to_thread(browser.driver.switch_to.alert.dismiss)
    assert len(await app.rows("b")) == 1, "it asks before it deletes"
    await browser.click("button[value=discard]")
    await asyncio.to_thread(browser.driver.switch_to.alert.accept)
    await browser.shows(words("en")["dead.none"])
    assert await app.rows("b") == []


async def test_dead_letters_are_looked_at_dropped_and_sent_again(
    web: Web, browser: Browser
) -> None:
    app, _ = web
    for body in (b"one", b"two", b"three"):
        await app.exchange.dead_letter(body, "not JSON")
    await wait_until(lambda: waiting(app, 3))
    await browser.go("/letters")
    await browser.click("button[value=look]")
    await browser.shows("not JSON")
    assert await browser.violations() == []
    await browser.click("tbody tr:first-child input[name=letter_ids]")
    await browser.click("button[value=discard]")
    await asyncio.to_thread(browser.driver.switch_to.alert.accept)
    await browser.shows(words("en")["letters.done"].format(count=1))
    await wait_until(lambda: waiting(app, 2))
    await browser.click("button[value=look]")
    await browser.shows("not JSON")
    await browser.run("document.querySelector('select[name=which]').value = 'all'")
    await browser.click("button[value=resend]")
    await browser.shows(words("en")["letters.done"].format(count=2))
    await wait_until(lambda: waiting(app, 0))
    assert (await app.exchange.depths())[app.settings.dispatch_queue] == 2


async def test_two_who_change_one_run_do_not_undo_each_other(web: Web, browser: Browser) -> None:
    app, _ = web
    await armed(app, "a")
    await browser.go(f"/run?run_id={id_of('a')}")
    await app.extend("a", by=60, actor="bob", reason="first")
    await browser.type(".steer input[name=reason]", "second")
    await browser.click("button[value=pause]")
    await browser.shows(words("en")["verdict.revision"])
    (row,) = await app.rows("a")
    assert row.state is RunState.ARMED


async def test_a_list_refreshes_unless_something_is_selected(web: Web, browser: Browser) -> None:
    app, _ = web
    await armed(app, "first")
    await browser.go("/runs")
    await armed(app, "second")
    await browser.shows("second")
    await browser.click("input[name=run_ids]")
    await armed(app, "third")
    await asyncio.sleep(REFRESH_SECONDS + 2)
    assert not await _has(browser, id_of("third"))
    await browser.click("input[name=run_ids]:checked")
    await wait_until(lambda: _has(browser, id_of("third")), SECONDS)
    await armed(app, "fourth")
    await browser.run(BEGUN_WHILE_UNDER_WAY)
    await wait_until(lambda: browser.run("return window.answered"), SECONDS)
    assert await browser.run("return document.querySelector('input[name=run_ids]').checked")
    assert not await _has(browser, id_of("fourth"))


BEGUN_WHILE_UNDER_WAY = """
    document.body.addEventListener("htmx:afterOnLoad", () => { window.answered = true; });
    const where = { target: "#live", select: "#live", swap: "outerHTML" };
    htmx.ajax("GET", location.href, where);
    document.querySelector("input[name=run_ids]").checked = true;
"""


async def _has(browser: Browser, run_id: str) -> bool:
    return bool(await browser.run(f"return document.querySelector(\"input[value='{run_id}']\")"))


async def test_all_that_match_are_changed_until_somebody_says_stop(
    web: Web, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, _ = web
    monkeypatch.setattr("node_timeout.operations.changing.MAX_FOUND", 2)
    await configure(app.ledger, *(config(f"n{i}", 1000 + i) for i in range(9)))
    await app.nodes_started([(f"n{i}", "v1", "root") for i in range(9)])
    await browser.go("/runs")
    await browser.click("form details summary")
    await browser.run("document.querySelector('select[name=change]').value = 'cancel'")
    await browser.run("document.querySelector('select[name=which]').value = 'all'")
    await browser.type(".bulk input[name=reason]", "rolled back")
    await browser.click(".bulk button")
    await browser.shows("Cancel: 2 done")
    await browser.click("[data-stop]")
    await asyncio.sleep(3)
    left = (await app.ledger.count([RunState.ARMED]))[RunState.ARMED]
    assert left in (5, 7), "nothing goes on behind a stop"
    await browser.click("[data-continue] button:first-of-type")
    await wait_until(lambda: _none_is_armed(app), 3 * SECONDS)


async def _none_is_armed(app: NodeTimeout) -> bool:
    return not (await app.ledger.count([RunState.ARMED]))[RunState.ARMED]


async def test_without_a_script_everything_can_be_done(web: Web, browser: Browser) -> None:
    app, _ = web
    await armed(app, "a")
    driver = browser.driver
    await asyncio.to_thread(
        driver.execute_cdp_cmd, "Emulation.setScriptExecutionDisabled", {"value": True}
    )
    await browser.go(f"/run?run_id={id_of('a')}")
    await browser.type(".steer input[name=reason]", "no script")
    await browser.click("button[value=pause]")
    await browser.shows(f"{words('en')['change.pause']}: {words('en')['verdict.done']}")


async def test_a_login_that_ends_in_the_middle_is_said(
    web: Web, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, _ = web
    monkeypatch.setattr("node_timeout.web.access.KEPT_SECONDS", 0.0)
    text, token = await app.create_token(Role.OPERATE, "ann")
    await armed(app, "a")
    await wait_until(app.ledger.has_tokens)
    await browser.go(f"/run?run_id={id_of('a')}")
    await browser.type("input[name=token]", text)
    await browser.click(".login button")
    await browser.shows("ann, operate")
    await app.revoke_token(token.token_id)
    await browser.type(".steer input[name=reason]", "too late")
    await browser.click("button[value=pause]")
    await browser.shows(words("en")["login.ended"])
    (row,) = await app.rows("a")
    assert row.state is RunState.ARMED


async def test_hostile_ids_do_nothing(web: Web, browser: Browser) -> None:
    app, _ = web
    await armed(app, HOSTILE)
    await app.extend(HOSTILE, by=1, actor="ann", reason=HOSTILE)
    for path in ("/runs", f"/run?run_id={id_of(HOSTILE)}", "/configs"):
        await browser.go(path)
        assert await browser.run("return document.scripts.length") == 2
        assert await browser.violations() == []


def test_the_checker_is_unchanged() -> None:
    digest, name = (VENDOR / "SHA256SUMS").read_text().split()
    assert hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() == digest
    assert json.dumps(name) in json.dumps(sorted(path.name for path in VENDOR.iterdir()))
