"""An operator's day: whatever is in the stores or in a file, a command answers in a line."""

import asyncio
import io
import json
import math
import re
import subprocess
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from rich.console import Console
from sqlalchemy import insert

from node_timeout import NodeTimeout
from node_timeout.domain.errors import SettingsError
from node_timeout.domain.run import Outcome, RunState
from node_timeout.domain.run_id import run_id
from node_timeout.embedded.demo import play
from node_timeout.settings import Settings
from node_timeout.stores.sql.ledger import SqlLedger
from node_timeout.stores.sql.tables import runs as ledger_table
from tests.acceptance.conftest import NODE_TIMEOUT, EngineSide, Start, environment
from tests.acceptance.test_cli import RunCli, assert_one_line, changed
from tests.servers import free_port
from tests.support import config, configure, run, started, tree_of, wait_until

ROW: dict[str, Any] = {
    "node_id": "spoilt",
    "root_pipeline_id": "r",
    "action": "forced_fail",
    "state": "armed",
    "started_at": None,
    "deadline": 2e9,
    "next_at": 2e9,
    "attempts": 0,
    "revision": 0,
    "finished_at": None,
    "message": "",
}
SPOILT: list[dict[str, Any]] = [
    {"deadline": 1e300},
    {"deadline": -1e300, "next_at": -1e300},
    {"deadline": 253402300800.0, "next_at": None, "started_at": 1e300},
    {"state": "handled", "finished_at": 1e300, "next_at": None},
    {"state": "Handled", "finished_at": 1.5e9, "next_at": None},
    {"state": "HANDLED", "finished_at": 1e18, "next_at": None},
    {"state": "nonsense", "next_at": None},
    {"state": "dead", "finished_at": None, "next_at": None, "message": "\n\x1b[31m\u2028节点"},
    {"state": "executing", "attempts": -7, "next_at": 1e18},
]


def row(version: str, **columns: Any) -> dict[str, Any]:
    ids = {"version": version, "run_id": run_id("r", ROW["node_id"], version)}
    return ROW | ids | columns


def refuse(constant: str) -> Any:
    raise AssertionError(constant)


def valid(text: str) -> Any:
    """Read one JSON object as other languages do."""
    return json.loads(text, parse_constant=refuse)


async def test_no_row_and_no_score_takes_a_command_down(
    run_cli: RunCli, settings: Settings, any_ledger: SqlLedger, any_database_url: str, redis: Redis
) -> None:
    async with any_ledger.engine.begin() as connection:
        for number, fault in enumerate(SPOILT):
            await connection.execute(insert(ledger_table), row(f"v{number}", **fault))
        if connection.dialect.name == "postgresql":
            for number, value in enumerate((math.nan, math.inf, -math.inf)):
                spoilt = row(f"w{number}", deadline=value)
                await connection.execute(insert(ledger_table), spoilt)
    env = changed(settings, database_url=any_database_url)
    for score in ("-inf", "+inf", "1e300", "-1e300"):
        await redis.zadd(settings.executing_pool, {f"member{score}_v": score})
        status = run_cli("status", "--json", env=env)
        assert valid(status.stdout)["armed"] >= 1, status.stderr
        assert run_cli("status", env=env).stdout.startswith("pool "), score
    shown = run_cli("show", "spoilt", "--json", env=env)
    assert shown.returncode == 0, shown.stderr
    versions = {valid(line)["version"] for line in shown.stdout.splitlines()}
    assert {"v0", "v1", "v2", "v3", "v7", "v8"} <= versions
    text = run_cli("show", "spoilt", env=env)
    assert text.returncode == 0, text.stderr
    assert "spoilt version v0: armed" in text.stdout
    assert "Traceback" not in text.stderr + shown.stderr


