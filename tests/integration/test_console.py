"""The console's pages by requests, without a browser: what they show, what they let people do."""

import asyncio
import hashlib
import json
import re
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from sqlalchemy import text as sql

from node_timeout.domain.changes import Verdict
from node_timeout.domain.history import HistoryKind
from node_timeout.domain.run import Outcome, RunState
from node_timeout.domain.tokens import Role
from node_timeout.settings import Settings
from node_timeout.web import pages
from node_timeout.web.languages import LANGUAGES, WORDS, words
from node_timeout.web.routes import PAGES
from node_timeout.web.sessions import COOKIE, Sessions
from tests.certificates import Authority
from tests.integration.test_web_api import Web, armed, dead, serving, waiting
from tests.support import config, configure, id_of, run, started, wait_until

WEB = WORDS.parent
VENDOR = WEB / "static" / "vendor"
TEMPLATES = sorted((WEB / "templates").glob("*.html"))
HOSTILE = "<script>alert(1)</script>/%2F\u202e🙂\"'&"
SAME_SITE = {"sec-fetch-site": "same-origin"}


@pytest.fixture
async def web(settings: Settings) -> AsyncIterator[Web]:
    async with serving(settings) as found:
        yield found


async def post(client: httpx.AsyncClient, path: str, **fields: Any) -> httpx.Response:
    return await client.post(path, data=fields, headers=SAME_SITE, follow_redirects=True)


@pytest.mark.parametrize("language", LANGUAGES)
async def test_every_page_is_there_in_each_language(web: Web, language: str) -> None:
    app, client = web
    await armed(app, "a", HOSTILE)
    await dead(app, "gone")
    await app.pause("a", actor="ann", reason="a test")
    client.headers["accept-language"] = "fr, zh-CN;q=0.9" if language == "zh" else "de"
    queries = {"/run": f"?run_id={id_of('a')}", "/pipeline": "?root_pipeline_id=root"}
    for path in PAGES:
        answer = await client.get(path + queries.get(path, ""))
        assert answer.status_code == 200, (path, answer.text)
        name = {"/run": "run.change", "/pipeline": "pipeline.title", "/search": "search.button"}
        text = words(language)[name.get(path, "title")]
        assert text in answer.text, path
        assert "<script>alert" not in answer.text
        assert f'lang="{"zh-CN" if language == "zh" else "en"}"' in answer.text


async def test_a_chosen_language_stays(web: Web) -> None:
    _, client = web
    answer = await post(client, "/language", language="zh", next="/runs?tab=dead")
    assert str(answer.url).endswith("/runs?tab=dead")
    assert words("zh")["runs.title"] in answer.text
    assert words("zh")["runs.title"] in (await client.get("/runs")).text
    assert (await post(client, "/language", language="xx")).status_code == 400


@pytest.mark.parametrize("elsewhere", ["//evil.example", "https://evil.example", "/\\evil.example"])
async def test_nobody_is_led_elsewhere(web: Web, elsewhere: str) -> None:
    _, client = web
    answer = await client.post(
        "/language", data={"language": "en", "next": elsewhere}, headers=SAME_SITE
    )
    assert answer.headers["location"] == "/"


@pytest.mark.parametrize("broken", ["//[", "//[::1", "/\\[", "http://["])
async def test_an_address_that_cannot_be_read_leads_to_the_start(web: Web, broken: str) -> None:
    app, client = web
    page = await client.get("/login", params={"next": broken})
    assert (page.status_code, 'name="next" value="/"' in page.text) == (200, True)
    text, _ = await app.create_token(Role.READ, "ann")
    for path, fields in (("/login", {"token": text}), ("/language", {"language": "en"})):
        answer = await client.post(path, data={**fields, "next": broken}, headers=SAME_SITE)
        assert (answer.status_code, answer.headers["location"]) == (303, "/")


async def test_a_run_is_shown_whatever_its_address_and_its_row_say(web: Web) -> None:
    app, client = web
    await armed(app, "a")
    query = {"run_id": id_of("a"), "change": "extend"}
    for said, is_said in (("done", True), ("foo", False)):
        page = await client.get("/run", params={**query, "said": said})
        assert (page.status_code, 'role="status"' in page.text) == (200, is_said)
    await app.pause("a", actor="ann", reason="a test")
    async with app.ledger.engine.begin() as connection:
        await connection.execute(sql("UPDATE node_timeout_run SET stopped_by = NULL"))
    assert (await client.get("/run", params=query)).status_code == 200


