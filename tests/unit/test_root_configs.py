"""What an engine's process keeps in mind of the configs of root pipelines."""

import pytest

from node_timeout.contrib.bamboo import root_configs as room
from node_timeout.contrib.bamboo.root_configs import KEPT_SECONDS, RootConfigs
from node_timeout.domain.timeout_config import TimeoutConfig


class Ledger:
    """How often it was asked for each root."""

    def __init__(self, configs_of_each: int = 0, payload: str | None = None) -> None:
        self.asked: list[str] = []
        self.configs_of_each = configs_of_each
        self.payload = payload

    def load(self, root: str) -> dict[str, TimeoutConfig]:
        self.asked.append(root)
        return {
            f"n{i}": TimeoutConfig(
                node_id=f"n{i}",
                root_pipeline_id=root,
                action="a",
                timeout=1,
                payload_json=self.payload,
            )
            for i in range(self.configs_of_each)
        }


def test_a_root_is_asked_for_once_in_a_while() -> None:
    ledger, clock = Ledger(), [0.0]
    configs = RootConfigs(ledger.load, lambda: clock[0])
    for _ in range(3):
        assert configs.of("a") == {}
    clock[0] = KEPT_SECONDS - 0.1
    configs.of("a")
    assert ledger.asked == ["a"]
    clock[0] = KEPT_SECONDS
    configs.of("a")
    assert ledger.asked == ["a", "a"]


def test_what_was_changed_here_is_asked_for_anew() -> None:
    ledger = Ledger(1)
    configs = RootConfigs(ledger.load)
    assert [*configs.of("a")] == ["n0"]
    ledger.configs_of_each = 2
    configs.forget("a")
    assert [*configs.of("a")] == ["n0", "n1"]
    configs.forget("never known")


@pytest.mark.parametrize("each", [0, 3])
def test_the_memory_has_a_bound_and_the_oldest_go(
    monkeypatch: pytest.MonkeyPatch, each: int
) -> None:
    monkeypatch.setattr(room, "MAX_ROOTS", 5)
    monkeypatch.setattr(room, "MAX_SIZE", 9)
    ledger = Ledger(each)
    configs = RootConfigs(ledger.load)
    for i in range(20):
        configs.of(str(i))
    kept = 3 if each else 5
    assert [*configs._kept] == [str(i) for i in range(20 - kept, 20)]
    assert configs._size == kept * each
    for i in range(20 - kept, 20):
        configs.of(str(i))
    assert len(ledger.asked) == 20


def test_long_payloads_count_in_that_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "MAX_SIZE", 9)
    configs = RootConfigs(Ledger(1, "x" * 1600).load)
    for root in "abcd":
        configs.of(root)
    assert [*configs._kept] == ["c", "d"]


def test_a_root_that_is_larger_than_the_memory_is_kept_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(room, "MAX_SIZE", 2)
    ledger = Ledger(5)
    configs = RootConfigs(ledger.load)
    configs.of("a")
    assert len(configs.of("a")) == 5
    assert ledger.asked == ["a"]


def test_a_failure_is_not_kept() -> None:
    def fail(_root: str) -> dict[str, TimeoutConfig]:
        raise OSError("gone")

    configs = RootConfigs(fail)
    for _ in range(2):
        with pytest.raises(OSError, match="gone"):
            configs.of("a")


def test_what_was_read_before_a_change_is_not_kept_behind_it() -> None:
    ledger = Ledger()
    configs = RootConfigs(ledger.load)

    def load_while_others_store(root: str) -> dict[str, TimeoutConfig]:
        found = ledger.load(root)
        configs.forget(root)
        return found

    configs._load = load_while_others_store
    configs.of("a")
    configs._load = ledger.load
    configs.of("a")
    assert ledger.asked == ["a", "a"]