def test_apply_reads_standard_input_and_refuses_what_is_not_json(
    settings: Settings, tmp_path: Path
) -> None:
    tree = json.dumps(tree_of("节点"), ensure_ascii=False)
    configs = tmp_path / "configs.json"
    configs.write_text("{}", encoding="utf-8-sig")

    def apply(*arguments: str, given: str = tree) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [*NODE_TIMEOUT, "apply", *arguments],
            input=given,
            env=environment(settings),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    done = apply("-", str(configs))
    assert valid(done.stdout) == json.loads(tree), done.stderr
    assert "节点" in done.stdout
    done = apply(str(configs), "-", given='{"a": NaN}')
    assert_one_line(done, 2, "standard input: NaN is not a JSON number")
    assert_one_line(apply("-", str(configs), given='{"a":1,"a":2}'), 2, "the key 'a' occurs twice")
    assert_one_line(apply("-", "-"), 2, "only one of TREE and CONFIGS")
    assert_one_line(apply("-", str(tmp_path)), 2, f"{tmp_path}: Is a directory")
    assert_one_line(apply(str(tmp_path / "none"), str(configs)), 2, "none: No such file")
    deep = '{"activities": ' * 900 + "{}" + "}" * 900
    assert_one_line(apply("-", str(configs), given=deep), 2, "")


@pytest.mark.parametrize("interval", ["0", "-5", "0.09", "nan", "inf", "1e6"])
def test_a_pause_that_would_spin_or_never_end_is_refused(run_cli: RunCli, interval: str) -> None:
    done = run_cli("status", "--watch", f"--interval={interval}")
    assert_one_line(done, 2, "is not between 0.1 and 86400 seconds")


@pytest.mark.parametrize("option", ["--shutdown-timeout", "--scan-interval", "--lease-seconds"])
@pytest.mark.parametrize("value", ["nan", "inf", "-1", "1e300"])
def test_a_number_that_is_no_duration_is_refused(run_cli: RunCli, option: str, value: str) -> None:
    variable = f"NODE_TIMEOUT{option.replace('-', '_').upper()[1:]}"
    assert_one_line(run_cli("scan", f"{option}={value}"), 2, variable)


@pytest.mark.parametrize("seconds", ["1e12", "inf", "nan"])
def test_the_longest_timeout_stays_in_the_calendar(
    run_cli: RunCli, settings: Settings, seconds: str
) -> None:
    env = environment(settings, NODE_TIMEOUT_MAX_SECONDS=seconds)
    assert_one_line(run_cli("status", env=env), 2, "NODE_TIMEOUT_MAX_SECONDS")


