"""The pool of synchronous callers with redis 4.1.4 on Python 3.9: one server, TLS, Sentinels."""

import subprocess
from pathlib import Path

import pytest

from tests.bkflow.house import PYTHON
from tests.certificates import Authority
from tests.clusters import SentinelTrio
from tests.servers import SECRET, RedisServer

USE = """
import sys
from pathlib import Path
from node_timeout.domain.errors import PoolUnavailableError
from node_timeout.domain.run import DueRun, NodeRun
from node_timeout.stores.redis.blocking import BlockingPool
from node_timeout.stores.tls import Tls

url, shards, *ca_file = sys.argv[1:]
tls = Tls(ca_file=Path(ca_file[0])) if ca_file else Tls()
pool = BlockingPool(url, "pool", int(shards), tls=tls)
run_id = NodeRun(root_pipeline_id="r", node_id="n", version="v").run_id
try:
    now = pool.now()
    pool.arm(DueRun(run_id=run_id, due_at=now + 60))
    key = pool._key_of(run_id)
    assert pool._client.zscore(key, run_id) == now + 60
    pool.arm(DueRun(run_id=run_id, due_at=now + 90))
    assert pool._client.zscore(key, run_id) == now + 60, "it keeps its instant"
    pool.disarm(run_id)
    assert pool._client.zscore(key, run_id) is None
    assert pool.ledger_id() is None
    print("works")
except PoolUnavailableError as error:
    print("refused:", error)
finally:
    pool.close()
"""


def used(url: str, shards: int = 1, ca_file: Path | None = None) -> str:
    arguments = [url, str(shards), *([str(ca_file)] if ca_file else [])]
    found = subprocess.run(
        [PYTHON, "-c", USE, *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert found.returncode == 0, found.stderr
    return found.stdout.strip()


@pytest.mark.parametrize("shards", [1, 4])
def test_one_server(redis_server: RedisServer, shards: int) -> None:
    assert used(redis_server.url, shards) == "works"


def test_a_server_that_is_away() -> None:
    said = used("redis://:s3cret-away@127.0.0.1:1/0")
    assert said.startswith("refused: Redis: ")
    assert "s3cret" not in said


def test_over_tls_the_certificate_is_verified(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    authority, other = Authority(tmp_path), Authority(tmp_path / "other")
    issued = authority.issue("localhost")
    server = RedisServer(tmp_path, password=SECRET)
    server.use_tls(issued.certificate, issued.key, authority.pem)
    with server:
        assert used(server.url, ca_file=authority.ca_file) == "works"
        assert "its certificate is refused" in used(server.url, ca_file=other.ca_file)
        by_address = server.url.replace("localhost", "127.0.0.1")
        assert "its certificate is refused" in used(by_address, ca_file=authority.ca_file)


def test_behind_sentinels(tmp_path: Path) -> None:
    trio = SentinelTrio(tmp_path)
    with trio:
        assert used(trio.url) == "works"
        trio.kill_primary()
        trio.wait_failed_over()
        assert used(trio.url) == "works"
