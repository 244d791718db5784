"""The systemd units start commands that exist, and say what the code and the manifests say."""

import re
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import click
import pytest

from node_timeout.cli.main import cli
from node_timeout.setting_rules import variable
from node_timeout.settings import Settings
from node_timeout.urls.secret_files import SECRETS_DIR
from tests.manifests import ROOT, container_of, mount_secrets, pod_of

FOLDER = ROOT / "deploy" / "systemd"
COMMANDS = ("scan", "worker", "serve")
PROGRAM = "/opt/node-timeout/bin/node-timeout"
SECRETS = "/etc/node-timeout/secrets"
# systemd's own figure, from 0 for nothing exposed to 10.
MOST_EXPOSED = 2.0

SECRET_SETTINGS = {
    variable(name).lower()
    for name, field in Settings.model_fields.items()
    if "SecretStr" in str(field.annotation)
}
Unit = Mapping[str, list[str]]
needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)


def path_of(command: str) -> Path:
    return FOLDER / f"node-timeout-{command}.service"


def unit(command: str) -> Unit:
    """Every assignment of a unit's file; a name may be assigned more than once."""
    found: dict[str, list[str]] = defaultdict(list)
    for line in path_of(command).read_text(encoding="utf-8").splitlines():
        if line and not line.startswith(("#", "[")):
            name, _, value = line.partition("=")
            found[name].append(value)
    return found


def environment_of(command: str) -> dict[str, str]:
    (line,) = unit(command)["Environment"]
    return dict(each.split("=", 1) for each in line.split())


def credentials_of(command: str, *, offered: bool = False) -> set[str]:
    """The names of the secrets that a process is given; ``offered``: also those in comments."""
    text = path_of(command).read_text(encoding="utf-8")
    mark = r"^(?:# )?" if offered else "^"
    found = re.findall(rf"{mark}LoadCredential=(\w+):(\S+)$", text, re.MULTILINE)
    for name, path in found:
        assert path == f"{SECRETS}/{name}"
    return {name for name, _ in found}


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def installed(command: str, folder: Path) -> Path:
    """The unit with a program that is there, as systemd looks for it."""
    text = path_of(command).read_text(encoding="utf-8")
    assert text.count(f"ExecStart={PROGRAM} ") == 1
    copy = folder / path_of(command).name
    copy.write_text(text.replace(PROGRAM, sys.executable), encoding="utf-8")
    return copy


def test_there_is_a_unit_for_each_command_that_runs_until_it_is_stopped() -> None:
    assert sorted(FOLDER.iterdir()) == sorted(path_of(each) for each in COMMANDS)


@needs_systemd
@pytest.mark.parametrize("command", COMMANDS)
def test_systemd_finds_no_fault(command: str, tmp_path: Path) -> None:
    done = analyze("verify", installed(command, tmp_path))
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@needs_systemd
def test_systemd_would_find_a_misspelt_line(tmp_path: Path) -> None:
    copy = installed("scan", tmp_path)
    text = copy.read_text(encoding="utf-8")
    copy.write_text(text.replace("RestartSec=", "RestartSecs="), encoding="utf-8")
    assert "RestartSecs" in analyze("verify", copy).stderr


@needs_systemd
@pytest.mark.parametrize("command", COMMANDS)
def test_systemd_calls_the_unit_well_protected(command: str, tmp_path: Path) -> None:
    copy = installed(command, tmp_path)
    done = analyze(
        "security", "--offline=true", f"--threshold={MOST_EXPOSED * 10:.0f}", "--no-pager", copy
    )
    assert done.returncode == 0, done.stdout[-500:]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_command_line_is_one_that_exists(command: str) -> None:
    (line,) = unit(command)["ExecStart"]
    program, name, *arguments = line.split()
    assert (program, name) == (PROGRAM, command)
    cli.commands[command].make_context(command, arguments)


def test_two_processes_of_one_host_have_ports_of_their_own() -> None:
    ports = [unit(each)["ExecStart"][0].partition("--metrics-port ")[2] for each in COMMANDS[:2]]
    assert ports == ["9464", "9465"]


@pytest.mark.parametrize("command", COMMANDS)
def test_secrets_are_files_of_systemd_and_the_process_looks_there(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = environment_of(command)
    assert environment.pop(SECRETS_DIR) == "%d", "the credentials' directory"
    assert not [name for name in environment if name.startswith("NODE_TIMEOUT_")]
    given = credentials_of(command)
    assert credentials_of(command, offered=True) <= SECRET_SETTINGS
    values = {
        "node_timeout_database_url": "postgresql://db.example/node_timeout",
        "node_timeout_redis_url": "redis://redis.example/0",
        "node_timeout_amqp_url": "amqp://rabbitmq.example/",
        "node_timeout_web_secret": "0123456789abcdef0123456789abcdef",
    }
    for name in given:
        (tmp_path / name).write_text(values[name], encoding="utf-8")
    monkeypatch.setenv(SECRETS_DIR, str(tmp_path))
    settings = Settings()
    for name in given:
        secret = getattr(settings, name.removeprefix("node_timeout_"))
        assert secret.get_secret_value() == values[name]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_process_has_the_secrets_of_the_pod_of_its_command(command: str, tmp_path: Path) -> None:
    pod = pod_of(f"node-timeout-{command}")
    mount_secrets(pod, dict.fromkeys(SECRET_SETTINGS, "x"), tmp_path)
    in_the_pod = {path.name for path in tmp_path.glob("node*")}
    if command == "worker":  # its pod is given the whole Secret
        in_the_pod -= {"node_timeout_web_secret"}
    assert credentials_of(command, offered=True) == in_the_pod


@pytest.mark.parametrize("command", COMMANDS)
def test_the_process_is_stopped_as_a_pod_and_started_again_without_end(command: str) -> None:
    found = unit(command)
    pod = pod_of(f"node-timeout-{command}")
    assert found["KillSignal"] == ["SIGTERM"]
    # The first signal is for the process alone; a second one would end it at once.
    assert found["KillMode"] == ["mixed"]
    assert found["TimeoutStopSec"] == [str(pod["terminationGracePeriodSeconds"])]
    assert (found["Restart"], found["StartLimitIntervalSec"]) == (["always"], ["0"])
    assert found["EnvironmentFile"] == ["-/etc/node-timeout/environment"]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_process_has_no_rights(command: str) -> None:
    found = unit(command)
    assert container_of(pod_of(f"node-timeout-{command}"))["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert found["NoNewPrivileges"] == found["DynamicUser"] == ["yes"]
    assert found["ProtectSystem"] == ["strict"]
    assert found["CapabilityBoundingSet"] == found["AmbientCapabilities"] == [""]


def test_the_comment_of_serve_makes_the_first_token() -> None:
    text = path_of("serve").read_text(encoding="utf-8")
    (line,) = re.findall(rf"^# +{SECRETS_DIR}=(.+ token create .+)$", text, re.MULTILINE)
    secrets, program, name, command, *arguments = line.split()
    assert (secrets, program, name) == (SECRETS, PROGRAM, "token")
    tokens = cli.commands[name]
    assert isinstance(tokens, click.Group)
    tokens.commands[command].make_context(command, arguments)