async def test_a_long_history_is_cut_and_says_so(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    app, client = web
    monkeypatch.setattr("node_timeout.web.api.HISTORY_LINES", 2)
    await armed(app, "a")
    for count in (1, 2, 3):
        await app.extend("a", by=1, actor="ann", reason=f"reason {count}")
        for language in LANGUAGES:
            headers = {"accept-language": language}
            page = await client.get("/run", params={"run_id": id_of("a")}, headers=headers)
            more = words(language)["run.history.more"].format(number=2)
            assert (more in page.text) == (count == 3)
    assert ("reason 1" in page.text, "reason 3" in page.text) == (False, True)


async def test_hostile_ids_are_only_ever_text(web: Web) -> None:
    app, client = web
    await armed(app, HOSTILE)
    run_id = id_of(HOSTILE)
    for path in ("/runs", f"/run?run_id={run_id}", "/pipeline?root_pipeline_id=root", "/configs"):
        text = (await client.get(path)).text
        assert "<script>alert" not in text
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    found = await client.get("/search", params={"q": HOSTILE})
    assert found.headers["location"] == f"/run?run_id={run_id}"


async def test_search_leads_to_what_is_called_so(web: Web) -> None:
    app, client = web
    await configure(app.ledger, config("twice", 99), config("twice", 99, root="other"))
    await app.nodes_started([("twice", "v1", "root"), ("twice", "v1", "other")])
    leads = {
        id_of("twice"): f"/run?run_id={id_of('twice')}",
        "other": "/pipeline?root_pipeline_id=other",
    }
    for text, target in leads.items():
        assert (await client.get("/search", params={"q": text})).headers["location"] == target
    both = (await client.get("/search", params={"q": "twice"})).text
    assert both.count("/run?run_id=") == 2
    begins = (await client.get("/search", params={"q": "twi"})).text
    assert '<a class="id" href="/search?q=twice">twice</a>' in begins
    begins = (await client.get("/search", params={"q": "oth"})).text
    assert '<a class="id" href="/pipeline?root_pipeline_id=other">other</a>' in begins
    for nothing in ("nobody", "x" * 128, "\x00", " "):
        answer = await client.get("/search", params={"q": nothing})
        assert answer.status_code == 200


async def test_pages_of_runs_follow_each_other(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    app, client = web
    monkeypatch.setattr(pages, "PER_PAGE", 2)
    await configure(app.ledger, *(config(f"n{i}", 100 + i) for i in range(5)))
    await app.nodes_started([(f"n{i}", "v1", "root") for i in range(5)])
    seen: list[str] = []
    path = "/runs"
    while True:
        text = (await client.get(path)).text
        seen += re.findall(r">(n\d)</a>", text)
        following = re.search(r'href="([^"]+)" rel="next"', text)
        if following is None:
            break
        path = following[1].replace("&amp;", "&")
    assert seen == [f"n{i}" for i in range(5)]
    assert (await client.get("/runs?tab=nonsense")).status_code == 404
    assert (await client.get("/runs?after=nonsense")).status_code == 400
    assert "n3" not in (await client.get("/runs?node_id=n1")).text


async def test_a_run_is_changed_from_its_own_page(web: Web) -> None:
    app, client = web
    await armed(app, "a")
    (before,) = await app.rows("a")
    one = {"run_id": id_of("a"), "reason": "a test"}
    page = await post(client, "/run/change", **one, change="extend", by="PT10M", revision="0")
    assert words("en")["verdict.done"] in page.text
    assert "local user" in page.text
    (row,) = await app.rows("a")
    assert row.deadline == pytest.approx((before.deadline or 0.0) + 600)
    stale = await post(client, "/run/change", **one, change="fire", revision="0")
    assert words("en")["verdict.revision"] in stale.text, "somebody else has changed it meanwhile"
    paused = await post(client, "/run/change", **one, change="pause", revision="1")
    assert words("en")["state.paused"] in paused.text
    nothing = await post(client, "/run/change", **one, change="explode")
    assert nothing.status_code == 400
    unsaid = await post(client, "/run/change", run_id=id_of("a"), change="resume", reason=" ")
    assert (unsaid.status_code, "reason is missing" in unsaid.text) == (400, True)
    plain = await post(client, "/run/change", **one, change="extend", by="600")
    assert words("en")["verdict.done"] in plain.text, "seconds, as the command line takes them"
    wrong = await post(client, "/run/change", **one, change="extend", by="ten minutes")
    assert "no duration such as PT10M" in wrong.text
    assert f'href="/run?run_id={id_of("a")}"' in wrong.text, "back, to try again"
    gone = await client.get(f"/run?run_id={id_of('never')}")
    assert (gone.status_code, words("en")["run.missing"] in gone.text) == (404, True)
    kinds = [entry.kind for entry in await app.history([id_of("a")])]
    assert kinds == [HistoryKind.EXTENDED, HistoryKind.PAUSED, HistoryKind.EXTENDED]


async def test_how_much_time_is_left_stands_beside_the_instant(web: Web) -> None:
    app, client = web
    await configure(app.ledger, config("a", 600))
    await app.node_started("a", "v1")
    for path in ("/runs", f"/run?run_id={id_of('a')}"):
        text = (await client.get(path)).text
        assert re.search(r"in (10 min|9 min [0-9]+ s)<", text), path
    client.headers["accept-language"] = "zh"
    assert re.search("(10 分|9 分 [0-9]+ 秒)后<", (await client.get("/runs")).text)
    assert words("zh")["who.local"] in (await client.get("/runs")).text


async def test_a_run_s_page_says_which_config_it_could_follow(web: Web) -> None:
    app, client = web
    await armed(app, "a")
    path, newer = f"/run?run_id={id_of('a')}", words("en")["run.newer"]
    text = (await client.get(path)).text
    assert newer not in text, "it follows the only one that there is"
    assert 'value="reconfigure"' not in text
    await configure(app.ledger, config("a", 7200, action="notify"))
    text = (await client.get(path)).text
    assert newer in text
    assert 'value="reconfigure"' in text
    assert re.search(r"notify\s+·\s+2\s*h", text)
    said = {"run_id": id_of("a"), "reason": "a test", "revision": "0"}
    page = await post(client, "/run/change", **said, change="reconfigure")
    assert words("en")["kind.reconfigured"] in page.text
    assert newer not in page.text
    (row,) = await app.rows("a")
    assert (row.action, row.timeout) == ("notify", 7200)


async def test_dead_letters_of_one_process_are_seen_too(settings: Settings) -> None:
    """In `dev` no broker names their queue."""
    alone = settings.model_copy(update={"amqp_url": SecretStr("memory://")})
    async with serving(alone) as (app, client):
        await app.exchange.dead_letter(b"two", "not JSON")
        assert 'value="look"' in (await client.get("/letters")).text


async def test_dead_letters_are_sent_again_or_dropped_from_their_page(web: Web) -> None:
    app, client = web
    say = words("en")
    assert say["letters.none"] in (await client.get("/letters")).text
    for body in (b"<script>alert(1)</script>", b"two", b"three"):
        await app.exchange.dead_letter(body, "not JSON")
    await wait_until(lambda: waiting(app, 3))
    assert 'href="/letters"' in (await client.get("/dead")).text
    assert "not JSON" not in (await client.get("/letters")).text, "a look moves them"
    page = (await post(client, "/letters/change", change="look")).text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<script>alert" not in page
    await wait_until(lambda: waiting(app, 3))
    two = next(each for each in (await app.letters()).kept if each.body == "two")
    await wait_until(lambda: waiting(app, 3))
    done = await post(client, "/letters/change", change="discard", letter_ids=[two.letter_id])
    assert say["letters.done"].format(count=1) in done.text
    await wait_until(lambda: waiting(app, 2))
    nothing = await post(client, "/letters/change", change="resend", which="selected")
    assert (nothing.status_code, 'href="/letters"' in nothing.text) == (400, True)
    assert (await post(client, "/letters/change", change="read")).status_code == 400
    done = await post(client, "/letters/change", change="resend", which="all")
    assert say["letters.done"].format(count=2) in done.text
    assert (await app.exchange.depths())[app.settings.dispatch_queue] == 2


async def test_how_a_run_ended_is_the_end_of_its_history(web: Web) -> None:
    app, client = web
    await configure(app.ledger, config("a", 1))
    now = await app.pool.now()
    due = await app.ledger.arm(started([run("a")]), now - 9)
    taking = await app.ledger.take(due, now=now, lease_seconds=9, max_attempts=1)
    outcome = Outcome(node=taking.taken[0], state=RunState.HANDLED, message="failed it")
    await app.ledger.record([outcome], owner=taking.owner, now=now)
    page = (await client.get(f"/run?run_id={id_of('a')}")).text
    timeline = page.partition('<ol class="timeline">')[2].partition("</ol>")[0]
    assert timeline.count("<li>") == 1
    assert words("en")["state.handled"] in timeline
    assert "failed it" in timeline


async def test_selected_runs_are_changed_together(web: Web) -> None:
    app, client = web
    await armed(app, "a", "b", "c")
    chosen = [id_of("a"), id_of("b"), id_of("never")]
    fields = {"change": "cancel", "reason": "a test", "tab": "armed", "which": "selected"}
    page = await post(client, "/runs/change", **fields, run_ids=chosen)
    assert words("en")["verdict.title"].format(change="Cancel", count=2) in page.text
    assert words("en")["verdict.missing"] in page.text
    assert "/run?run_id=" + id_of("c") in page.text
    nothing = await post(client, "/runs/change", **fields)
    assert words("en")["bulk.nothing"] in nothing.text


async def test_all_that_match_are_changed_a_thousand_at_a_time(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, client = web
    monkeypatch.setattr("node_timeout.operations.changing.MAX_FOUND", 3)
    await configure(app.ledger, *(config(f"n{i}", 100 + i) for i in range(7)))
    await app.nodes_started([(f"n{i}", "v1", "root") for i in range(7)])
    fields = {"change": "pause", "reason": "a test", "tab": "armed", "which": "all"}
    for left in (4, 1, 0):
        page = await post(client, "/runs/change", **fields)
        counts = await app.ledger.count([RunState.ARMED])
        assert counts[RunState.ARMED] == left
        assert ("data-continue" in page.text) == (left > 0)
    again = re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', page.text)
    assert ("tab", "armed") in again


async def test_the_dead_are_replayed_and_deleted(web: Web) -> None:
    app, client = web
    await dead(app, "a", "b")
    fields = {"tab": "dead", "which": "selected", "reason": "fixed"}
    await post(client, "/runs/change", **fields, change="replay", run_ids=[id_of("a")])
    page = await post(
        client, "/run/change", run_id=id_of("b"), change="discard", reason="old", revision="0"
    )
    assert str(page.url).endswith("/dead")
    assert words("en")["dead.none"] in page.text
    assert await app.rows("b") == []
    (row,) = await app.rows("a")
    assert row.state is RunState.ARMED


# Logging in


async def test_who_has_a_token_logs_in_once_and_out_again(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node_timeout.web.access.KEPT_SECONDS", 0.0)
    async with serving(settings) as (app, client):
        text, token = await app.create_token(Role.OPERATE, "ann")
        await armed(app, "a")
        led = await client.get("/runs?tab=armed")
        assert led.headers["location"].startswith("/login?next=%2Fruns%3Ftab%3Darmed")
        wrong = await post(client, "/login", token="nt_operate_" + "x" * 43)
        assert (wrong.status_code, words("en")["login.wrong"] in wrong.text) == (401, True)
        page = await post(client, "/login", token=text, next="/runs?tab=armed")
        assert str(page.url).endswith("/runs?tab=armed")
        assert "ann, operate" in page.text
        cookie = client.cookies.get(COOKIE) or ""
        assert text not in cookie
        set_by = await client.post("/login", data={"token": text}, headers=SAME_SITE)
        flags = set_by.headers["set-cookie"].lower()
        assert "httponly" in flags
        assert "samesite=strict" in flags
        one = {"run_id": id_of("a"), "change": "pause", "reason": "a test"}
        for headers in ({}, {"sec-fetch-site": "cross-site"}, {"origin": "http://evil.example"}):
            answer = await client.post("/run/change", data=one, headers=headers)
            assert answer.status_code == 403
        assert (await client.post("/run/change", data=one, headers=SAME_SITE)).status_code == 303
        await app.revoke_token(token.token_id)
        ended = await client.get("/runs", follow_redirects=True)
        assert words("en")["login.ended"] in ended.text
        await post(client, "/logout")
        assert client.cookies.get(COOKIE) is None


async def test_who_may_only_look_changes_nothing(settings: Settings) -> None:
    async with serving(settings) as (app, client):
        text, _ = await app.create_token(Role.READ, "bob")
        await armed(app, "a")
        await post(client, "/login", token=text)
        page = (await client.get(f"/run?run_id={id_of('a')}")).text
        assert words("en")["run.readonly"] in page
        assert words("en")["who.read_only"] in page
        assert "/run/change" not in page
        one = {"run_id": id_of("a"), "change": "pause", "reason": "a test"}
        assert (await post(client, "/run/change", **one)).status_code == 403
        await app.exchange.dead_letter(b"one", "not JSON")
        await wait_until(lambda: waiting(app, 1))
        letters = (await client.get("/letters")).text
        assert (words("en")["dead.letters"].format(count=1) in letters, "not JSON" in letters) == (
            True,
            False,
        )
        said = {"change": "discard", "which": "all"}
        assert (await post(client, "/letters/change", **said)).status_code == 403
        events, _ = await app.create_token(Role.EVENTS, "engine")
        await post(client, "/login", token=events)
        assert (await client.get("/runs")).status_code == 403, "an engine's token sees nothing"


async def test_tokens_are_not_guessed_at_the_login(settings: Settings) -> None:
    async with serving(settings) as (app, client):
        await app.create_token(Role.READ, "bob")
        guesses = [
            (await post(client, "/login", token=f"nt_read_{number:043}")).status_code
            for number in range(20)
        ]
        assert guesses.count(429) >= 2


async def test_behind_a_trusted_proxy_each_client_has_its_own_tries(settings: Settings) -> None:
    async def guesses(client: httpx.AsyncClient, addresses: list[str]) -> list[int]:
        codes = []
        for number, address in enumerate(addresses):
            answer = await client.post(
                "/login",
                data={"token": f"nt_read_{number:043}"},
                headers={**SAME_SITE, "x-forwarded-for": address},
            )
            codes.append(answer.status_code)
        return codes

    changing = [f"198.51.100.1, 203.0.113.{number}" for number in range(20)]
    made_up = [f"203.0.113.{number}, 198.51.100.1" for number in range(20)]
    async with serving(settings, web_trusted_proxies=("127.0.0.1/32",)) as (_, client):
        assert await guesses(client, changing) == [401] * 20
        assert (await guesses(client, made_up)).count(429) >= 2, "the client makes up the first"
    async with serving(settings) as (_, client):
        assert (await guesses(client, changing)).count(429) >= 2, "nobody trusts this proxy"


async def test_the_cookie_is_secure_behind_a_proxy_with_tls(settings: Settings) -> None:
    for proxies, scheme, is_secure in (
        (("127.0.0.1/32",), "https", True),
        (("127.0.0.1/32",), "http", False),
        (("127.0.0.1/32",), "https, http", False),
        (("203.0.113.0/24",), "https", False),
    ):
        async with serving(settings, web_trusted_proxies=proxies) as (app, client):
            text, _ = await app.create_token(Role.READ, "ann")
            headers = {**SAME_SITE, "x-forwarded-proto": scheme}
            answer = await client.post("/login", data={"token": text}, headers=headers)
            assert ("secure" in answer.headers["set-cookie"].lower()) == is_secure, scheme


async def test_over_tls_the_pages_are_served_and_the_cookie_is_secure(
    settings: Settings, tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    own = authority.issue("127.0.0.1")
    files = {"web_tls_cert_file": own.cert_file, "web_tls_key_file": own.key_file}
    trusting = ssl.create_default_context(cafile=str(authority.ca_file))
    async with (
        serving(settings, **files) as (app, plain),
        httpx.AsyncClient(base_url=plain.base_url, verify=trusting) as client,
    ):
        text, _ = await app.create_token(Role.READ, "ann")
        answer = await client.post("/login", data={"token": text}, headers=SAME_SITE)
        assert "; secure" in answer.headers["set-cookie"].lower()
        await armed(app, *(f"n{i}" for i in range(60)))
        for path in ("/runs", "/static/vendor/htmx.min.js", "/runs"):
            assert (await client.get(path)).status_code == 200


def test_a_session_is_ours_and_ends() -> None:
    ours, other = Sessions("k" * 32), Sessions("x" * 32)
    cookie = ours.begin("nt_read_" + "a" * 43, 1000.0)
    assert ours.token_hash(cookie, 1000.0) is not None
    assert ours.token_hash(cookie, 1000.0 + 12 * 3600 + 1) is None
    assert other.token_hash(cookie, 1000.0) is None
    said, _, signature = cookie.rpartition(".")
    for forged in ("", ".", "..", "a.b.c", f"{said}9.{signature}", f"{said}.{signature}x", "é.1.é"):
        assert ours.token_hash(forged, 1000.0) is None


async def test_a_store_that_is_down_is_said_and_the_page_stands(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    from node_timeout.domain.errors import LedgerUnavailableError

    app, client = web

    async def away(*_: Any, **__: Any) -> Any:
        raise LedgerUnavailableError("database: away")

    monkeypatch.setattr(app.ledger, "counts", away)
    page = await client.get("/")
    assert (page.status_code, "database: away" in page.text) == (200, True)
    monkeypatch.setattr(app.ledger, "find", away)
    page = await client.get("/runs")
    assert (page.status_code, "database: away" in page.text) == (503, True)


# What it is made of


def test_what_others_wrote_is_unchanged_and_licensed() -> None:
    sums = (VENDOR / "SHA256SUMS").read_text().split()
    expected = dict(zip(sums[1::2], sums[::2], strict=True))
    assert len(expected) == 3
    for name, digest in expected.items():
        assert hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() == digest
        assert name in (VENDOR / "README.md").read_text()
    others = {path.name for path in VENDOR.iterdir()} - set(expected)
    assert others == {"README.md", "SHA256SUMS", "htmx.LICENSE", "uPlot.LICENSE"}


def test_both_languages_say_the_same_things() -> None:
    english, chinese = (words(language) for language in LANGUAGES)
    assert list(english) == list(chinese)
    for key, text in english.items():
        assert sorted(re.findall(r"\{\w+\}", text)) == sorted(re.findall(r"\{\w+\}", chinese[key]))
        assert chinese[key].strip(), key
    for language in LANGUAGES:
        raw = (WORDS / f"{language}.json").read_text(encoding="utf-8")
        pairs = json.loads(raw, object_pairs_hook=list)
        assert len(pairs) == len(dict(pairs)), "no key twice"


def test_every_text_is_said_somewhere_and_none_stands_in_a_template() -> None:
    said = set[str]()
    prefixes = ("state.", "kind.", "verdict.", "change.", "nav.", "stopped_by.", "unit.")
    for template in TEMPLATES:
        text = template.read_text(encoding="utf-8")
        said |= set(re.findall(r"(?:_|say)\(['\"]([\w.]+)['\"]", text))
        said |= set(re.findall(r"['\"]((?:col|runs|dead|state)\.[\w.]+)['\"]", text))
        bare = re.sub(r"\{[{%#].*?[}%#]\}", "", text, flags=re.DOTALL)
        bare = re.sub(r"<(script|style).*?</\1>|<[^>]*>|&\w+;", "", bare, flags=re.DOTALL)
        assert re.findall(r"[A-Za-z]{2,}", bare.replace("node-timeout", "")) in (
            [],
            ["p50", "p95", "p99"],
            ["id"],
        ), template.name
    sources = "".join(path.read_text() for path in WEB.glob("*.py"))
    unsaid = [
        key
        for key in words("en")
        if key not in said and not key.startswith(prefixes) and f'"{key}"' not in sources
    ]
    assert sorted(unsaid) == ["dead.title", "runs.title"], "by what the page is called"
    for kind in HistoryKind:
        assert f"kind.{kind}" in words("en")
    for state in RunState:
        assert f"state.hint.{state}" in words("en")
    for verdict in Verdict:
        assert f"verdict.{verdict}" in words("en")


def test_no_page_has_a_script_or_a_style_of_its_own() -> None:
    """The content security policy would refuse it."""
    for template in TEMPLATES:
        text = template.read_text(encoding="utf-8")
        assert not re.search(r"<style|style=|<script(?![^>]*src=)|\son\w+=|javascript:", text)
        assert not re.search(r'(?:src|href)="(?:https?:)?//', text), template.name


async def test_the_script_and_the_style_are_served(web: Web) -> None:
    _, client = web
    for name in ("console.css", "console.js", "icon.svg", "vendor/htmx.min.js"):
        answer = await client.get(f"/static/{name}")
        assert answer.status_code == 200
        assert "max-age" in answer.headers["cache-control"]
    for path in ("/static/../access.py", "/static/%2e%2e/access.py", "/static/vendor/"):
        assert (await client.get(path)).status_code == 404


async def test_twenty_people_who_look_at_once_are_served(web: Web) -> None:
    app, client = web
    await armed(app, *(f"n{i}" for i in range(60)))
    answers = await asyncio.gather(*(client.get("/runs") for _ in range(20)))
    assert {answer.status_code for answer in answers} == {200}
