"""`dev` and `demo`: with no server installed."""

import asyncio
import re
import subprocess
import sys
from pathlib import Path

import pytest

from node_timeout import BlockingNodeTimeout, Settings
from tests.acceptance.conftest import NODE_TIMEOUT, Start, environment
from tests.support import tree_of, wait_until

ROOT = Path(__file__).parents[2]


def exported(output: str) -> dict[str, str]:
    """The variables that `dev` prints for other processes."""
    return dict(re.findall(r"^export (\w+)='(.*)'$", output, re.MULTILINE))


def blocking_for(output: str) -> BlockingNodeTimeout:
    variables = exported(output)
    prefix = "NODE_TIMEOUT_"
    return BlockingNodeTimeout(
        Settings(**{name.removeprefix(prefix).lower(): value for name, value in variables.items()})
    )


def test_the_demo_ends_well() -> None:
    done = subprocess.run(
        [*NODE_TIMEOUT, "demo"],
        capture_output=True,
        text=True,
        timeout=90,
        env=environment(),
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "All 7 nodes ended as they should" in done.stdout


async def test_the_library_works_against_dev_and_a_kill_loses_nothing(
    start: Start, tmp_path: Path
) -> None:
    arguments = ("dev", "--directory", str(tmp_path / "data"))
    first = start(*arguments, env=environment())
    with blocking_for(first.output) as blocking:
        assert blocking.batch_create_node_timeout_config("r", tree_of("a", seconds=2))["result"]
        assert blocking.node_started("a", "v1")
    first.kill()
    second = start(*arguments, env=environment())
    with blocking_for(second.output) as blocking:
        await wait_until(lambda: blocking.rows("a")[0].state == "handled", 20)
        assert blocking.rows("a")[0].message == "dry run: would fail"
    assert second.stop() == 0


async def test_the_sample_has_a_node_that_hangs_and_a_run_to_replay(
    start: Start, tmp_path: Path
) -> None:
    arguments = ("dev", "--sample", "--directory", str(tmp_path / "data"))
    for restarts in range(2):
        dev = start(*arguments, env=environment())
        dev.wait_for("export NODE_TIMEOUT_ENGINE='dry_run'")
        with blocking_for(dev.output) as blocking:
            await asyncio.to_thread(dev.wait_for, "worker started")
            hanging, dead = blocking.rows("deploy")[-1], blocking.rows("send_invoice")[-1]
            assert (hanging.state, hanging.timeout) == ("armed", 600)
            assert dead.state == "dead"
            assert len(blocking.rows("deploy")) == 1, "one that hangs is enough"
            assert len(blocking.rows("send_invoice")) == restarts + 1
            report = blocking.replay(run_ids=[dead.run_id], reason="it answers now")
            assert report.done == 1
            await wait_until(lambda: blocking.rows("send_invoice")[-1].state == "handled")
        variables = exported(dev.output)
        assert dev.stop() == 0
    again = start(*arguments, env=environment())
    assert exported(again.output) == variables, "what was pasted before is still true"
    assert again.stop() == 0


def test_one_directory_serves_one_process(start: Start, tmp_path: Path) -> None:
    arguments = ("dev", "--directory", str(tmp_path / "data"))
    start(*arguments, env=environment())
    done = subprocess.run(
        [*NODE_TIMEOUT, *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        env=environment(),
        check=False,
    )
    assert done.returncode == 2
    assert "is in use by another node-timeout" in done.stderr


def test_the_roles_refuse_an_exchange_that_reaches_no_other_process(tmp_path: Path) -> None:
    env = environment(
        NODE_TIMEOUT_AMQP_URL="memory://",
        NODE_TIMEOUT_DATABASE_URL=f"sqlite:///{tmp_path}/x.db",
        NODE_TIMEOUT_ENGINE="dry_run",
    )
    for role in ("scan", "worker"):
        done = subprocess.run(
            [*NODE_TIMEOUT, role], capture_output=True, text=True, timeout=30, env=env, check=False
        )
        assert done.returncode == 2
        assert "reaches no other process" in done.stderr


@pytest.mark.parametrize("document", ["README.md", "DESCRIPTION.md"])
def test_a_documents_example_runs_against_dev(start: Start, tmp_path: Path, document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    example = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert example
    dev = start("dev", "--directory", str(tmp_path / "data"), env=environment())
    done = subprocess.run(
        [sys.executable, "-c", example.group(1)],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment() | exported(dev.output),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = re.search(r"```text\n(stored: .*?)```", text, re.DOTALL)
    assert done.stdout == (said.group(1) if said else "")
    assert dev.stop() == 0
