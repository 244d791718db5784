"""What is built and installed: nothing in it points to what is not there."""

import email
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.metadata import entry_points, version
from pathlib import Path, PurePosixPath

import pytest
from click.testing import CliRunner

from node_timeout.cli.main import cli

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"\]\(([^)#\s]+)")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", str(directory), str(ROOT)], check=True, timeout=120)
    (built,) = directory.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def part(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of node-timeout-bamboo."""
    directory = tmp_path_factory.mktemp("part")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    home = str(ROOT / "packaging" / "bamboo")
    subprocess.run([*pip, "--wheel-dir", str(directory), home], check=True, timeout=120)
    (built,) = directory.glob("*.whl")
    return built


def test_the_part_is_made_of_files_of_the_whole(part: Path, wheel: Path) -> None:
    with zipfile.ZipFile(part) as some, zipfile.ZipFile(wheel) as all_of_them:
        names = [name for name in some.namelist() if name.startswith("node_timeout/")]
        assert len(names) > 70
        for name in names:
            assert some.read(name) == all_of_them.read(name), name
        left_out = {*all_of_them.namelist()} - {*names}
        (path,) = [name for name in some.namelist() if name.endswith("/METADATA")]
        metadata = email.message_from_bytes(some.read(path))
    assert {"node_timeout/settings.py", "node_timeout/contrib/bamboo_daemon/full.py"} <= left_out
    assert (metadata["Name"], metadata["Version"]) == ("node-timeout-bamboo", PROJECT["version"])
    assert metadata["Requires-Python"] == ">=3.9"
    asked = [each.partition(">")[0] for each in metadata.get_all("Requires-Dist", [])]
    optional = ["opentelemetry-api"]
    assert asked == ["bamboo-pipeline", "django", "prometheus-client", "redis", *optional]


@pytest.fixture(scope="module")
def source_distribution(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("sdist")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "sdist"]
    subprocess.run([*build, "--directory", str(directory)], check=True, timeout=120, cwd=ROOT)
    (built,) = directory.glob("*.tar.gz")
    return built


def test_a_users_code_passes_the_strict_type_checker(wheel: Path, tmp_path: Path) -> None:
    """Beside the installed package, without the settings of this repository."""
    site, home = tmp_path / "site", tmp_path / "home"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
    subprocess.run([*pip, str(site), str(wheel)], check=True, timeout=120)
    home.mkdir()
    shutil.copy(ROOT / "tests" / "typing" / "api.py", home / "user.py")
    (home / "wrong.py").write_text(
        "from node_timeout import BlockingNodeTimeout, no_such_name\n"
        "BlockingNodeTimeout().node_started(1, 2)\n"
    )
    mypy = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--no-incremental"]
    done = subprocess.run(
        [*mypy, "user.py", "wrong.py"],
        cwd=home,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    errors = [line for line in done.stdout.splitlines() if ": error: " in line]
    assert [line for line in errors if not line.startswith("wrong.py")] == [], done.stdout
    assert len(errors) == 3, done.stdout
    assert "no_such_name" in errors[0]


@pytest.mark.parametrize("command", ["", *sorted(cli.commands)])
def test_help_names_no_file_that_is_not_installed(command: str, wheel: Path) -> None:
    shown = CliRunner().invoke(cli, [*filter(None, [command]), "--help"]).output
    with zipfile.ZipFile(wheel) as archive:
        installed = set(archive.namelist())
    assert "node_timeout/migrations/env.py" in installed
    named = set(re.findall(r"[\w./-]+\.(?:md|ya?ml|json|toml|txt|py)\b", shown))
    assert named <= installed


def test_the_long_description_links_to_nothing_outside_it(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (path,) = [name for name in archive.namelist() if name.endswith("/METADATA")]
        metadata = email.message_from_bytes(archive.read(path))
    text = str(metadata.get_payload())
    assert "durable deadline" in text
    assert [link for link in LINK.findall(text) if "://" not in link] == []


def test_the_source_distribution_has_what_its_documents_link_to(source_distribution: Path) -> None:
    with tarfile.open(source_distribution) as archive:
        texts = {
            PurePosixPath(*PurePosixPath(member.name).parts[1:]): (
                file.read().decode()
                if member.name.endswith(".md") and (file := archive.extractfile(member))
                else ""
            )
            for member in archive.getmembers()
        }
    places = {str(parent) for path in texts for parent in (path, *path.parents)}
    assert "README.zh-CN.md" in places
    assert not any(place.startswith((".venv", ".git/", "build")) for place in places)
    for path, text in texts.items():
        for link in LINK.findall(text):
            if "://" not in link:
                target = os.path.normpath(path.parent / link)
                assert target in places, f"{path}: {link}"


def test_the_version_stands_in_one_place() -> None:
    number = PROJECT["version"]
    assert version("node-timeout") == number
    pattern = re.compile(rf"(?<![\d.]){re.escape(number)}(?![\d.])")
    places = ["Dockerfile", "docker-compose.yml", "Makefile", "*.md", "src", "deploy", "docs"]
    files = {
        file
        for place in places
        for found in ROOT.glob(place)
        for file in ([found] if found.is_file() else found.rglob("*"))
        if file.suffix in (".md", ".py", ".yaml", ".yml", ".json", "") and file.is_file()
    }
    assert len(files) > 100
    named = [path.name for path in files if pattern.search(path.read_text(encoding="utf-8"))]
    assert named == ["CHANGELOG.md"]


def test_only_engines_to_use_are_offered() -> None:
    offered = {
        point.name
        for point in entry_points(group="node_timeout.engines")
        if point.dist and point.dist.name == "node-timeout"
    }
    assert offered == {"bamboo", "dry_run", "http"}