def test_dev_says_in_one_line_where_it_cannot_lie(run_cli: RunCli, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for directory in (Path("/proc/x"), file / "below", tmp_path / ("x" * 300)):
        done = run_cli("dev", "--directory", str(directory), env=environment())
        assert_one_line(done, 2, f"{directory}: ")
    (tmp_path / "data" / "lock").mkdir(parents=True)
    done = run_cli("dev", "--directory", str(tmp_path / "data"), env=environment())
    assert_one_line(done, 2, f"{tmp_path / 'data'}: ")
    (tmp_path / "spoilt").mkdir()
    (tmp_path / "spoilt" / "node-timeout.db").write_text("no database " * 100)
    done = run_cli("dev", "--directory", str(tmp_path / "spoilt"), env=environment())
    assert done.returncode != 0
    assert_one_line(done, done.returncode, "node-timeout: ")


async def test_the_demo_says_where_it_cannot_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/proc/x")
    with pytest.raises(SettingsError, match=r"no temporary directory: No such file.*TMPDIR"):
        await play(Console())


async def test_the_demo_shows_every_node_in_a_terminal_of_80_columns() -> None:
    shown = io.StringIO()
    console = Console(file=shown, width=80, force_terminal=True, color_system="standard")
    assert await play(console)
    last = shown.getvalue().rpartition("story")[2]
    green = dict.fromkeys(("fetch_orders", "poll_supplier", "train_model"), "FINISHED")
    for name, state in {**green, "close_books": "FAILED"}.items():
        color = "32" if state == "FINISHED" else "31"
        assert re.search(rf"{name} +\x1b\[{color}m{state} *\x1b\[0m", last), last
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", last).splitlines()
    assert max(len(line.strip("\r")) for line in lines) <= 80


@pytest.mark.parametrize("host", ["no.such.host.invalid", "192.0.2.1"])
def test_a_metrics_host_that_is_not_here_is_one_line(run_cli: RunCli, host: str) -> None:
    done = run_cli("scan", "--metrics-host", host, "--metrics-port", str(free_port()))
    assert_one_line(done, 2, f"metrics_port: cannot listen on {host}")


def test_dev_without_a_home_asks_for_a_directory() -> None:
    """A user without an entry in the system's list of users, as in many containers."""
    env = {name: value for name, value in environment().items() if name != "XDG_DATA_HOME"}
    del env["HOME"]
    nobody = "import pwd\ndef nobody(uid): raise KeyError(uid)\npwd.getpwuid = nobody\n"
    main = "from node_timeout.cli.main import main; main()"
    done = subprocess.run(
        [NODE_TIMEOUT[0], "-c", nobody + main, "dev"],
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert_one_line(done, 2, "--directory")


def test_a_relative_data_home_is_passed_over(tmp_path: Path, monkeypatch: Any) -> None:
    from node_timeout.embedded.dev import default_directory

    monkeypatch.setenv("XDG_DATA_HOME", "here")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_directory() == tmp_path / ".local/share/node-timeout"


def test_a_role_that_never_started_does_not_say_so(start: Start, settings: Settings) -> None:
    scheme, _, rest = settings.amqp_url.get_secret_value().partition("://")
    url = f"{scheme}://nobody:wrong@{rest.rpartition('@')[2]}"
    scan = start("scan", env=changed(settings, amqp_url=url), ready="trying again until")
    assert scan.stop() == 0
    assert " started" not in scan.output
    assert "stopped before scanner and reconciler could start" in scan.output


def test_the_time_of_a_log_line_has_its_zone(start: Start) -> None:
    scan = start("scan")
    scan.stop()
    for line in scan.output.splitlines():
        written = datetime.fromisoformat(valid(line)["time"])
        assert written.utcoffset() == timedelta(0)
        assert abs(datetime.now(UTC) - written) < timedelta(minutes=1)


async def test_a_missing_scanner_or_worker_is_said(
    run_cli: RunCli, app: NodeTimeout, engine_side: EngineSide, start: Start, settings: Settings
) -> None:
    env = changed(settings, overdue_alarm=5)

    def looks() -> tuple[int, int, str]:
        status, check = run_cli("status", env=env), run_cli("check", env=env)
        return status.returncode, check.returncode, status.stdout + check.stdout

    await configure(app.ledger, config("a", 1))
    await engine_side.run(("a", "v1"))
    code, checked, text = looks()
    assert (code, checked) == (1, 0)
    assert "ALARM      no scanner is alive" in text
    assert "ok    overdue nodes: none for longer than 5 s" in text
    await app.node_started("a", "v1", happened_at=time.time() - 100)
    code, checked, text = looks()
    assert (code, checked) == (1, 1)
    assert "ALARM      the oldest overdue node has waited" in text
    assert "FAIL  overdue nodes: the oldest overdue node has waited" in text
    assert text.count("no scanner runs") == 2
    *_, alarm = valid(run_cli("status", "--json", env=env).stdout)["alarms"]
    assert "overdue_alarm" in alarm
    start("scan")

    async def pool_is_empty() -> bool:
        return (await app.pool.counts()).armed == 0

    await wait_until(pool_is_empty, 15)
    code, checked, text = looks()
    assert (code, checked) == (1, 1)
    assert text.count("no worker runs") == 2
    start("worker")

    async def handled() -> bool:
        return (await app.rows("a"))[0].state == "handled"

    await wait_until(handled, 15)
    assert looks()[:2] == (0, 0)


def test_names_are_found_by_how_they_begin(settings: Settings, run_cli: RunCli) -> None:
    async def begun() -> None:
        async with NodeTimeout(settings) as app:
            for each in ("deploy", "deploy_db", "test"):
                await configure(app.ledger, config(each, 60, root="delivery"))
                await app.node_started(each, "v1", "delivery")

    asyncio.run(begun())
    lines = run_cli("names", "de").stdout.splitlines()
    assert [line.split() for line in lines] == [
        ["is", "id"],
        *(["node", each] for each in ("deploy", "deploy_db")),
        ["root", "delivery"],
    ]
    found = valid(run_cli("names", "de", "--limit", "1", "--json").stdout)
    assert found == {"nodes": ["deploy"], "root_pipelines": ["delivery"]}
    nothing = run_cli("names", "x")
    assert (nothing.returncode, nothing.stdout) == (0, "")
    assert_one_line(run_cli("names", ""), 2, "prefix")


def test_lateness_is_a_table_with_a_bar_for_each_minute(
    settings: Settings, run_cli: RunCli
) -> None:
    async def late_by(*seconds: float) -> None:
        async with NodeTimeout(settings) as app:
            now = await app.pool.now()
            for i, each in enumerate(seconds):
                await configure(app.ledger, config(f"late{i}", 1))
                due = await app.ledger.arm(started([run(f"late{i}")]), now - 1 - each)
                taking = await app.ledger.take(due, now=now, lease_seconds=9, max_attempts=1)
                outcomes = [Outcome(node=node, state=RunState.HANDLED) for node in taking.taken]
                await app.ledger.record(outcomes, owner=taking.owner, now=now)

    assert run_cli("lateness").stdout == "", "nothing has ended"
    asyncio.run(late_by(0.002, 2.0))
    found = valid(run_cli("lateness", "--json").stdout)
    assert [round(late, 3) for _, late in found["endings"]] == [0.002, 2.0]
    (minute,) = found["minutes"]
    assert (minute["count"], minute["p99"]) == (2, pytest.approx(2.0, abs=0.01))
    heading, line = run_cli("lateness").stdout.splitlines()
    assert heading.split()[:5] == ["minute", "runs", "p50", "p95", "p99"]
    assert line.count("█") == 21, "1 ms is one, tenfold is six more"
    (only,) = valid(run_cli("lateness", "--json", "--limit", "1").stdout)["minutes"]
    assert only["count"] == 1
    assert_one_line(run_cli("lateness", "--limit", "0"), 2, "--limit")


def test_dead_letters_are_listed_sent_again_and_dropped(
    settings: Settings, run_cli: RunCli
) -> None:
    async def put(*bodies: bytes) -> None:
        async with NodeTimeout(settings) as app:
            for body in bodies:
                await app.exchange.dead_letter(body, "not JSON:\n\x1b[2J")

    def listed() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = valid(run_cli("letters", "list", "--json").stdout)["kept"]
        return found

    assert run_cli("letters", "list").stdout == ""
    assert_one_line(run_cli("letters", "discard", "--all"), 1, "no such letter")
    asyncio.run(put(b"one", b"two", b"three"))
    table = run_cli("letters", "list").stdout
    assert len(table.splitlines()) == 4
    assert "\x1b" not in table
    assert run_cli("letters", "list", "--limit", "2").stdout.endswith("more are there: --limit\n")
    ids = {each["body"]: each["letter_id"] for each in listed()}
    assert run_cli("letters", "discard", ids["two"]).stdout == "1 dropped\n"
    assert run_cli("letters", "resend", ids["one"]).stdout == "1 sent again\n"
    assert [each["body"] for each in listed()] == ["three"]
    for which in ([], [ids["three"], "--all"]):
        assert_one_line(run_cli("letters", "resend", *which), 2, "or say --all")
