"""The pods of deploy/kubernetes as processes, on real servers."""

import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from node_timeout.settings import Settings
from node_timeout.urls.secret_files import SECRETS_DIR
from tests.acceptance.conftest import Start, environment
from tests.manifests import container_of, environment_of, mount_secrets, pod_of
from tests.servers import free_port
from tests.support import wait_until

RunCli = Callable[..., subprocess.CompletedProcess[str]]

# Of which the tests have their own, beside what the manifests say.
OWN = ("dispatch_exchange", "dispatch_queue")
STORES = ("database_url", "redis_url", "amqp_url")


@pytest.fixture
def as_pod(settings: Settings, tmp_path: Path) -> Callable[[str], dict[str, str]]:
    """The whole environment of a pod's process, with the tests' stores in the secret."""

    def as_pod(name: str) -> dict[str, str]:
        pod = pod_of(name)
        folder = tmp_path / name
        secret = {
            f"node_timeout_{each}": getattr(settings, each).get_secret_value() for each in STORES
        } | {"node_timeout_web_secret": "of-the-tests-of-pods-0123456789abcdef"}
        mount_secrets(pod, secret, folder)
        own = {f"NODE_TIMEOUT_{each.upper()}": getattr(settings, each) for each in OWN}
        return environment() | environment_of(pod) | own | {SECRETS_DIR: str(folder)}

    return as_pod


def answers(url: str) -> bool:
    """Whether it is served, with the status 200."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError as error:
        error.close()
    except OSError:
        pass
    return False


async def test_the_migration_needs_only_the_url_of_the_database(
    as_pod: Callable[[str], dict[str, str]], run_cli: RunCli
) -> None:
    name = "node-timeout-migrate"
    done = run_cli(*container_of(pod_of(name))["args"], env=as_pod(name))
    assert (done.returncode, done.stderr) == (0, "")
    assert "the database is at revision" in done.stdout


@pytest.mark.parametrize("name", ["node-timeout-scan", "node-timeout-worker"])
async def test_a_pod_answers_its_probes_and_stops_when_asked(
    name: str, as_pod: Callable[[str], dict[str, str]], start: Start
) -> None:
    pod = pod_of(name)
    container = container_of(pod)
    port = free_port()
    own = {"NODE_TIMEOUT_METRICS_HOST": "127.0.0.1", "NODE_TIMEOUT_METRICS_PORT": str(port)}
    process = start(*container["args"], env=as_pod(name) | own)
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        url = f"http://127.0.0.1:{port}{container[probe]['httpGet']['path']}"
        await wait_until(partial(answers, url))
    assert process.stop(pod["terminationGracePeriodSeconds"]) == 0
    assert "stopped" in process.output


async def test_serve_starts_once_the_first_token_is_made_by_a_worker(
    as_pod: Callable[[str], dict[str, str]], run_cli: RunCli, start: Start
) -> None:
    name = "node-timeout-serve"
    pod = pod_of(name)
    container = container_of(pod)
    port = free_port()
    # It listens as in the pod, on every address of this host.
    env = as_pod(name) | {"NODE_TIMEOUT_WEB_PORT": str(port)}
    refused = run_cli(*container["args"], env=env)
    assert refused.returncode == 2
    assert "make one with node-timeout token create" in refused.stderr
    arguments = ("token", "create", "--role", "admin", "--name", "the first")
    made = run_cli(*arguments, env=as_pod("node-timeout-worker"))
    assert made.returncode == 0
    process = start(*container["args"], env=env)
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        await wait_until(
            partial(answers, f"http://127.0.0.1:{port}{container[probe]['httpGet']['path']}")
        )
    assert answers(f"http://127.0.0.1:{port}/metrics")
    status = f"http://127.0.0.1:{port}/api/v1/status"
    assert not answers(status)
    bearer = {"Authorization": f"Bearer {made.stdout.strip()}"}
    with urllib.request.urlopen(urllib.request.Request(status, headers=bearer)) as answer:
        assert answer.status == 200
    assert process.stop(pod["terminationGracePeriodSeconds"]) == 0
    assert "stopped" in process.output
