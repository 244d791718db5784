"""Nothing secret is told, whatever goes wrong with a connection; and the suite would notice."""

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest

from node_timeout.settings import Settings
from tests.acceptance.conftest import NODE_TIMEOUT, Process, Start, environment
from tests.secret_watch import SecretWatch
from tests.servers import SECRET, free_port

ROOT = Path(__file__).parents[2]
STORES = {"redis": "redis_url", "database": "database_url", "rabbitmq": "amqp_url"}


def changed(settings: Settings, name: str, **parts: str) -> dict[str, str]:
    """The variables of a process, one URL of which has another host or login."""
    url = urlsplit(getattr(settings, name).get_secret_value())
    login, _, host = url.netloc.rpartition("@")
    netloc = f"{parts.get('login', login)}@{parts.get('host', host)}"
    return environment(settings) | {
        f"NODE_TIMEOUT_{name.upper()}": urlunsplit(url._replace(netloc=netloc))
    }


def wrong(settings: Settings, name: str) -> dict[str, dict[str, str]]:
    """The variables for each way in which the connection to a store can fail."""
    return {
        "refused": changed(settings, name, host=f"127.0.0.1:{free_port()}"),
        "unknown host": changed(settings, name, host="no-such-host.invalid:1"),
        "wrong password": changed(settings, name, login=f"guest:{SECRET}-wrong"),
        "wrong user": changed(settings, name, login=f"nobody:{SECRET}-wrong"),
        "no port": changed(settings, name, host=f"127.0.0.1:{SECRET}"),
    }


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize(
    "fault", ["refused", "unknown host", "wrong password", "wrong user", "no port"]
)
def test_a_connection_that_fails_tells_no_secret(
    settings: Settings,
    run_cli: Callable[..., subprocess.CompletedProcess[str]],
    store: str,
    fault: str,
) -> None:
    assert SECRET in getattr(settings, STORES[store]).get_secret_value()
    checked = run_cli("check", env=wrong(settings, STORES[store])[fault])
    said = checked.stdout + checked.stderr
    assert checked.returncode in (1, 2), said
    assert SECRET not in said
    assert "Traceback" not in said
    named = [line for line in said.splitlines() if store in line or STORES[store].upper() in line]
    assert named, said


MISTAKES = {
    "database_url": "mysql://app:{}@2024!x@127.0.0.1:3306/h2",
    "redis_url": "redis://:{}：x@127.0.0.1:6379/0",
    "amqp_url": "amqp://guest:{}[b@127.0.0.1/",
    "engine_url": "https://app:12/{}@engine/",
    "webhook_url": "https://app:{}@hook/",
}
PARAMETERS = {
    "database_url": "postgresql://app:{}@127.0.0.1/x?aplication_name=nt",
    "redis_url": "redis://:{}@127.0.0.1/0?socket_timeout=long",
    "amqp_url": "amqp://guest:{}@127.0.0.1/?connection_attempts=3",
}


@pytest.mark.parametrize("command", ["check", "scan", "worker", "migrate"])
def test_a_mistake_in_a_url_is_one_line_and_exit_code_2(
    settings: Settings, run_cli: Callable[..., subprocess.CompletedProcess[str]], command: str
) -> None:
    for urls in (MISTAKES, PARAMETERS):
        for name, url in urls.items():
            variable = f"NODE_TIMEOUT_{name.upper()}"
            ended = run_cli(command, env=environment(settings, **{variable: url.format(SECRET)}))
            assert ended.returncode == 2, ended.stderr
            (line,) = ended.stderr.splitlines()
            assert line.startswith(f"node-timeout: {variable}: has ")
            assert "2024" not in line
            assert SECRET not in ended.stdout + ended.stderr


