"""`make test` runs on every Python; what bamboo-pipeline pins concerns its own tests alone."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def dry_run(*arguments: str, path: str | None = None) -> str:
    """The commands that make would run."""
    # No other variable: a `make test VARIABLE=…` that runs this test hands its own on to us.
    done = subprocess.run(
        ["make", "--dry-run", "--always-make", *arguments],
        cwd=ROOT,
        env={"PATH": path or os.environ["PATH"], "HOME": os.environ.get("HOME", "/")},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout


@pytest.mark.parametrize(
    ("target", "other"), [("test", "pytest --numprocesses"), ("test-all", "chaos/test_mixed.py")]
)
def test_without_python_311_everything_else_runs_and_one_line_says_so(
    tmp_path: Path, target: str, other: str
) -> None:
    broken = tmp_path / "python3.11"
    broken.write_text("#!/bin/sh\nexit 127\n")  # as pyenv's, where that version is not chosen
    broken.chmod(0o755)
    commands = dry_run(target, path=f"{tmp_path}:{os.environ['PATH']}")
    assert "tests/bamboo" not in commands
    assert other in commands
    last = commands.splitlines()[-1]
    assert "NOT RUN: the tests with bamboo-pipeline, which need a python3.11" in last


def test_without_python_39_one_line_says_what_does_not_run() -> None:
    commands = dry_run("test-all", "BKFLOW_PYTHON=")
    assert "tests/bkflow" not in commands
    last = commands.splitlines()[-1]
    assert "NOT RUN: the tests with BKFlow's versions, which need a python3.9" in last


def test_with_python_39_the_tests_with_bkflows_versions_run() -> None:
    commands = dry_run("test-all", "BKFLOW_PYTHON=python3.9")
    assert commands.count(" tests/bkflow ") == 1
    assert "BKFlow's versions, which need" not in commands.splitlines()[-1]


@pytest.mark.parametrize(("target", "database"), [("test", "postgresql"), ("test-all", "mariadb")])
def test_with_python_311_the_tests_with_bamboo_run(target: str, database: str) -> None:
    commands = dry_run(target, "BAMBOO_PYTHON=python3.11")
    assert commands.count(" tests/bamboo ") == 1
    assert f"BAMBOO_TEST_DATABASE={database} " in commands
    assert "NOT RUN" not in commands


def test_both_together_leave_no_folder_of_tests_out() -> None:
    commands = dry_run("test") + dry_run("test-all")
    but = "--ignore=tests/chaos --ignore=tests/browser"
    assert f"--cov-report=term {but} \n" in commands, "all but the faults and the browser's"
    assert " tests/browser \n" in commands, "the browser's"
    names = ("random_kills", "many_scanners", "mixed")
    alone = [f"tests/chaos/test_{name}.py" for name in names]
    ignored = " ".join(f"--ignore={each}" for each in alone)
    assert f" {ignored} tests/chaos \n" in commands, "the faults"
    assert f"{' '.join(alone)}\n" in commands, "and faults at random"


def test_continuous_integration_asks_for_the_tests_with_bamboo() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert script.splitlines()[-2:] == [
        "make test BAMBOO_PYTHON=python3.11",
        "make test-all BAMBOO_PYTHON=python3.11",
    ]


@pytest.mark.parametrize("file", ["requirements-dev.txt", "constraints.txt"])
def test_what_needs_an_older_python_is_in_bamboos_environment_alone(file: str) -> None:
    assert "bamboo" not in (ROOT / file).read_text(encoding="utf-8")


def test_only_the_tests_with_bamboo_import_it() -> None:
    places = ("tests/bamboo/", "tests/bkflow/", "tests/regressions/test_bamboo_defects.py")
    imports = re.compile(r"^(from|import) (bamboo_engine|pipeline)\b", re.MULTILINE)
    importing = [
        str(path.relative_to(ROOT))
        for path in (ROOT / "tests").rglob("*.py")
        if imports.search(path.read_text(encoding="utf-8"))
    ]
    assert importing
    assert [each for each in importing if not each.startswith(places)] == []
