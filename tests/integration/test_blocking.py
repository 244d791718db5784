"""The blocking API: from several threads, and after a fork."""

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from node_timeout import BlockingNodeTimeout, NodeTimeout, NodeTimeoutError, blocking
from node_timeout.blocking import batch_create_node_timeout_config
from node_timeout.domain.errors import InvalidInputError, SettingsError
from node_timeout.settings import Settings
from tests.support import tree_of


@pytest.fixture
def client(settings: Settings) -> Iterator[BlockingNodeTimeout]:
    with BlockingNodeTimeout(settings) as client:
        yield client


def test_the_same_names_work_without_an_event_loop(client: BlockingNodeTimeout) -> None:
    result = client.batch_create_node_timeout_config("r", tree_of("a", "b"))
    assert result["result"]
    assert client.node_started("a", "v1") is True
    assert client.node_started("no config", "v1") is False
    assert client.nodes_started([("a", "v1"), ("b", "v1")]) == 2
    assert client.status().armed == 2
    assert client.node_left("a") == 1
    assert client.nodes_left([("b", "v1")]) == 1
    assert [row.state for row in client.rows("a")] == ["cancelled"]
    assert client.replay(everything=True).done == 0


def test_the_async_names_are_all_there() -> None:
    promised = {
        "batch_create_node_timeout_config",
        "node_started",
        "node_left",
        "nodes_started",
        "nodes_left",
        "status",
        "replay",
        "rows",
    }
    for name in promised:
        assert asyncio.iscoroutinefunction(getattr(NodeTimeout, name))
        assert callable(getattr(BlockingNodeTimeout, name))


def test_configs_are_checked_against_the_clients_own_settings() -> None:
    client = BlockingNodeTimeout(Settings(max_seconds=3, redis_url="redis://127.0.0.1:1"))
    good = {"enable": True, "action": "forced_fail", "seconds": 3}
    tree = {"activities": {"a": {"type": "ServiceActivity"}}}
    assert client.apply_node_timeout_configs(tree, {"a": good}) == {
        "activities": {"a": {"type": "ServiceActivity", "timeout_config": good}}
    }
    with pytest.raises(InvalidInputError, match="at most 3"):
        client.apply_node_timeout_configs(tree, {"a": {**good, "seconds": 4}})


def test_errors_reach_the_caller(client: BlockingNodeTimeout) -> None:
    with pytest.raises(NodeTimeoutError, match="version of node 'a' is empty"):
        client.node_started("a", "")
    with pytest.raises(InvalidInputError, match="node id is empty"):
        client.node_left("")
    with pytest.raises(InvalidInputError, match="choose a node"):
        client.replay()


def test_many_threads_share_one_bridge(client: BlockingNodeTimeout) -> None:
    names = [f"n{i}" for i in range(40)]
    client.batch_create_node_timeout_config("r", tree_of(*names))
    before = threading.active_count()
    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(lambda name: client.node_started(name, "v1"), names))
    assert client.status().armed == 40
    assert threading.active_count() <= before + 1


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_has_connections_of_its_own(client: BlockingNodeTimeout) -> None:
    client.batch_create_node_timeout_config("r", tree_of("parent", "child", "after"))
    assert client.node_started("parent", "v1")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if client.node_started("child", "v1") else 2
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert client.node_started("after", "v1"), "the parent's connections are as they were"
    assert client.status().armed == 3


def test_a_closed_client_opens_again(client: BlockingNodeTimeout) -> None:
    client.batch_create_node_timeout_config("r", tree_of("a"))
    client.close()
    client.close()
    assert client.node_started("a", "v1")


def test_a_wrong_setting_is_told_at_the_first_call(settings: Settings) -> None:
    changes = {name: getattr(settings, name) for name in settings.model_fields_set}
    settings = Settings(**{**changes, "tls_ca_file": __file__, "database_tls": True})
    with BlockingNodeTimeout(settings) as client, pytest.raises(SettingsError):
        client.status()


def test_closing_lets_a_call_of_another_thread_end(client: BlockingNodeTimeout) -> None:
    client.batch_create_node_timeout_config("r", tree_of(*(f"n{i}" for i in range(500))))
    runs = [(f"n{i}", "v1") for i in range(500)]
    with ThreadPoolExecutor(4) as threads:
        calls = [threads.submit(client.nodes_started, runs) for _ in range(4)]
        client.close()
        assert [call.result(30) for call in calls] == [500] * 4


def test_a_call_that_does_not_end_is_cut_short(
    client: BlockingNodeTimeout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocking, "CLOSE_SECONDS", 0.1)
    began = threading.Event()

    async def endless(self: NodeTimeout) -> None:
        began.set()
        await asyncio.sleep(60)

    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(client._run, endless)
        assert began.wait(20)
        client.close()
        with pytest.raises(NodeTimeoutError, match="closed by another thread"):
            call.result(20)


@pytest.fixture
def in_environment(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., None]]:
    def apply(**changes: str) -> None:
        for name in ("database_url", "redis_url"):
            value = changes.get(name) or getattr(settings, name).get_secret_value()
            monkeypatch.setenv(f"NODE_TIMEOUT_{name.upper()}", value)

    yield apply
    if blocking._default:
        blocking._default.close()
        blocking._default = None


def test_the_function_reads_the_environment(
    in_environment: Callable[..., None], sqlite_url: str, client: BlockingNodeTimeout
) -> None:
    in_environment()
    assert batch_create_node_timeout_config("r", tree_of("a"))["result"]
    first = blocking._default
    assert batch_create_node_timeout_config("r", tree_of("a"))["result"]
    assert blocking._default is first, "connections are reused"
    assert client.node_started("a", "v1")
    in_environment(database_url=sqlite_url)
    assert batch_create_node_timeout_config("r", tree_of("b"))["result"]
    assert not client.node_started("b", "v1"), "it went to the other database"


def test_bad_input_is_an_answer_not_an_exception(client: BlockingNodeTimeout) -> None:
    tree = tree_of("a", "b", "c", seconds=-1)
    result = client.batch_create_node_timeout_config("r", tree)
    assert (result["result"], result["data"]) == (False, [])
    assert all(f"node '{name}'" in result["message"] for name in "abc")
    assert not client.node_started("a", "v1")