@pytest.mark.parametrize("url", [MISTAKES["database_url"], PARAMETERS["database_url"]])
def test_the_url_of_bamboos_database_is_read_as_strictly(
    settings: Settings, run_cli: Callable[..., subprocess.CompletedProcess[str]], url: str
) -> None:
    env = environment(settings, BAMBOO_DATABASE_URL=url.format(SECRET))
    ended = run_cli("import-bamboo", env=env)
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith("node-timeout: bamboo's database (BAMBOO_DATABASE_URL): has ")
    assert SECRET not in ended.stdout + ended.stderr


def test_files_and_variables_may_end_in_a_line_break(
    settings: Settings,
    run_cli: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path: Path,
) -> None:
    """As an editor, `echo` and many a secret store leave one."""
    env = environment(settings, NODE_TIMEOUT_SECRETS_DIR=f"{tmp_path}\n")
    for name, value in list(env.items()):
        if name.startswith("NODE_TIMEOUT_") and name != "NODE_TIMEOUT_SECRETS_DIR":
            env[name] = f" {value}\r\n"
    for name in STORES.values():
        text = env.pop(f"NODE_TIMEOUT_{name.upper()}")
        (tmp_path / f"node_timeout_{name}").write_text(text)
    checked = run_cli("check", env=env)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert settings.dispatch_queue in checked.stdout


def test_a_daemon_that_waits_for_its_stores_tells_no_secret(
    settings: Settings, start: Start
) -> None:
    for name in STORES.values():
        for fault in ("refused", "wrong password"):
            env = wrong(settings, name)[fault] | {"NODE_TIMEOUT_LOG_LEVEL": "DEBUG"}
            process = start("scan", "--metrics-port", str(free_port()), env=env, ready="")
            process.wait_for("trying again until it succeeds")
            process.stop()
            assert SECRET not in process.output


def test_the_watch_sees_records_tracebacks_and_files(tmp_path: Path) -> None:
    watch = SecretWatch()
    logger = logging.getLogger("alone")
    logger.propagate = False
    logger.setLevel(logging.DEBUG)
    logger.addHandler(watch)
    logger.info("nothing to see")
    assert watch.taken() == []
    logger.info("password %s", SECRET)
    try:
        raise OSError(f"cannot reach amqp://u:{SECRET}@h/")  # noqa: TRY301
    except OSError:
        logger.exception("failed")
    env = environment() | {"ENGINE_REDIS_URL": ""}
    process = Process([sys.executable, "-c", "print('fine')"], env, tmp_path / "log")
    process.wait()
    watch.follow(tmp_path / "log")
    assert len(watch.taken()) == 2
    with (tmp_path / "log").open("a") as log:
        log.write(f"{SECRET}\n")
    assert watch.taken() == [f"{tmp_path / 'log'}: {SECRET}"]
    (tmp_path / "log").write_text("cleaned up, the suite follows it too")
    assert watch.taken() == []


@pytest.mark.parametrize(
    "body",
    [
        "logging.getLogger('node_timeout.x').debug('it is s3cret')",
        "logging.getLogger('redis').warning('s3cret')",
        "Process([sys.executable, '-c', 'print(\"s3cret\")'], {}, tmp_path / 'log').wait()",
    ],
)
def test_a_test_that_lets_a_secret_out_fails(tmp_path: Path, body: str) -> None:
    (tmp_path / "conftest.py").write_text(
        "from tests.secret_watch import nothing_secret_is_logged\n"
    )
    (tmp_path / "test_planted.py").write_text(
        "import logging, sys\n"
        "from tests.acceptance.conftest import Process\n"
        f"def test_planted(tmp_path):\n    {body}\n"
    )
    path = os.pathsep.join([str(ROOT), *sys.path])
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, "."],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert "secrets were logged" in ended.stdout


def test_a_url_given_on_the_command_line_is_not_repeated(settings: Settings) -> None:
    source = f"mysql://u:{SECRET}@127.0.0.1:{free_port()}/x"
    ended = subprocess.run(
        [*NODE_TIMEOUT, "import-bamboo", "--from", source],
        env=environment(settings),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    assert SECRET not in ended.stdout + ended.stderr
