"""It can be installed beside what bk-sops and BKFlow publish that they ask for."""

import os
import re
import subprocess
from pathlib import Path

import pytest

PUBLISHED = Path(__file__).parent / "published"
WHEELS = Path(os.environ.get("BKFLOW_WHEELS", "."))


@pytest.mark.parametrize(
    ("project", "python"),
    [
        ("bkflow", os.environ.get("BKFLOW_PROJECT_PYTHON", "")),
        ("bk_sops", os.environ.get("BK_SOPS_PYTHON", "")),
    ],
)
def test_their_requirements_and_it_have_a_solution(project: str, python: str) -> None:
    if not python:
        pytest.skip(f"no Python of {project} here")
    (wheel,) = WHEELS.glob("node_timeout_bamboo-*.whl")
    asked = PUBLISHED / f"{project}.txt"
    pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "--dry-run"]
    done = subprocess.run(
        [*pip, "--ignore-installed", "--requirement", str(asked), str(wheel)],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    would = re.search(r"^Would install (.*)$", done.stdout, re.MULTILINE)
    assert would
    chosen = {each.lower().replace("_", "-") for each in would[1].split()}
    assert any(each.startswith("node-timeout-bamboo-") for each in chosen)
    assert not any(each.startswith(("sqlalchemy-", "aio-pika-", "httpx-")) for each in chosen)
