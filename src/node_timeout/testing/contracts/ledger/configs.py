"""Configs in the ledger: storing, finding by node, expiry."""

from node_timeout.domain.events import NodeStarted
from node_timeout.ports.ledger import Ledger
from node_timeout.testing.contracts.ledger.acts import NOW
from node_timeout.testing.words import (
    config,
    configure,
    gone,
    run,
)


async def test_configs_are_stored_updated_and_removed(ledger: Ledger) -> None:
    await configure(ledger, config("a", 1.5), config("b"), config("B"))
    await configure(ledger, config("a", 2.5, "forced_fail_and_skip"))
    stored = await ledger.configs([("root", name) for name in ("a", "b", "B", "missing")])
    assert stored["root", "a"] == config("a", 2.5, "forced_fail_and_skip")
    assert set(stored) == {("root", "a"), ("root", "b"), ("root", "B")}
    await ledger.save_configs([], [("root", "a")])
    await ledger.save_configs([], [("another root", "b")])
    assert set(await ledger.configs(list(stored))) == {("root", "b"), ("root", "B")}


async def test_the_configs_of_a_root_end_some_time_after_it(ledger: Ledger) -> None:
    await configure(ledger, *(config(name) for name in "abc"))
    await ledger.save_configs([config("a", root="other")], [])
    assert await ledger.end_root("root", NOW + 10) == 3
    assert await ledger.end_root("root", NOW + 99) == 0, "it ends once"
    assert await ledger.purge_configs(NOW + 9, 10) == 0
    await configure(ledger, config("b"))
    assert [await ledger.purge_configs(NOW + 11, 1) for _ in range(3)] == [1, 1, 0]
    assert await ledger.configured(None, 9) == [("other", "a"), ("root", "b")], "stored again"
    assert (await ledger.forget_root("root"), await ledger.forget_root("root")) == (1, 0)
    assert await ledger.configured(None, 9) == [("other", "a")]


async def test_configs_of_several_roots_are_stored_together(ledger: Ledger) -> None:
    await configure(ledger, config("a"))
    await ledger.save_configs(
        [config("a", root="other"), config("b", root="third")], [("root", "a"), ("other", "x")]
    )
    assert await ledger.configured(None, 9) == [("other", "a"), ("third", "b")]


async def test_the_configs_of_some_nodes_are_forgotten(ledger: Ledger) -> None:
    await configure(ledger, *(config(name) for name in ("a", "b", "B")))
    await ledger.save_configs([config("b", root="other")], [])
    assert await ledger.forget_root("root", ["b", "b", "missing"]) == 1
    assert await ledger.forget_root("root", []) == 0
    assert await ledger.configured(None, 9) == [("other", "b"), ("root", "B"), ("root", "a")]


async def test_thousands_of_configs_are_one_transaction(ledger: Ledger) -> None:
    await configure(ledger, *(config(f"n{i}") for i in range(1201)))
    assert len(await ledger.configs([("root", f"n{i}") for i in range(1201)])) == 1201


async def test_configured_nodes_come_in_pages(ledger: Ledger) -> None:
    await configure(ledger, *(config(name) for name in "abc"))
    await ledger.save_configs([config("z", root="another")], [])
    assert await ledger.configured(None, 2) == [("another", "z"), ("root", "a")]
    assert await ledger.configured(("root", "a"), 9) == [("root", "b"), ("root", "c")]
    await ledger.end_root("root", NOW)
    assert await ledger.configured(None, 9) == [("another", "z")], "nothing runs there any more"


async def test_added_configs_leave_stored_ones_alone(ledger: Ledger) -> None:
    await configure(ledger, config("a", 1))
    assert await ledger.add_configs([config("a", 2), config("b", 2)]) == 1
    assert await ledger.add_configs([config("b", 3)]) == 0
    stored = await ledger.configs([("root", "a"), ("root", "b")])
    assert {name: each.timeout for (_, name), each in stored.items()} == {"a": 1, "b": 2}


async def test_the_roots_of_a_node_are_told(ledger: Ledger) -> None:
    await configure(ledger, config("a"), config("both"))
    for root in ("other", "z"):
        await ledger.save_configs([config("both", root=root)], [])
    roots = await ledger.roots(["a", "both", "nobody"])
    assert roots == {"a": ("root",), "both": ("other", "z")}
    for name, root in (("a", "gone"), ("carried", "one"), ("closed", "one")):
        event = NodeStarted.of(run(name, root=root), config=config(name, root=root))
        await ledger.arm([event], NOW)
    await ledger.disarm([gone("closed", root="one")], NOW)
    roots = await ledger.roots(["a", "carried", "closed"], of_open_runs=True)
    assert roots == {"a": ("gone", "root"), "carried": ("one",)}
    assert await ledger.roots(["a", "carried"]) == {"a": ("root",)}
    await ledger.end_root("z", NOW)
    assert await ledger.roots(["both"]) == {"both": ("other", "root")}, "z has ended"
    for root in ("root", "other"):
        await ledger.end_root(root, NOW)
    assert await ledger.roots(["both"]) == {"both": ("other", "z")}, "all have"
