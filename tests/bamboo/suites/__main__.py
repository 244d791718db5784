import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.stores import Servers, Stores

HERE = "tests.bamboo.suites"
ROOT = Path(__file__).parents[3]
SUITES = "eri_imp_test_use/tests"
APP = "node_timeout.contrib.bamboo"
CELERY = [sys.executable, "-m", "celery", "-A", f"{HERE}.settings", "worker", "-c", "6"]
PYTEST = [sys.executable, "-m", "pytest", "--noconftest", "-p", f"{HERE}.plugin", "-q"]
TOLD = """
from collections import Counter
from node_timeout.contrib.bamboo.models import TimeoutNodeConfig, TimeoutNodeRun
states = Counter(TimeoutNodeRun.objects.values_list("state", flat=True))
print("configs:", TimeoutNodeConfig.objects.count(), "runs:", dict(states))
"""


def run(suites: Path, stores: Stores, app: str, chosen: list[str]) -> int:
    """One side; the exit code of pytest."""
    env = os.environ | {
        "SUITES_APP": app,
        "SUITES_DATABASE": stores.database,
        "SUITES_REDIS": stores.redis,
        "SUITES_AMQP": stores.amqp,
        "DJANGO_SETTINGS_MODULE": f"{HERE}.settings",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{suites}",
        "C_FORCE_ROOT": "1",
    }
    django = [sys.executable, "-m", "django"]
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run([*django, "migrate", "-v0"], env=env, cwd=suites, check=True, **quiet)
    worker = subprocess.Popen(CELERY, env=env, cwd=suites, **quiet)
    try:
        began = time.monotonic()
        tests = chosen or [SUITES]
        done = subprocess.run([*PYTEST, *tests], env=env, cwd=suites, check=False).returncode
        print(f"{app or 'without our app'}: {time.monotonic() - began:.0f} s", flush=True)
        if app:
            subprocess.run([*django, "shell", "-c", TOLD], env=env, cwd=suites, check=True)
    finally:
        worker.terminate()
        worker.wait(60)
    return done


def main() -> int:
    parser = argparse.ArgumentParser(prog=f"python -m {HERE}")
    parser.add_argument("checkout", type=Path, help="of bamboo-engine")
    parser.add_argument("tests", nargs="*", help=f"below its test project; all of {SUITES}")
    parser.add_argument("--on", choices=["postgresql", "mariadb"], default="postgresql")
    options = parser.parse_args()
    suites = (options.checkout / "runtime" / "bamboo-pipeline" / "test").resolve()
    with (
        tempfile.TemporaryDirectory() as directory,
        Servers(Path(directory), options.on).running() as servers,
    ):
        found = [run(suites, servers.fresh(), app, options.tests) for app in ("", APP)]
    return max(found)


if __name__ == "__main__":
    sys.exit(main())
